package program

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
)

// Clock is the wall clock of directors, which can be set: what is added to the machine's is in a file that they map into
// memory. Their monotonic clock goes on, as it does when an administrator sets a machine's clock or NTP steps it.
type Clock struct{ path string }

// clockFile names the file to a program that is built so.
const clockFile = "E2E_CLOCK_FILE"

// NewClock makes a clock that is right.
func NewClock(tb testing.TB) *Clock {
	tb.Helper()
	c := &Clock{filepath.Join(tb.TempDir(), "clock")}
	c.Set(tb, 0)
	return c
}

// Set makes the clock go ahead by so much, or behind.
func (c *Clock) Set(tb testing.TB, ahead time.Duration) {
	tb.Helper()
	// In place: the programs have mapped the file.
	f, err := os.OpenFile(c.path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(ahead/time.Second)), 0); err != nil {
		tb.Fatal(err)
	}
}

// Start is the package's Start for a director that has this clock.
func (c *Clock) Start(tb testing.TB, addr netip.Addr, arguments ...string) *Director {
	tb.Helper()
	path, err := clocked()
	if err != nil {
		tb.Fatal(err)
	}
	return start(tb, path, addr, []string{clockFile + "=" + c.path}, nil, arguments...)
}

// clocked builds the program with a standard library whose time.Now adds what a Clock says. Nothing else is changed.
var clocked = sync.OnceValues(func() (string, error) {
	dir := dovecot.Dir("..", "..", ".build", "clock")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	library := filepath.Join(string(bytes.TrimSpace(root)), "src", "time")
	text, err := os.ReadFile(filepath.Join(library, "time.go"))
	if err != nil {
		return "", err
	}
	const reads = "\tsec, nsec, mono := runtimeNow()\n"
	if bytes.Count(text, []byte(reads)) != 1 {
		return "", fmt.Errorf("time.Now of this Go does not have the one line %q: look at program/clock.go", strings.TrimSpace(reads))
	}
	overlay := map[string]string{}
	for name, text := range map[string]string{
		"time.go": strings.Replace(string(text), reads, reads+"\tsec += stepped()\n", 1),
		"step.go": step,
	} {
		replacement := filepath.Join(dir, name+".txt")
		if old, err := os.ReadFile(replacement); err != nil || string(old) != text {
			if err := os.WriteFile(replacement, []byte(text), 0o644); err != nil {
				return "", err
			}
		}
		overlay[filepath.Join(library, name)] = replacement
	}
	list, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), list, 0o644); err != nil {
		return "", err
	}
	return build("clock", "-overlay", filepath.Join(dir, "overlay.json"))
})

// step is the file that is added to the package time.
const step = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

// ahead is by how many seconds the clock is.
var ahead = func() *atomic.Int64 {
	path, found := syscall.Getenv("` + clockFile + `")
	if !found {
		return new(atomic.Int64)
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY, 0)
	if err != nil {
		panic("` + clockFile + `: " + err.Error())
	}
	mapped, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("` + clockFile + `: " + err.Error())
	}
	return (*atomic.Int64)(unsafe.Pointer(&mapped[0]))
}()

func stepped() int64 {
	if ahead == nil {
		return 0 // before this package is ready
	}
	return ahead.Load()
}
`
