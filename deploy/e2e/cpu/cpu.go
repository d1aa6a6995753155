// Package cpu tells how much processor time processes use: a measure that other load on the machine disturbs little.
package cpu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the kernel's unit of processor time in /proc, the same on all of Go's architectures.
const tick = 10 * time.Millisecond

// Of returns the processor time that a running process and all its running descendants have used so far.
func Of(root int) (time.Duration, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	used := map[int]time.Duration{}
	children := map[int][]int{}
	for _, path := range paths {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended since
		}
		// PID (NAME) STATE PARENT ..., user and system time as fields 14 and 15; a name may hold anything.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		pid, err1 := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parent, err2 := strconv.Atoi(fields[1])
		user, err3 := strconv.Atoi(fields[11])
		system, err4 := strconv.Atoi(fields[12])
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		used[pid] = time.Duration(user+system) * tick
		children[parent] = append(children[parent], pid)
	}
	var sum func(pid int) time.Duration
	sum = func(pid int) time.Duration {
		total := used[pid]
		for _, child := range children[pid] {
			total += sum(child)
		}
		return total
	}
	return sum(root), nil
}
