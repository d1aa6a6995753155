package load_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
)

var soakFor = flag.Duration("soak", 30*time.Second, "how long two directors are watched under churn")

// measure is one figure of a director that has to stay as it is.
type measure struct {
	metric string
	title  string
	unit   float64
	// growth is how many times the first quarter's the last quarter's median may be, for chance.
	growth float64
}

var measures = []measure{
	{"go_goroutines", "goroutines", 1, 1.2},
	{"process_open_fds", "descriptors", 1, 1.2},
	{"go_memstats_next_gc_bytes", "heap goal, MB", 1 << 20, 1.3}, // twice of what was alive at the last collection
	{"process_resident_memory_bytes", "resident, MB", 1 << 20, 1.3},
}

// sample is what the directors' figures were at one moment, by measure, the sum over the directors.
type sample [4]float64

func (s *soak) sample(t *testing.T) (all sample) {
	t.Helper()
	for _, d := range s.directors {
		text, err := get(d, "/metrics")
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(text) {
			for i, m := range measures {
				if value, is := strings.CutPrefix(line, m.metric+" "); is {
					var v float64
					_, _ = fmt.Sscan(value, &v)
					all[i] += v / m.unit
				}
			}
		}
	}
	return all
}

// soak is what goes on while directors are watched.
type soak struct {
	*site
	directors []*program.Director
	churning  sync.WaitGroup
	answered  atomic.Int64
	lookups   atomic.Int64
	moves     atomic.Int64
	restarts  atomic.Int64
	rounds    atomic.Int64
}

// every does something again and again until ctx ends, with a pause after each time.
func (s *soak) every(ctx context.Context, pause time.Duration, do func()) {
	s.churning.Go(func() {
		for ctx.Err() == nil {
			do()
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	})
}

// churn lets happen what happens to a director in months: logins of old users and new ones, on connections that stay and others that do
// not, requests that make no sense, backends that come and go, moves, people who look at the status page, and restarts of the database.
func (s *soak) churn(t *testing.T, ctx context.Context, restart time.Duration) {
	for i := range 8 {
		kept := newClient(t, 1)
		s.every(ctx, 30*time.Millisecond, func() {
			c := kept
			if i%2 == 0 {
				c = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: kept.Timeout}
			}
			user := fmt.Sprintf("user-%d@example.org", rand.IntN(2*seeded))
			if rand.IntN(100) == 0 {
				user = strings.Repeat("x", 300)
			}
			s.lookups.Add(1)
			if lookup(c, s.directors[i/2%2], user).answered() {
				s.answered.Add(1)
			}
		})
		context.AfterFunc(ctx, kept.CloseIdleConnections)
	}
	s.every(ctx, 1500*time.Millisecond, func() {
		n := int(s.rounds.Add(1))
		numbers := []int{0, 1, 2, 3 + n%3}
		if n%4 == 0 {
			numbers = numbers[1:] // it is lost, and its users move
		}
		s.list(t, n%200, numbers...)
	})
	c := newClient(t, 2)
	s.every(ctx, 2*time.Second, func() {
		d := s.directors[rand.IntN(2)]
		url := fmt.Sprintf("%s/api/v1/users/user-%d@example.org/move", d.AdminURL(), rand.IntN(seeded))
		if r, err := c.Post(url, "application/json", strings.NewReader(`{"force":true}`)); err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			_ = r.Body.Close()
			if r.StatusCode < 300 {
				s.moves.Add(1)
			}
		}
	})
	context.AfterFunc(ctx, c.CloseIdleConnections)
	s.every(ctx, 0, func() {
		looking, leave := context.WithTimeout(ctx, time.Second)
		defer leave()
		request, err := http.NewRequestWithContext(looking, http.MethodGet, s.directors[0].OpsURL()+"/events", nil)
		if err != nil {
			t.Error(err)
			return
		}
		if r, err := http.DefaultTransport.RoundTrip(request); err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			_ = r.Body.Close()
		}
	})
	s.churning.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(restart):
			}
			if s.restarts.Add(1)%2 == 0 {
				s.server.Kill()
			} else {
				s.server.Stop()
			}
			s.server.Restart(t)
		}
	})
}

