package e2e_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
)

// versions are the two series of Dovecot that are supported.
var versions = []dovecot.Version{dovecot.V23, dovecot.V24}

func TestMain(m *testing.M) {
	flag.Parse()
	// These tests wait for servers most of the time, so there may be more at once than there are processors.
	if err := flag.Set("test.parallel", "24"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(run(m))
}

// run is TestMain with room for deferred calls.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "director-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer os.RemoveAll(dir)
	builds.dir, builds.cmd = dir, map[string]string{}
	return m.Run()
}

// patience is how long a test waits for something that is expected to happen. It says nothing about how fast it should be.
const patience = 3 * time.Minute

// eventually repeats check until it returns nil; after patience its last error fails the test.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	eventuallyWithin(t, patience, what, check)
}

// eventuallyWithin is eventually for what takes longer.
func eventuallyWithin(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %s: %v", what, limit, err)
}

// wantKind compares an error of a mail client with the kind of failure that is expected.
func wantKind(t *testing.T, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("got %v, want: %v", err, kind)
	}
}

// noCrashes fails the test for each crashed process of the servers.
func noCrashes(t *testing.T, servers ...*dovecot.Server) {
	t.Helper()
	for _, s := range servers {
		for _, line := range s.Crashes() {
			t.Errorf("%s: crash: %s", s.Name, line)
		}
	}
}
