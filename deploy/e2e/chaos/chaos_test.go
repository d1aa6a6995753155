package chaos_test

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/chaos"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/history"
)

var (
	seedFlag = flag.Uint64("chaos.seed", 0, "repeat the run of this seed; 0 for a new one")
	timeFlag = flag.Duration("chaos.time", 15*time.Second, "how long the churn lasts")
)

// seed is the seed of this run. Each site prints it.
func seed() uint64 {
	if *seedFlag == 0 {
		*seedFlag = 1 + rand.Uint64N(1<<32)
	}
	return *seedFlag
}

// catchLimit is how long a broken build may go undetected.
const catchLimit = time.Minute

// Backends come and go, replicas hear of it late, users are moved: every user has one backend at a time, and no mapping is lost. That
// this says something is shown first: builds that are broken are caught by the same.
func TestHistory(t *testing.T) {
	lasting := *timeFlag
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			took := caught(t, chaos.Options{Seed: seed(), Program: m.build(t)})
			lasting = max(lasting, took)
		})
	}
	t.Run("as it is", func(t *testing.T) {
		s := chaos.New(t, chaos.Options{Seed: seed()})
		s.Go(t)
		time.Sleep(lasting)
		want(t, s.Finish(t))
	})
}

// caught expects that a broken build gives users a second backend, and that this is found out. It returns how long it took.
func caught(t *testing.T, o chaos.Options) time.Duration {
	t.Helper()
	s := chaos.New(t, o)
	s.Go(t)
	for begun := time.Now(); time.Since(begun) < catchLimit; time.Sleep(500 * time.Millisecond) {
		for _, v := range s.History.Check().Violations {
			if v.Rule == history.RuleMoved {
				took := time.Since(begun)
				t.Logf("caught after %.1f s\n%s", took.Seconds(), v.Text)
				return took
			}
		}
	}
	t.Fatalf("it was not caught within %s: %s", catchLimit, s.Finish(t))
	return 0
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
