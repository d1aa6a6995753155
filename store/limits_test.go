package store

import (
	"testing"
	"time"
)

// TestTheUsualLimits holds what everybody gets who opens a store: two calls of a lookup end within its 3 s, and a statement ends before
// its caller and its connection are given up.
func TestTheUsualLimits(t *testing.T) {
	for _, url := range []string{"sqlite:x.db", "postgres://director@127.0.0.1/mail"} {
		db, err := Open(Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for name, l := range map[string]limits{"the store": db.limits, "reads": db.reads.limits, "assignments": db.assigns.limits, "suspects": db.suspects.limits} {
			if l.statement <= 0 || l.call <= l.statement || l.silence <= l.call || 2*l.call >= 3*time.Second || l != usual {
				t.Errorf("%s, %s: %+v", url, name, l)
			}
		}
	}
}
