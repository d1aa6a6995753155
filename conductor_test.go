package director_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// errand is a store of tasks, in front of a memory that moves users at once. It implements Tasks and Sessions.
type errand struct {
	store *memory

	mu        sync.Mutex
	tasks     []director.Task
	follower  bool // another replica leads
	settled   map[string]bool
	connected map[string]bool
	down      bool // the backends cannot be asked
	silent    time.Duration
	begun     []director.Move
	times     []time.Time
	ended     []string
	why       string // of the last
	woken     int    // how often a mover was
	stood     []director.Standing
	notes     []string
	begins    time.Time
	// slow is how long a move takes. Every third is given up if they are fickle.
	slow   time.Duration
	fickle bool
	moving map[string]director.Move
	undone map[string]bool
	atEnd  func() // may be nil
}

func (e *errand) Lead(context.Context) (bool, error) { return !e.follower, nil }

func (e *errand) Tasks(context.Context) ([]director.Task, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	tasks := slices.Clone(e.tasks)
	for i := range tasks {
		if tasks[i].By > 0 {
			tasks[i].By -= time.Since(e.begins)
		}
	}
	return tasks, nil
}

func (e *errand) Order(_ context.Context, t director.Task, s *director.Standing) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s != nil {
		e.stood = append(e.stood, *s)
	}
	e.tasks = append(e.tasks, t)
	return nil
}

func (e *errand) End(_ context.Context, name, _, why string) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended, e.why = append(e.ended, name), why
	if e.atEnd != nil {
		e.atEnd()
	}
	before := len(e.tasks)
	e.tasks = slices.DeleteFunc(e.tasks, func(t director.Task) bool { return t.Name() == name })
	return len(e.tasks) < before, nil
}

func (e *errand) Residents(_ context.Context, backends []string) (residents []director.Resident, err error) {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	for user, row := range e.store.rows {
		if slices.Contains(backends, row.backend) {
			r := director.Resident{User: user, Backend: row.backend, Stays: e.undone[user]}
			if m, ok := e.moving[user]; ok {
				r.Backend, r.Moving, r.Stays = m.To, m.Reason, true
			}
			residents = append(residents, r)
		}
	}
	slices.SortFunc(residents, func(a, b director.Resident) int { return strings.Compare(a.User, b.User) })
	return residents, nil
}

func (e *errand) Balanced(context.Context, time.Duration) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.begun), nil
}

func (e *errand) Note(_ context.Context, n director.Entry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.notes = append(e.notes, n.Note)
	return nil
}

func (e *errand) Replicas(context.Context) ([]director.Replica, error) {
	return []director.Replica{{Name: "living"}, {Name: "other", Silent: e.silent}}, nil
}

func (e *errand) Settled(context.Context, time.Duration) (map[string]bool, error) {
	return e.settled, nil
}

func (e *errand) Begin(_ context.Context, m director.Move, _ time.Duration) (director.Move, error) {
	if e.store.row(m.User) != m.From {
		return m, director.ErrMovedMeanwhile
	}
	e.mu.Lock()
	e.begun, e.times = append(e.begun, m), append(e.times, time.Now())
	fails := e.fickle && len(e.begun)%3 == 0
	e.mu.Unlock()
	if e.slow == 0 {
		e.store.put(m.User, m.To)
		return m, nil
	}
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	e.moving[m.User] = m
	time.AfterFunc(e.slow, func() {
		if !fails {
			e.store.put(m.User, m.To)
		}
		e.store.mu.Lock()
		defer e.store.mu.Unlock()
		delete(e.moving, m.User)
		e.undone[m.User] = fails
	})
	return m, nil
}

func (e *errand) Who(_ context.Context, b director.Backend) (sessions []director.Session, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.down {
		return nil, fmt.Errorf("%w: %s", director.ErrUnreachable, b.Name)
	}
	for user := range e.connected {
		sessions = append(sessions, director.Session{User: strings.ToUpper(user)})
	}
	return sessions, nil
}

