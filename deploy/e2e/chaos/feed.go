package chaos

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/history"
)

// feed is the file of backends of one replica. It knows when the replica has read it: the kernel tells who opens a file, so
// that nothing has to be assumed of how fast a busy machine is.
type feed struct {
	replica string
	path    string
	history *history.History

	mu     sync.Mutex
	listed map[string]listing
}

type listing struct {
	state history.State
	addr  netip.Addr
}

// newFeed makes an empty feed that is watched until the test ends.
func newFeed(tb testing.TB, replica string, h *history.History) *feed {
	tb.Helper()
	f := &feed{replica: replica, path: filepath.Join(tb.TempDir(), "backends.yaml"), history: h, listed: map[string]listing{}}
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(f.path), unix.IN_OPEN|unix.IN_MOVED_TO); err != nil {
		tb.Fatal(err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	watched := make(chan error, 1)
	go func() { watched <- f.watch(watch) }()
	tb.Cleanup(func() {
		watch.Close()
		if err := <-watched; !errors.Is(err, os.ErrClosed) {
			tb.Errorf("watching the feed of %s: %v", replica, err)
		}
	})
	return f
}

// watch notes when the replica reads what.
func (f *feed) watch(events *os.File) error {
	buffer := make([]byte, 64<<10)
	there := 0 // how many were written before what is opened now
	for {
		n, err := events.Read(buffer)
		if err != nil {
			return err
		}
		for rest := buffer[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			mask, length := binary.NativeEndian.Uint32(rest[4:]), binary.NativeEndian.Uint32(rest[12:])
			name := strings.TrimRight(string(rest[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+length]), "\x00")
			rest = rest[unix.SizeofInotifyEvent+length:]
			switch {
			case mask&unix.IN_Q_OVERFLOW != 0:
				return errors.New("events were lost")
			case name != filepath.Base(f.path):
			case mask&unix.IN_MOVED_TO != 0:
				there++
			default:
				f.history.Seen(f.history.Now(), f.replica, there)
			}
		}
	}
}

// tell changes one backend in the feed. Files are replaced as a whole, as editors and ConfigMaps do.
func (f *feed) tell(backend string, l listing) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed[backend] = l
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(f.listed)) {
		if b := f.listed[name]; b.state != history.Gone {
			fmt.Fprintf(&text, "- {name: %s, address: %s, ready: %t}\n", name, b.addr, b.state == history.Ready)
		}
	}
	if text.Len() == 0 {
		text.WriteString("[]\n")
	}
	next := f.path + ".next"
	if err := os.WriteFile(next, []byte(text.String()), 0o600); err != nil {
		return err
	}
	f.history.Feed(f.history.Now(), f.replica, backend, l.state, l.addr)
	return os.Rename(next, f.path)
}
