package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
)

// longGrace is longer than any test: what is in grace stays there. shortGrace is over when a test looks again.
const (
	longGrace  = "1h"
	shortGrace = "2s"
)

// held waits until a director holds user, as it does from the moment that it knows of the lost backend.
func held(t *testing.T, d *program.Director, user string) {
	t.Helper()
	eventually(t, user+" is held", func() error {
		got, err := d.Ask(t.Context(), user)
		if err == nil && got.Code != -1 {
			err = fmt.Errorf("got %+v", got)
		}
		return err
	})
}

// endpointsFile is the file that directors take their backends from.
type endpointsFile struct{ path string }

// write replaces the file in one step by a manifest of these backends, as the API server would show it.
func (f endpointsFile) write(t *testing.T, named bool, backends ...*dovecot.Server) {
	t.Helper()
	var text strings.Builder
	text.WriteString("apiVersion: v1\nkind: Endpoints\nmetadata:\n  name: dovecot-backend\nsubsets:\n")
	for _, b := range backends {
		fmt.Fprintf(&text, "- addresses:\n  - ip: %s\n    targetRef:\n      kind: Pod\n      name: %s\n", b.Addr, b.Name)
		if named {
			fmt.Fprintf(&text, "  ports:\n  - name: imap\n    port: %d\n  - name: pop3\n    port: %d\n  - name: lmtp\n    port: %d\n",
				b.Ports.IMAP, b.Ports.POP3, b.Ports.LMTP)
		}
	}
	if err := os.WriteFile(f.path+".new", []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		t.Fatal(err)
	}
}
