package director_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// tally takes down what it is told.
type tally struct {
	mu   sync.Mutex
	told []string
}

func (t *tally) tell(what string, about any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told = append(t.told, fmt.Sprint(what, " ", about))
}

func (t *tally) Assigned(r director.Reason)   { t.tell("assigned", r) }
func (t *tally) Moved(r director.Reason)      { t.tell("moved", r) }
func (t *tally) Undone(r director.Reason)     { t.tell("undone", r) }
func (t *tally) RingBuilt(took time.Duration) { t.tell("ring", took) }

func (t *tally) is(test *testing.T, want ...string) {
	test.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Equal(t.told, want) {
		test.Errorf("%q, want %q", t.told, want)
	}
}

func TestTally(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told tally
		b := newBench(t, newMemory(), func(c *director.Config) {
			c.Tally = &told
			build := c.BuildRing
			c.BuildRing = func(m []director.Member) director.Ring {
				time.Sleep(50 * time.Millisecond)
				return build(m)
			}
		})
		b.prove = true
		b.see(backends(3))
		b.see(backends(3))
		told.is(t, "ring 50ms")
		b.store.put("ada", backend(2).Name)
		b.store.put("old", backend(1).Addr.String())
		for _, user := range []string{"new", "new", "ada", "old"} {
			b.lookup(user)
		}
		told.is(t, "ring 50ms", "assigned proposed", "assigned renamed")
		b.see(backends(2))
		time.Sleep(graces.Restart)
		b.lookup("ada")
		told.is(t, "ring 50ms", "assigned proposed", "assigned renamed", "ring 50ms", "assigned placed", "moved placed")
	})
}

// TestOutcomesAreAll holds that what the policy's table decides is among what can be counted.
func TestOutcomesAreAll(t *testing.T) {
	table, err := os.ReadFile("testdata/policy.golden")
	if err != nil {
		t.Fatal(err)
	}
	verbs := map[string]director.Verb{"serve": director.Serve, "hold": director.Hold, "unavailable": director.Unavailable, "reject": director.Reject}
	rows := regexp.MustCompile(`(?m)^  .*  (serve|assign|hold|unavailable|reject) +(\w+)`).FindAllStringSubmatch(string(table), -1)
	for _, row := range rows {
		reason := director.Reason(row[2])
		verb, ok := verbs[row[1]]
		if !ok && !slices.Contains(director.AssignReasons, reason) || !slices.Contains(director.Outcomes[verb], reason) {
			t.Errorf("%s %s is not counted", row[1], reason)
		}
	}
	if len(rows) < 50 {
		t.Errorf("the table has %d rows", len(rows))
	}
}

// sights is a ledger that is looked at.
type sights struct {
	errand
	replicas []director.Replica
	err      error
	looks    int
}

func (s *sights) Replicas(context.Context) ([]director.Replica, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	return s.replicas, s.err
}

// looked is how often it was looked at, and the store counted.
func (s *sights) looked(b *bench) (looks, counts int) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	return s.looks, b.store.counts
}

func TestMonitor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory())
		s := &sights{err: errors.New("down")}
		s.tasks = []director.Task{{Kind: director.Evacuate, Backend: backend(0).Name, Total: 9}, {Kind: director.Rebalance, Total: 9, Paused: true}}
		m := director.NewMonitor(director.MonitorConfig{Director: b.Director, Tasks: s, Replica: "me"})
		if v := m.Vitals(); v.View != nil || v.Backends != nil || v.Ledger != nil || v.Counted {
			t.Errorf("%+v", v)
		}
		b.see(backends(4))
		for i, users := range []int{1, 1, 4, 1} {
			for n := range users {
				b.store.put(fmt.Sprintf("user-%d-%d", i, n), backend(i).Name)
			}
		}
		b.store.put("by-address", backend(1).Addr.String())
		b.store.put("elsewhere", "gone-7")
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for _, run := range []func(context.Context) error{m.Run, b.Run} {
			running.Go(func() {
				if err := run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if v := m.Vitals(); v.Ledger != nil || !v.Counted || v.Elsewhere != 1 || len(v.Backends) != 4 || v.Backends[1].Users != 2 || v.UserPeak != 2 || v.SessionPeak != 0 || v.Waiting != 0 {
			t.Errorf("%+v", v)
		}
		s.mu.Lock()
		s.replicas = []director.Replica{{Name: "me", Fingerprint: "a", Silent: time.Second}, {Name: "other", Fingerprint: "b"}, {Name: "dead", Fingerprint: "b", Silent: time.Minute}}
		s.err = nil
		s.mu.Unlock()
		time.Sleep(1500 * time.Millisecond)
		l := m.Vitals().Ledger
		if l == nil || l.Replicas != 3 || l.Disagreeing != 1 || l.Silent != time.Minute || len(l.Tasks) != 2 ||
			l.Tasks[0] != (director.TaskVitals{Kind: director.Evacuate, Backend: backend(0).Name, Left: 1}) || l.Tasks[1] != (director.TaskVitals{Kind: director.Rebalance, Paused: true, Left: 2}) {
			t.Errorf("%+v", l)
		}

		// However often it is asked, the store is not.
		looked, counted := s.looked(b)
		b.see(without(backends(4), 2))
		b.Obey(director.Orders{Standings: []director.Standing{{Backend: backend(3).Name, State: director.Standby}}, Moving: []string{"user-0-0"}})
		synctest.Wait()
		counted++ // a loss has users counted
		for range 100 {
			m.Vitals()
		}
		v := m.Vitals()
		looks, counts := s.looked(b)
		if v.Waiting != 4 || v.Moving != 1 || v.Panic || v.Backends[2].Alive || v.Backends[2].Cause != director.Planned || v.Backends[2].Grace != graces.Restart || !v.Backends[2].Waits ||
			v.Backends[3].State != director.Standby || v.Backends[3].Weight != 0 || counts != counted || looks != looked {
			t.Errorf("%+v, counted %d times of %d, looked %d times of %d", v, counts, counted, looks, looked)
		}
		time.Sleep(10 * time.Minute)
		if looks, counts = s.looked(b); counts-counted != 10 || looks-looked != 40 {
			t.Errorf("counted %d times in ten minutes, looked %d times", counts-counted, looks-looked)
		}
		if v := m.Vitals(); v.Waiting != 0 || v.Backends[2].Waits || v.Backends[2].Grace != 0 || v.Backends[2].Users != 4 {
			t.Errorf("when the wait is over: %+v", v)
		}
		cancel()
		running.Wait()
	})
}

// TestMonitorForgetsWhoWasScaledAway holds that a backend is not shown any more that is wanted no longer, has ended and has no users.
func TestMonitorForgetsWhoWasScaledAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory())
		m := director.NewMonitor(director.MonitorConfig{Director: b.Director})
		b.store.put("ada", backend(1).Name)
		set := director.StatefulSet{Name: "dovecot-backend", Replicas: 3, Termination: time.Minute}
		see := func(n int) {
			set.Replicas = n
			b.Observe(director.Snapshot{Backends: backends(n), StatefulSets: []director.StatefulSet{set}, CurrentAt: time.Now()})
		}
		see(3)
		see(1)
		b.Recount(t.Context())
		if v := m.Vitals(); len(v.Backends) != 3 {
			t.Errorf("%+v", v)
		}
		time.Sleep(time.Hour)
		if v := m.Vitals(); len(v.Backends) != 2 || v.Backends[1].Cause != director.Removed || v.Backends[1].Users != 1 || v.Elsewhere != 0 {
			t.Errorf("%+v", v)
		}
	})
}
