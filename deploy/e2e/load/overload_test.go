package load_test

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
)

// seeded is how many users have a row. Each is asked for once in a round, so that they do not share one.
const seeded = 20_000

// lanes is how many statements a director reads by at once.
const lanes = 4

// slowDown lets the database take so long for each user who is read. It returns how many lookups can be answered in a second, or could be if
// nobody overslept. Nothing else is slow, the machine least of all.
func (s *site) slowDown(tb testing.TB, each time.Duration) (capacity float64) {
	tb.Helper()
	for _, statement := range []string{
		"ALTER TABLE mailbox_username_backend RENAME TO real_users",
		fmt.Sprintf("CREATE FUNCTION slow(varchar) RETURNS boolean LANGUAGE plpgsql VOLATILE COST 1000000 AS 'BEGIN PERFORM pg_sleep(%f); RETURN true; END'", each.Seconds()),
		"CREATE VIEW mailbox_username_backend AS SELECT username, backend, last_ts FROM real_users WHERE slow(username)",
	} {
		s.exec(tb, statement)
	}
	return lanes / each.Seconds()
}

// renewAll writes all rows anew, as a director that has just been started does with each that it reads. From then on it only reads.
func (s *site) renewAll(tb testing.TB) {
	tb.Helper()
	s.exec(tb, "UPDATE real_users SET last_ts = now()")
}

// crowd is what became of lookups that were offered at a steady pace.
type crowd struct {
	offered           float64 // a second
	length            time.Duration
	answered, refused []time.Duration // how long each took, sorted
	failed            []reply         // the rest
}

// offer sends lookups at a pace for a time, whether those before have been answered or not, as users do.
func offer(c *http.Client, d *program.Director, perSecond float64, length time.Duration) crowd {
	replies := make([]reply, int(perSecond*length.Seconds()))
	var asking sync.WaitGroup
	begun := time.Now()
	for i := range replies {
		time.Sleep(time.Until(begun.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))))
		asking.Go(func() { replies[i] = lookup(c, d, fmt.Sprintf("user-%d@example.org", i%seeded)) })
	}
	sent := time.Since(begun)
	asking.Wait()
	o := crowd{offered: float64(len(replies)) / sent.Seconds(), length: time.Since(begun)}
	for _, r := range replies {
		switch {
		case r.answered():
			o.answered = append(o.answered, r.took)
		case r.refused():
			o.refused = append(o.refused, r.took)
		default:
			o.failed = append(o.failed, r)
		}
	}
	slices.Sort(o.answered)
	slices.Sort(o.refused)
	return o
}

// goodput is how many were answered in a second.
func (o crowd) goodput() float64 { return float64(len(o.answered)) / o.length.Seconds() }

// at is a percentile of sorted times, 0 of none.
func at(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)-1)*percent/100]
}

// With twice as many lookups as can be answered, as many are answered as can be, in a time that is bounded, and the rest are refused at
// once. Probes are answered, the director stays ready, and afterwards all is as it was.
func TestOverload(t *testing.T) {
	t.Parallel()
	s := newSite(t, seeded)
	capacity := s.slowDown(t, 10*time.Millisecond)
	d := s.director(t, 1)
	s.renewAll(t)
	c := newClient(t, 2000)
	// A machine that stands still gets all the lookups of that time at once afterwards, and nobody can answer those: it is tried again.
	for tries := 5; ; tries-- {
		begun := time.Now()
		faults := overload(t, c, d, capacity)
		if len(faults) == 0 {
			return
		}
		if tries == 1 || !program.StoodStill(begun) {
			t.Fatal(strings.Join(faults, "\n"))
		}
		t.Logf("the machine stood still: %s", faults)
	}
}

