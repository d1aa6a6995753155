package chaos_test

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/chaos"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/history"
)

var (
	seedFlag = flag.Uint64("chaos.seed", 0, "repeat the run of this seed; 0 for a new one")
	timeFlag = flag.Duration("chaos.time", 15*time.Second, "how long the churn lasts")
)

// seed is the seed of this run. Each site prints it.
var seed = sync.OnceValue(func() uint64 { return cmp.Or(*seedFlag, rand.Uint64()) })

// catchLimit is how long a broken build may go undetected.
const catchLimit = 10 * time.Minute

// Backends come and go, replicas hear of it late, users are moved: every user has one backend at a time, and no mapping is lost. That
// this says something is shown first: builds that are broken are caught by the same.
func TestHistory(t *testing.T) {
	catches := make([]catch, len(mutants))
	t.Run("broken", func(t *testing.T) {
		for i, m := range mutants {
			t.Run(m.name, func(t *testing.T) {
				t.Parallel()
				catches[i] = caught(t, chaos.Options{Seed: seed(), Program: m.build(t)})
			})
		}
	})
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "broken build\tcaught after lookups\tseconds\tby the rule")
	var longest time.Duration
	for i, c := range catches {
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%s\n", mutants[i].name, c.lookups, c.took.Seconds(), c.rule)
		longest = max(longest, c.took)
	}
	w.Flush()
	t.Run("as it is", func(t *testing.T) {
		s := chaos.New(t, chaos.Options{Seed: seed()})
		s.Go(t)
		time.Sleep(max(*timeFlag, longest))
		want(t, s.Finish(t))
	})
}

// A director that is cut off from PostgreSQL serves from memory whom it knows, while the others move users. Nobody gets two backends by
// that, whether its connections end or fall silent.
func TestCutOff(t *testing.T) {
	s := chaos.New(t, chaos.Options{Seed: seed()})
	s.Go(t)
	time.Sleep(*timeFlag / 3)
	refused := s.Strike(t, chaos.Fault{
		Name:  "connections to PostgreSQL refused",
		Begin: func(_ testing.TB, s *chaos.Site) { s.Directors[0].Link.Cut() },
		End:   func(tb testing.TB, s *chaos.Site) { s.Directors[0].Link.Restore(tb) },
	}, *timeFlag/3)
	silent := s.Strike(t, chaos.Fault{
		Name:  "connections to PostgreSQL silent",
		Begin: func(tb testing.TB, s *chaos.Site) { s.Directors[1].Link.Poison(tb, "timeout", "downstream", nil) },
		End:   func(tb testing.TB, s *chaos.Site) { s.Directors[1].Link.Restore(tb) },
	}, *timeFlag/3)
	want(t, s.Finish(t, &refused, &silent))
	for _, r := range []chaos.Result{refused, silent} {
		t.Log(r)
		if r.Unavailable == 0 {
			t.Errorf("%s: nobody noticed", r.Fault)
		}
	}
}

// caught expects that a broken build gives users a second backend, and that this is found out. It returns what it took.
func caught(t *testing.T, o chaos.Options) catch {
	t.Helper()
	s := chaos.New(t, o)
	s.Go(t)
	for begun := time.Now(); time.Since(begun) < catchLimit; time.Sleep(500 * time.Millisecond) {
		for _, v := range s.History.Check().Violations {
			if v.Rule == history.RuleMoved {
				took := time.Since(begun)
				t.Logf("caught after %.1f s\n%s", took.Seconds(), v.Text)
				return catch{took, s.History.Count(0, v.At).Lookups, v.Rule}
			}
		}
	}
	t.Fatalf("it was not caught within %s: %s", catchLimit, s.Finish(t))
	return catch{}
}

// catch is what it took to find out that a build is broken.
type catch struct {
	took    time.Duration
	lookups int
	rule    string
}

// want expects that nothing was wrong, and that there was something to be right.
func want(t *testing.T, r chaos.Result) {
	t.Helper()
	right(t, r)
	if r.Answered == 0 || r.Held == 0 || r.Moves == 0 {
		t.Errorf("%d were answered, %d held, and %d moved: that is too little to say anything", r.Answered, r.Held, r.Moves)
	}
}

// right expects that nothing was wrong.
func right(t *testing.T, r chaos.Result) {
	t.Helper()
	t.Log(r)
	for i, v := range r.Violations {
		if i == 5 {
			t.Errorf("and %d more", len(r.Violations)-i)
			break
		}
		t.Error(v.Text)
	}
}
