package store

import (
	"testing"
	"time"
)

// TestTheUsualLimits holds what everybody gets who opens a store: two calls of a lookup end within its 3 s, and a statement ends before
// its caller and its connection are given up. A batch of 500 users is halved some eight times within a statement's time when rows in it are
// locked.
func TestTheUsualLimits(t *testing.T) {
	if patience, err := time.ParseDuration(lockPatience); err != nil || 8*patience >= usual.statement {
		t.Errorf("locked rows are waited for for %s, %v", patience, err)
	}
	for _, url := range []string{"sqlite:x.db", "postgres://director@127.0.0.1/mail"} {
		db, err := Open(Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		all := map[string]limits{"the store": db.limits, "reads": db.reads.limits, "assignments": db.assigns.limits, "suspects": db.suspects.limits}
		if p, ok := db.database.(*postgres); ok {
			all["the connections"] = p.limits
		}
		for name, l := range all {
			if l.statement <= 0 || l.call <= l.statement || l.silence <= l.call || 2*l.call >= 3*time.Second || l != usual {
				t.Errorf("%s, %s: %+v", url, name, l)
			}
		}
	}
}
