package director_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// house are backends with sessions. It implements Sessions.
type house struct {
	mu    sync.Mutex
	open  map[string]map[string]int // sessions by backend and user
	down  map[string]bool
	asked map[string][]time.Time // when each backend was asked for all
	// finding runs before a user is looked for.
	finding func(backend, user string)
}

func newHouse() *house {
	return &house{open: map[string]map[string]int{}, down: map[string]bool{}, asked: map[string][]time.Time{}}
}

// set opens sessions of a user on the backend of that number, or ends them; -1 lets the backend not answer any more, -2 do so again.
func (h *house) set(user string, n, sessions int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	name := backend(n).Name
	if sessions < 0 {
		h.down[name] = sessions == -1
		return
	}
	if h.open[name] == nil {
		h.open[name] = map[string]int{}
	}
	if h.open[name][user] = sessions; sessions == 0 {
		delete(h.open[name], user)
	}
}

func (h *house) Who(_ context.Context, b director.Backend) (sessions []director.Session, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked[b.Name] = append(h.asked[b.Name], time.Now())
	if h.down[b.Name] {
		return nil, director.ErrUnreachable
	}
	for user, n := range h.open[b.Name] {
		sessions = append(sessions, slices.Repeat([]director.Session{{User: strings.ToUpper(user)}}, n)...)
	}
	return sessions, nil
}

func (h *house) Find(_ context.Context, b director.Backend, user string) ([]director.Session, error) {
	h.finding(b.Name, user)
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Repeat([]director.Session{{User: user}}, h.open[b.Name][user]), nil
}

func (h *house) Kick(context.Context, director.Backend, []director.Session) error {
	return fmt.Errorf("nobody is kicked")
}
func (h *house) Cut(context.Context, netip.Addr, string) (int, error) { return 0, nil }

// polling is a census of a house of three backends that is polled every minute, in a bubble of synctest.
type polling struct {
	*director.Census
	*bench
	*house
	log   bytes.Buffer
	leave time.Duration // when users leave in an evening
}

func poll(t *testing.T, change ...func(*director.CensusConfig)) *polling {
	p := &polling{bench: newBench(t, newMemory()), house: newHouse()}
	p.finding = func(b, user string) {
		// Sessions that are about to end:
		switch {
		case user == "cyd" && b == backend(2).Name:
			p.set("cyd", 1, 0)
		case user == "dan" && b == backend(1).Name:
			p.set("dan", 1, 0)
		}
	}
	p.see(backends(3))
	config := director.CensusConfig{Director: p.Director, Sessions: p.house, Every: time.Minute, Logger: slog.New(slog.NewTextHandler(&p.log, nil))}
	for _, c := range change {
		c(&config)
	}
	p.Census = director.NewCensus(config)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Census.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	time.Sleep(time.Second) // tests look between two polls
	return p
}

// next waits for the next poll.
func (p *polling) next() *director.CensusReport {
	time.Sleep(time.Minute)
	synctest.Wait()
	return p.Report()
}

func TestCensus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poll(t)
		if r := p.Report(); r != nil {
			t.Errorf("before the first poll: %+v", r)
		}
		p.set("ada", 0, 3)
		p.set("bob", 0, 1)
		p.set("cyd", 2, 1)
		r := p.next()
		if want := (director.Headcount{Sessions: 4, Users: 2}); r.Backends[backend(0).Name] != want || len(r.Backends) != 3 || !r.Complete || len(r.Doubled) > 0 {
			t.Errorf("%+v", r)
		}
		p.set("", 2, -1)
		p.next()
		r = p.next()
		if r.Complete || r.Backends[backend(2).Name].Err == nil || r.Backends[backend(0).Name].Sessions != 4 || strings.Count(p.log.String(), "a backend cannot be asked") != 1 {
			t.Errorf("%+v\n%s", r, p.log.String())
		}
		// A backend that is lost and does not answer is no news.
		p.see(backends(2))
		if r = p.next(); !r.Complete || r.Backends[backend(2).Name].Err == nil || strings.Count(p.log.String(), "\n") != 1 {
			t.Errorf("%+v\n%s", r, p.log.String())
		}
	})
}