func (e *errand) Find(context.Context, director.Backend, string) ([]director.Session, error) {
	return nil, errors.New("nobody is asked for")
}

func (e *errand) Kick(context.Context, director.Backend, []director.Session) error {
	return errors.New("nobody is kicked")
}
func (e *errand) Cut(context.Context, netip.Addr, string) (int, error) { return 0, nil }

// conduct runs a conductor over users, each on the backend of that number, for some time.
func conduct(t *testing.T, e *errand, backendCount int, users map[string]int, length time.Duration, change ...func(*director.ConductorConfig)) (log string) {
	t.Helper()
	e.store = newMemory()
	for user, n := range users {
		e.store.put(user, backend(n).Name)
	}
	b := newBench(t, e.store)
	b.see(backends(backendCount))
	if len(e.tasks) > 0 && e.tasks[0].Kind == director.Evacuate {
		b.Obey(director.Orders{Standings: []director.Standing{{Backend: e.tasks[0].Backend, State: director.Drain}}})
	}
	e.begins = time.Now()
	var text bytes.Buffer
	config := director.ConductorConfig{Director: b.Director, Tasks: e, Sessions: e, Logger: slog.New(slog.NewTextHandler(&text, nil))}
	for _, c := range change {
		c(&config)
	}
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	if err := director.NewConductor(config).Run(ctx); err != nil {
		t.Error(err)
	}
	return text.String()
}

// crowd are so many users on a backend.
func crowd(n, backend int) map[string]int {
	users := make(map[string]int, n)
	for i := range n {
		users[fmt.Sprintf("u%04d", i)] = backend
	}
	return users
}

func TestEvacuation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &errand{tasks: []director.Task{{Kind: director.Evacuate, Backend: backend(0).Name, Rate: 60, Total: 300, Actor: "ada", Note: "disk"}}}
		e.connected = map[string]bool{"u0000": true, "u0150": true}
		conduct(t, e, 3, crowd(300, 0), 10*time.Minute)
		if len(e.begun) != 300 || !slices.Equal(e.ended, []string{"evacuate dovecot-backend-0"}) {
			t.Fatalf("%d moves, ended %v", len(e.begun), e.ended)
		}
		for i, m := range e.begun {
			if connected := i >= 298; m.IdleOnly == connected || connected != e.connected[m.User] {
				t.Errorf("move %d: %+v", i, m)
			}
			if m.From != backend(0).Name || m.To == m.From || m.Reason != director.Evacuated || m.Actor != "ada" || m.Note != "disk" {
				t.Fatalf("%+v", m)
			}
			if i >= 60 && e.times[i].Sub(e.times[i-60]) < 59*time.Second {
				t.Fatalf("61 moves in %s", e.times[i].Sub(e.times[i-60]))
			}
		}
		if took := e.times[299].Sub(e.times[0]); took > 5*time.Minute+10*time.Second {
			t.Errorf("300 users at 60 a minute took %s", took)
		}
	})
}

func TestEvacuationByATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &errand{tasks: []director.Task{{Kind: director.Evacuate, Backend: backend(0).Name, By: 20 * time.Minute, Total: 1000}}}
		conduct(t, e, 3, crowd(1000, 0), 30*time.Minute)
		if took := time.Duration(0); len(e.begun) == 1000 {
			if took = e.times[999].Sub(e.begins); took > 20*time.Minute || took < 10*time.Minute {
				t.Errorf("took %s", took)
			}
		} else {
			t.Errorf("%d moves", len(e.begun))
		}
	})
}