// overload overloads a director, and says what is wrong with what comes of it.
func overload(t *testing.T, c *http.Client, d *program.Director, capacity float64) (faults []string) {
	fault := func(format string, a ...any) { faults = append(faults, fmt.Sprintf(format, a...)) }
	calm := offer(c, d, capacity/8, 3*time.Second)
	if len(calm.refused)+len(calm.failed) > 0 {
		fault("%d refused and %d failed at an eighth of what can be answered, as %v", len(calm.refused), len(calm.failed), calm.failed[:min(1, len(calm.failed))])
		return faults
	}

	before := metric(t, d, "dovecot_director_lookups_total", `reason="overload"`)
	stop, probed := make(chan struct{}), make(chan []string)
	go func() {
		var late []string
		defer func() { probed <- late }()
		for {
			for _, path := range []string{"/readyz", "/healthz", "/metrics"} {
				if _, err := get(d, path); err != nil {
					late = append(late, fmt.Sprintf("in overload: %v", err))
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	crowded := offer(c, d, 2*capacity, 6*time.Second)
	close(stop)
	faults = append(faults, <-probed...)
	t.Logf("calm: median %s; overload: %s", at(calm.answered, 50), crowded.line(at(calm.answered, 50), capacity))
	if crowded.goodput() < 0.6*capacity {
		fault("%.0f a second are answered, and %.0f could be", crowded.goodput(), capacity)
	}
	if n := len(crowded.failed); n > len(crowded.answered)/20 {
		fault("%d lookups failed in other ways than by being refused, as: %s", n, crowded.failed[0])
	}
	if len(crowded.refused) < len(crowded.answered)/2 {
		fault("%d were answered and only %d refused", len(crowded.answered), len(crowded.refused))
	}
	if refused, answered := at(crowded.refused, 50), at(crowded.answered, 50); 4*refused > answered {
		fault("to be refused takes %s, to be answered %s: that is not at once", refused, answered)
	}
	if ratio := float64(at(crowded.answered, 99)) / float64(at(calm.answered, 50)); ratio > 100 {
		fault("in overload, 99 of 100 are answered within %.0f times what is usual", ratio)
	}
	if counted := metric(t, d, "dovecot_director_lookups_total", `reason="overload"`) - before; counted != float64(len(crowded.refused)) {
		fault("%.0f are counted as refused, and %d were", counted, len(crowded.refused))
	}

	after := offer(c, d, capacity/8, 2*time.Second)
	if len(after.refused)+len(after.failed) > 0 {
		fault("after it: %d refused, %d failed", len(after.refused), len(after.failed))
	}
	if ratio := float64(at(after.answered, 50)) / float64(at(calm.answered, 50)); ratio > 5 {
		fault("after it, lookups take %.1f times as long as before", ratio)
	}
	return faults
}

// line is one of the table: times of the median when it is calm.
func (o crowd) line(calm time.Duration, capacity float64) string {
	all := float64(len(o.answered) + len(o.refused) + len(o.failed))
	of := func(d time.Duration) float64 { return float64(d) / float64(calm) }
	return fmt.Sprintf("%.1f\t%.2f\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f", o.offered/capacity, o.goodput()/capacity, 100*float64(len(o.refused))/all, 100*float64(len(o.failed))/all,
		of(at(o.answered, 50)), of(at(o.answered, 99)), of(at(o.refused, 99)))
}

// BenchmarkOverload prints a table of what is offered, and what comes of it, on databases of two speeds.
func BenchmarkOverload(b *testing.B) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\ncapacity/s\toffered\tanswered\trefused %\tfailed %\tp50\tp99\tp99 of the refused\t")
	for _, each := range []time.Duration{5 * time.Millisecond, 2 * time.Millisecond} {
		s := newSite(b, seeded)
		capacity := s.slowDown(b, each)
		d := s.director(b, 1)
		s.renewAll(b)
		c := newClient(b, 4000)
		calm := time.Duration(0)
		for _, times := range []float64{0.125, 0.5, 1, 2, 4} {
			o := offer(c, d, times*capacity, 10*time.Second)
			if calm == 0 {
				calm = at(o.answered, 50)
			}
			fmt.Fprintf(w, "%.0f\t%s\t\n", capacity, o.line(calm, capacity))
		}
	}
	fmt.Fprintln(w, "offered and answered as a share of the capacity; p50 and p99 as multiples of the median at an eighth of it\t")
	_ = w.Flush()
}
