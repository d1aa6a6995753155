package dovecot

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Version is a release series of Dovecot.
type Version string

// The series that the tests run.
const (
	V23 Version = "2.3"
	V24 Version = "2.4"
)

// Dir returns the directory of this module, deploy/e2e, and with elem a path below it.
func Dir(elem ...string) string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(append([]string{filepath.Dir(filepath.Dir(file))}, elem...)...)
}

// chroot24 makes the chroot of 2.4 once per test process.
var chroot24 = sync.OnceValues(func() (string, error) {
	var stderr bytes.Buffer
	cmd := exec.Command(Dir("dovecot24.sh"))
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("dovecot 2.4 is missing and cannot be made: %w: %s", err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
})

// command returns the command that runs a program of Dovecot's with arguments in namespaces of its own. It fails the test,
// with what to install, when this machine cannot.
func (v Version) command(tb testing.TB, program ...string) *exec.Cmd {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Fatal("the end-to-end tests start Dovecot on ports below 1024 and in a chroot: run them as root")
	}
	namespaces := []string{"--mount", "--pid", "--fork", "--kill-child", "--"}
	if v == V24 {
		dir, err := chroot24()
		if err != nil {
			tb.Fatal(err)
		}
		// The chroot sees the real /tmp, so that paths are the same on both sides.
		inside := append(namespaces, "sh", "-c", `mount --bind /tmp "$0/tmp" && exec chroot "$0" "$@"`, dir)
		return exec.Command("unshare", append(inside, program...)...)
	}
	out, err := exec.Command("dovecot", "--version").Output()
	if err != nil || !strings.HasPrefix(string(out), "2.3.") {
		tb.Fatalf("dovecot 2.3 is missing (dovecot --version: %q, %v): run 'apt-get install dovecot-core dovecot-imapd "+
			"dovecot-lmtpd dovecot-pop3d dovecot-auth-lua lua-cjson' on Debian 12", out, err)
	}
	return exec.Command("unshare", append(namespaces, program...)...)
}