// TestCensusIsGentle holds that the polls come at the interval, give or take the jitter, and not all at the same one.
func TestCensusIsGentle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poll(t, func(c *director.CensusConfig) { c.Jitter = 0.2 })
		time.Sleep(time.Hour)
		p.house.mu.Lock()
		defer p.house.mu.Unlock()
		times := p.asked[backend(0).Name]
		least, most := time.Hour, time.Duration(0)
		for i := 1; i < len(times); i++ {
			least, most = min(least, times[i].Sub(times[i-1])), max(most, times[i].Sub(times[i-1]))
		}
		if least < 48*time.Second || most > 72*time.Second || most-least < 4*time.Second || len(times) < 50 {
			t.Errorf("%d polls, %s to %s apart", len(times), least, most)
		}
	})
}

func TestCensusRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var leads atomic.Bool
		leads.Store(true)
		p := poll(t, func(c *director.CensusConfig) {
			c.Lead = func(context.Context) (bool, error) { return leads.Load(), nil }
		})
		for i := range 100 {
			p.set(fmt.Sprintf("u%02d", i), i%3, 1)
		}
		touched := func(length time.Duration) []string {
			p.store.mu.Lock()
			p.store.touched = nil
			p.store.mu.Unlock()
			time.Sleep(length)
			synctest.Wait()
			p.store.mu.Lock()
			defer p.store.mu.Unlock()
			return slices.Clone(p.store.touched)
		}
		// A TouchInterval is ten polls.
		once := touched(10 * time.Minute)
		slices.Sort(once)
		if len(once) != 100 || len(slices.Compact(once)) != 100 || once[0] != "u00 "+backend(0).Name {
			t.Errorf("%d rows were touched in a TouchInterval, %d of them different", len(once), len(slices.Compact(once)))
		}
		if n := len(touched(time.Minute)); n == 0 || n > 30 {
			t.Errorf("%d rows were touched after one poll", n)
		}
		p.set("u00", 0, 0)
		if once = touched(10 * time.Minute); len(once) != 99 {
			t.Errorf("one has left, and %d rows were touched", len(once))
		}
		p.set("u00", 0, 1)
		p.see(backends(2)) // what is lost need not be alive
		if once = touched(10 * time.Minute); len(once) != 67 {
			t.Errorf("%d rows of living backends were touched, want 67", len(once))
		}
		leads.Store(false)
		if once = touched(10 * time.Minute); len(once) > 0 {
			t.Errorf("another replica leads, and %d rows were touched", len(once))
		}
	})
}

func TestCensusFindsWhoIsOnTwoBackends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poll(t)
		p.set("ada", 0, 1)
		p.set("bob", 0, 2)
		p.set("bob", 2, 1)
		p.set("cyd", 1, 1)
		p.set("cyd", 2, 1)
		p.set("dan", 0, 1)
		p.set("dan", 1, 1)
		r := p.next()
		if len(r.Doubled) != 1 || r.Doubled[0].User != "bob" || !slices.Equal(r.Doubled[0].Backends, []string{backend(0).Name, backend(2).Name}) {
			t.Fatalf("%+v", r.Doubled)
		}
		since := r.Doubled[0].Since
		if r = p.next(); len(r.Doubled) != 1 || !r.Doubled[0].Since.Equal(since) || strings.Count(p.log.String(), "level=ERROR") != 1 {
			t.Errorf("%+v\n%s", r.Doubled, p.log.String())
		}
		p.set("bob", 0, 0)
		if r = p.next(); len(r.Doubled) > 0 {
			t.Errorf("%+v", r.Doubled)
		}
	})
}

