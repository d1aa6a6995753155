package chaos_test

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/chaos"
)

var (
	seedFlag = flag.Uint64("chaos.seed", 0, "repeat the run of this seed; 0 for a new one")
	timeFlag = flag.Duration("chaos.time", 15*time.Second, "how long the churn lasts")
)

// seed is the seed of this run. It is printed by each site.
func seed() uint64 {
	if *seedFlag == 0 {
		return rand.Uint64()
	}
	return *seedFlag
}

// Backends come and go, replicas hear of it late, users are moved: every user has one backend at a time, and no mapping is lost.
func TestHistory(t *testing.T) {
	s := chaos.New(t, chaos.Options{Seed: seed()})
	s.Go(t)
	time.Sleep(*timeFlag)
	want(t, s.Finish(t))
}

// want expects that nothing was wrong, and that there was something to be right.
func want(t *testing.T, r chaos.Result) {
	t.Helper()
	t.Log(r)
	for i, v := range r.Violations {
		if i == 5 {
			t.Errorf("and %d more", len(r.Violations)-i)
			break
		}
		t.Error(v.Text)
	}
	if r.Answered < 1000 || r.Held == 0 || r.Moves == 0 {
		t.Errorf("%d were answered, %d held, and %d moved: that is too little to say anything", r.Answered, r.Held, r.Moves)
	}
}