// rest ends the churn, waits until the directors have nothing to do, and returns how many goroutines they have, and descriptors but for
// those of connections to the database, of which there may be more or fewer.
func (s *soak) rest(t *testing.T, stop func(), most sample) (at sample) {
	t.Helper()
	stop()
	s.churning.Wait()
	before := sample{}
	await(t, "the directors come to rest", func() error {
		before, at = at, s.least(t)
		switch {
		case at[0] != before[0] || at[1] != before[1]:
			return fmt.Errorf("%v goroutines and %v descriptors, and a moment ago %v and %v", at[0], at[1], before[0], before[1])
		case most != (sample{}) && (at[0] > most[0] || at[1] > most[1]):
			return fmt.Errorf("%v goroutines and %v descriptors, and at the beginning %v and %v", at[0], at[1], most[0], most[1])
		}
		return nil
	})
	return at
}

// least is the least of each figure within a moment, in which they poll and write now and then.
func (s *soak) least(t *testing.T) (least sample) {
	t.Helper()
	for n := range 20 {
		time.Sleep(50 * time.Millisecond)
		now := s.sample(t)
		now[1] -= float64(s.count(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"))
		for i := range now {
			if n == 0 || now[i] < least[i] {
				least[i] = now[i]
			}
		}
	}
	return least
}

// Directors that have run for long, with everything around them changing, are as they were at the beginning: when they have nothing to do, not
// a goroutine and not a descriptor more; and while they are busy, all figures of the last quarter are those of the first, but for chance.
func TestSoak(t *testing.T) {
	t.Parallel()
	s := &soak{site: newSite(t, seeded)}
	if out, errs, code := program.Run(t, "migrate", "--database-url", s.database); code != 0 {
		t.Fatalf("migrate: %s%s", out, errs)
	}
	for n := range byte(2) {
		s.directors = append(s.directors, s.director(t, 1+n, "--restart-grace", "1s", "--failover-grace", "1s", "--panic-grace", "1s", "--log-level", "error",
			"--remembered-users", "1000", "--replica-name", fmt.Sprint("director-", n)))
	}
	restart, every := min(*soakFor/5, time.Minute), min(*soakFor/200, 5*time.Second)

	// All that is made once is made in the warm-up.
	warm, stop := context.WithCancel(t.Context())
	s.churn(t, warm, *soakFor/10)
	select {
	case <-t.Context().Done():
	case <-time.After(min(*soakFor/4, time.Minute)):
	}
	rested := s.rest(t, stop, sample{})

	soaking, stop := context.WithTimeout(t.Context(), *soakFor)
	defer stop()
	s.churn(t, soaking, restart)
	var samples []sample
	for soaking.Err() == nil {
		samples = append(samples, s.sample(t))
		select {
		case <-soaking.Done():
		case <-time.After(every):
		}
	}
	first, last := median(samples[:len(samples)/4]), median(samples[len(samples)*3/4:])
	s.table(first, last, len(samples))
	for i, m := range measures {
		if last[i] > m.growth*first[i] {
			t.Errorf("%s: %.1f in the first quarter and %.1f in the last", m.title, first[i], last[i])
		}
	}
	if s.answered.Load() < s.lookups.Load()/4 || s.moves.Load() == 0 || s.restarts.Load() == 0 || s.rounds.Load() == 0 {
		t.Errorf("there was no churn: %+v", s.numbers())
	}
	s.rest(t, stop, rested)
}

func (s *soak) numbers() string {
	return fmt.Sprintf("%d lookups, %d of them answered with a backend; %d moves, %d restarts of the database, %d changes of the backends", s.lookups.Load(), s.answered.Load(),
		s.moves.Load(), s.restarts.Load(), s.rounds.Load())
}

// table prints what was seen.
func (s *soak) table(first, last sample, samples int) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "two directors\tfirst quarter\tlast quarter\tratio")
	for i, m := range measures {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.2f\n", m.title, first[i], last[i], last[i]/first[i])
	}
	_ = w.Flush()
	fmt.Printf("medians of %d samples in %s; %s\n", samples, *soakFor, s.numbers())
}

// median is that of each figure.
func median(samples []sample) (all sample) {
	for i := range measures {
		var values []float64
		for _, s := range samples {
			values = append(values, s[i])
		}
		slices.Sort(values)
		all[i] = values[len(values)/2]
	}
	return all
}