// evening runs a conductor that evens out between logins, over 40 users on the first of two backends who are logged in for four polls
// if nothing else is said, and then leave but for four of them.
func evening(t *testing.T, lazy director.Lazy, change func(*errand, *polling, *director.ConductorConfig)) *errand {
	p := poll(t)
	p.leave = 4 * time.Minute
	p.see(backends(2))
	for user := range crowd(40, 0) {
		p.store.put(user, backend(0).Name)
		p.set(user, 0, 1)
	}
	e := &errand{store: p.store, begins: time.Now()}
	lazy.Census = p.Census
	config := director.ConductorConfig{Director: p.Director, Tasks: e, Sessions: p.house, Lazy: lazy, Begun: func() { e.woken++ }}
	if change != nil {
		change(e, p, &config)
	}
	time.AfterFunc(p.leave, func() {
		for user := range crowd(40, 0) {
			if user >= "u0004" {
				p.set(user, 0, 0)
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	if err := director.NewConductor(config).Run(ctx); err != nil {
		t.Error(err)
	}
	return e
}

func TestLazy(t *testing.T) {
	for name, tc := range map[string]struct {
		lazy   director.Lazy
		change func(*errand, *polling, *director.ConductorConfig)
		least  int
		most   int
	}{
		"half of them":            {director.Lazy{Above: 1, Rate: 100}, nil, 18, 26},
		"a tenth more is allowed": {director.Lazy{Above: 1.1, Rate: 100}, nil, 16, 21},
		"at its rate":             {director.Lazy{Above: 1, Rate: 2}, nil, 6, 14},
		"off":                     {director.Lazy{Above: 0, Rate: 100}, nil, 0, 0},
		"it is far from crowded":  {director.Lazy{Above: 2.1, Rate: 100}, nil, 0, 0},
		"another replica leads":   {director.Lazy{Above: 1, Rate: 100}, func(e *errand, _ *polling, _ *director.ConductorConfig) { e.follower = true }, 0, 0},
		"a director has died":     {director.Lazy{Above: 1, Rate: 100}, func(e *errand, _ *polling, _ *director.ConductorConfig) { e.silent = time.Minute }, 0, 0},
		"only so many in an hour": {director.Lazy{Above: 1, Rate: 100}, func(_ *errand, _ *polling, c *director.ConductorConfig) { c.Budget = 7 }, 7, 7},
		"most are pinned":         {director.Lazy{Above: 1, Rate: 100}, func(e *errand, _ *polling, _ *director.ConductorConfig) { e.settled = pinned(30) }, 10, 10},
		"a backend does not tell": {director.Lazy{Above: 1, Rate: 100}, func(_ *errand, p *polling, _ *director.ConductorConfig) { p.set("", 1, -1) }, 0, 0},
		"one poll is enough":      {director.Lazy{Above: 1, Rate: 100}, func(_ *errand, p *polling, _ *director.ConductorConfig) { p.leave = 90 * time.Second }, 18, 26},
		"silence tells nothing": {director.Lazy{Above: 1, Rate: 100}, func(_ *errand, p *polling, _ *director.ConductorConfig) {
			time.AfterFunc(150*time.Second, func() { p.set("", 0, -1) })
			time.AfterFunc(8*time.Minute, func() { p.set("", 0, -2) })
		}, 18, 26},
		"many are on their way":   {director.Lazy{Above: 1, Rate: 100}, func(_ *errand, p *polling, _ *director.ConductorConfig) { p.moving(495) }, 5, 50},
		"all that may be are":     {director.Lazy{Above: 1, Rate: 100}, func(_ *errand, p *polling, _ *director.ConductorConfig) { p.moving(500) }, 0, 0},
		"some were moved by hand": {director.Lazy{Above: 1, Rate: 100}, func(_ *errand, p *polling, _ *director.ConductorConfig) { p.moveAway(30) }, 10, 20},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := evening(t, tc.lazy, tc.change)
				if n := len(e.begun); n < tc.least || n > tc.most {
					t.Errorf("%d moves, want %d to %d", n, tc.least, tc.most)
				}
				if (e.woken > 0) != (len(e.begun) > 0) {
					t.Errorf("the mover was woken %d times for %d moves", e.woken, len(e.begun))
				}
				for i, m := range e.begun {
					if m.User < "u0004" || e.settled[m.User] || m.To == m.From || !m.IdleOnly || m.Reason != director.Evened {
						t.Errorf("%+v", m)
					}
					if e.times[i].Sub(e.begins) < time.Minute+30*time.Second {
						t.Errorf("%s was moved while he was logged in", m.User)
					}
				}
			})
		})
	}
}

// moveAway gives all up to that one, who have sessions on the first backend, a row that names the other.
func (p *polling) moveAway(n int) {
	for user := range crowd(n, 0) {
		p.store.put(user, backend(1).Name)
	}
}

// moving lets so many other users be on their way.
func (p *polling) moving(n int) {
	var users []string
	for i := range n {
		users = append(users, fmt.Sprintf("x%d", i))
	}
	p.Obey(director.Orders{Moving: users})
}

func pinned(n int) map[string]bool {
	settled := map[string]bool{}
	for user := range crowd(40, 0) {
		settled[user] = user >= "u0004" && user < fmt.Sprintf("u%04d", n)
	}
	return settled
}