// TestEvacuationOfABackendThatEnds has a backend whose users are moved while it terminates and still serves. What is left when it has gone
// is not the task's any more.
func TestEvacuationOfABackendThatEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		serves time.Duration
		least  int
		most   int
	}{
		"in time":  {serves: 10 * time.Minute, least: 300, most: 300},
		"too soon": {serves: 2 * time.Minute, least: 100, most: 180},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &errand{tasks: []director.Task{{Kind: director.Evacuate, Backend: backend(0).Name, Rate: 60, Total: 300}}}
				conduct(t, e, 3, crowd(300, 0), 20*time.Minute, func(c *director.ConductorConfig) {
					observe := func(list []director.Backend) {
						c.Director.Observe(director.Snapshot{Backends: list, ListsTerminating: true, CurrentAt: time.Now()})
					}
					observe(with(backends(3), 0, director.Terminating))
					time.AfterFunc(tc.serves, func() {
						e.mu.Lock()
						e.down = true
						e.mu.Unlock()
						observe(backends(3)[1:])
					})
				})
				if len(e.begun) < tc.least || len(e.begun) > tc.most || !slices.Equal(e.ended, []string{"evacuate dovecot-backend-0"}) {
					t.Errorf("%d moves, ended %v", len(e.begun), e.ended)
				}
			})
		})
	}
}

// TestAnEvacuationEndsWhenTheBackendTakesUsersAgain has a backend that is activated while it is evacuated.
func TestAnEvacuationEndsWhenTheBackendTakesUsersAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &errand{tasks: []director.Task{{Kind: director.Evacuate, Backend: backend(0).Name, Rate: 60, Total: 300, Age: time.Hour}}}
		conduct(t, e, 3, crowd(300, 0), 10*time.Minute, func(c *director.ConductorConfig) {
			time.AfterFunc(time.Minute, func() { c.Director.Obey(director.Orders{}) })
		})
		if len(e.begun) < 50 || len(e.begun) > 70 || !slices.Equal(e.ended, []string{"evacuate dovecot-backend-0"}) {
			t.Errorf("%d moves, ended %v", len(e.begun), e.ended)
		}
	})
}

// TestPausesAreNotMadeUpFor holds that a task which goes on does so at its rate.
func TestPausesAreNotMadeUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &errand{tasks: []director.Task{{Kind: director.Evacuate, Backend: backend(0).Name, Rate: 60}}}
		pause := func(paused bool) func() {
			return func() {
				e.mu.Lock()
				defer e.mu.Unlock()
				e.tasks[0].Paused = paused
			}
		}
		time.AfterFunc(time.Minute, pause(true))
		time.AfterFunc(10*time.Minute, pause(false))
		conduct(t, e, 3, crowd(1000, 0), 12*time.Minute)
		if len(e.begun) < 150 || len(e.begun) > 185 {
			t.Errorf("%d moves in three minutes at 60 a minute", len(e.begun))
		}
		for i := 5; i < len(e.times); i++ {
			if e.times[i].Sub(e.times[i-5]) < 3*time.Second {
				t.Fatalf("six moves in %s", e.times[i].Sub(e.times[i-5]))
			}
		}
	})
}

// TestNobodyIsMovedToABackendThatIsDrained has a second backend drained while users are being moved to it.
func TestNobodyIsMovedToABackendThatIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &errand{tasks: []director.Task{{Kind: director.Evacuate, Backend: backend(0).Name, Rate: 60}}}
		var drained time.Time
		conduct(t, e, 3, crowd(300, 0), 10*time.Minute, func(c *director.ConductorConfig) {
			time.AfterFunc(90*time.Second, func() {
				drained = time.Now()
				c.Director.Obey(director.Orders{Standings: []director.Standing{
					{Backend: backend(0).Name, State: director.Drain}, {Backend: backend(1).Name, State: director.Drain},
				}})
			})
		})
		before := 0
		for i, m := range e.begun {
			switch {
			case m.To != backend(1).Name:
			case e.times[i].After(drained):
				t.Fatalf("%s after the drain: %+v", e.times[i].Sub(drained), m)
			default:
				before++
			}
		}
		if before == 0 || len(e.begun) != 300 {
			t.Errorf("%d moves, %d to it before", len(e.begun), before)
		}
	})
}

