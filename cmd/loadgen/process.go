package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// readyLimit is how long a program may take to start.
const readyLimit = 30 * time.Second

// process is a server that was started here.
type process struct {
	cmd    *exec.Cmd
	output bytes.Buffer
}

// start runs a program until stop, or until this one ends.
func start(path string, arguments ...string) (*process, error) {
	p := &process{cmd: exec.Command(path, arguments...)}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return p, p.cmd.Start()
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// waitFor waits until url answers with 200.
func (p *process) waitFor(url string) error {
	for deadline := time.Now().Add(readyLimit); ; time.Sleep(20 * time.Millisecond) {
		answer, err := http.Get(url)
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("status %s", answer.Status)
		}
		if time.Now().After(deadline) {
			p.stop() // what it has printed is complete then
			return fmt.Errorf("%s does not answer: %w\n%s", url, err, p.output.Bytes())
		}
	}
}

// cpuTime is the CPU time that processes have taken, from /proc/PID/stat (proc(5): in ticks of 10 ms).
func cpuTime(pids []int) time.Duration {
	var ticks uint64
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The name in parentheses may hold anything; utime and stime are the 12th and 13th field after it.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		for _, f := range fields[11:13] {
			n, _ := strconv.ParseUint(f, 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// resident is a process' resident memory in bytes.
func (p *process) resident() int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(string(status)) {
		var kB int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kB); err == nil {
			return kB << 10
		}
	}
	return 0
}

// freeAddress is an address of this machine that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