// TestTasksThatWait holds when nobody is moved.
func TestTasksThatWait(t *testing.T) {
	evacuate := director.Task{Kind: director.Evacuate, Backend: backend(0).Name, Rate: 60}
	for name, tc := range map[string]struct {
		change func(*errand)
		config func(*director.ConductorConfig)
		logged string
	}{
		"it is paused":              {change: func(e *errand) { e.tasks[0].Paused = true }},
		"another replica leads":     {change: func(e *errand) { e.follower = true }},
		"a backend does not answer": {change: func(e *errand) { e.down = true }, logged: "cannot go on"},
		"a director has died":       {change: func(e *errand) { e.silent = time.Minute }, logged: "other (for 1m0s)"},
		"there is no key":           {config: func(c *director.ConductorConfig) { c.Sessions = nil }, logged: "no doveadm key"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &errand{tasks: []director.Task{evacuate}}
				if tc.change != nil {
					tc.change(e)
				}
				if tc.config == nil {
					tc.config = func(*director.ConductorConfig) {}
				}
				log := conduct(t, e, 3, crowd(10, 0), 5*time.Minute, tc.config)
				if len(e.begun) > 0 || len(e.ended) > 0 {
					t.Errorf("%d moves, ended %v", len(e.begun), e.ended)
				}
				if len(e.notes) != min(1, len(tc.logged)) || tc.logged != "" && !strings.Contains(e.notes[0], tc.logged) {
					t.Errorf("journal: %q", e.notes)
				}
				if !strings.Contains(log, tc.logged) || strings.Count(log, "\n") != min(1, len(tc.logged)) {
					t.Errorf("log: %s", log)
				}
			})
		})
	}
}

func TestRebalance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		users := crowd(300, 0)
		for user := range users {
			if user >= "u0150" {
				users[user] = 1
			}
		}
		e := &errand{
			tasks:   []director.Task{{Kind: director.Rebalance, Rate: 600, Slack: 0.05}},
			settled: map[string]bool{"u0000": true, "u0001": true},
		}
		conduct(t, e, 3, users, 5*time.Minute)
		if len(e.begun) != 90 || !slices.Equal(e.ended, []string{"rebalance"}) {
			t.Errorf("%d moves, ended %v", len(e.begun), e.ended)
		}
		for _, m := range e.begun {
			if e.settled[m.User] || m.To != backend(2).Name || m.Reason != director.Rebalanced {
				t.Errorf("%+v", m)
			}
		}
	})
}

// TestRebalanceWaitsForItsMoves holds that it has not ended while users are on their way, and moves others for those who are not moved
// after all.
func TestRebalanceWaitsForItsMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &errand{
			tasks: []director.Task{{Kind: director.Rebalance, Rate: 600}},
			slow:  20 * time.Second, fickle: true, moving: map[string]director.Move{}, undone: map[string]bool{},
		}
		left := -1
		e.atEnd = func() { left = len(e.moving) }
		conduct(t, e, 2, crowd(300, 0), 10*time.Minute)
		on := map[string]int{}
		for _, row := range e.store.rows {
			on[row.backend]++
		}
		if left != 0 || on[backend(0).Name] != 150 || len(e.begun) <= 150 {
			t.Errorf("%d were on their way when it ended, %d moves, users are on %v", left, len(e.begun), on)
		}
	})
}

func TestRebalanceByItself(t *testing.T) {
	for want, rate := range map[int]int{0: 0, 50: 10} {
		synctest.Test(t, func(t *testing.T) {
			e := &errand{}
			conduct(t, e, 2, crowd(100, 0), time.Hour, func(c *director.ConductorConfig) {
				c.Auto = director.Task{Kind: director.Rebalance, Rate: rate, Slack: 0}
			})
			if len(e.begun) != want || len(e.ended) != min(1, want) {
				t.Errorf("rate %d: %d moves, ended %v", rate, len(e.begun), e.ended)
			}
		})
	}
}
