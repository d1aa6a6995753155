package sim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/ring"
)

// epoch is the begin of simulated time: some Monday, at midnight.
var epoch = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// world is a scenario that runs. Everything happens in one goroutine, in the order of simulated time.
type world struct {
	scenario *Scenario
	strategy strategy
	cluster  *cluster
	now      moment
	end      moment
	random   stream
	curve    *curve
	agenda   []appointment // sorted, the next one last
	booked   int
	calendar *calendar

	users   []user
	clients []client
	byName  map[string]int
	tables  map[string]*ring.Table

	databaseDown bool
	lookups      int
	sink         uint64 // keeps fetch from being optimised away
	sessions     int    // that are open
	tracer       func(Step)
	book         book
	// expectedByBackend are the sessions that users have on average, by the backend of their last login.
	expectedByBackend map[string]float64
	// typical is how many sessions those have on average who have half a session or more.
	typical float64
}

// appointment is something that happens once.
type appointment struct {
	at     moment
	number int
	do     func()
}

// Options are what Run may be told.
type Options struct {
	// Strategy is one of Strategies; empty is Ours.
	Strategy string
	// Progress is called now and then with the part of the scenario that is done. May be nil.
	Progress func(done float64)
	// Trace gets what happens to directors. May be nil.
	Trace func(Step)
}

// Run runs a scenario. The same scenario gives the same result, byte for byte. The error is that of ctx.
func Run(ctx context.Context, s *Scenario, o Options) (*Result, error) {
	w := newWorld(s, o)
	if err := w.run(ctx, w.end, o.Progress); err != nil {
		return nil, err
	}
	return w.book.result(w, cmp.Or(o.Strategy, Ours)), nil
}

// newWorld makes a world that is about to begin.
func newWorld(s *Scenario, o Options) *world {
	w := &world{
		scenario: s, end: moment(s.Duration.Milliseconds()), random: newStream(s.seed, 0), curve: newCurve(s.logins.curve),
		byName: map[string]int{}, tables: map[string]*ring.Table{}, tracer: o.Trace, expectedByBackend: map[string]float64{},
	}
	w.calendar = newCalendar(w.end, w.fetch)
	w.populate()
	w.cluster = newCluster(w)
	w.book.begin()
	w.strategy = newStrategy(cmp.Or(o.Strategy, Ours), w)
	w.cluster.tell()
	w.settleUsers()
	w.schedule()
	w.book.start(w)
	return w
}

// clock is the time that directors see.
func (w *world) clock() time.Time { return epoch.Add(time.Duration(w.now) * time.Millisecond) }

func (w *world) trace(s Step) {
	if w.tracer != nil {
		s.At = w.clock()
		w.tracer(s)
	}
}

// build returns the production ring of the members; replicas that see the same ones share it, as it never changes.
func (w *world) build(members []director.Member) *ring.Table {
	key := fmt.Sprint(members)
	t, ok := w.tables[key]
	if !ok {
		t = ring.Build(members)
		w.tables[key] = t
	}
	return t
}

// after books something for later.
func (w *world) after(d time.Duration, do func()) { w.at(w.now+moment(d.Milliseconds()), do) }

func (w *world) at(at moment, do func()) {
	w.booked++
	a := appointment{at, w.booked, do}
	i, _ := slices.BinarySearchFunc(w.agenda, a, func(x, y appointment) int {
		return cmp.Or(cmp.Compare(y.at, x.at), cmp.Compare(y.number, x.number))
	})
	w.agenda = slices.Insert(w.agenda, i, a)
}

// run lets time pass until a moment. What happens to backends goes before what clients do at the same moment.
func (w *world) run(ctx context.Context, end moment, progress func(float64)) error {
	for {
		until := end
		if n := len(w.agenda); n > 0 {
			until = min(until, w.agenda[n-1].at)
		}
		for n := 0; ; n++ {
			if n&0xfff == 0 {
				if err := ctx.Err(); err != nil {
					return err
				}
				if progress != nil {
					progress(float64(w.now) / float64(w.end))
				}
			}
			e, ok := w.calendar.next(until)
			if !ok {
				break
			}
			if c := &w.clients[e.client()]; moment(c.at) == e.at() {
				w.now = e.at()
				w.act(e.client(), c)
			}
		}
		w.now = until
		if w.now >= end {
			return nil
		}
		next := w.agenda[len(w.agenda)-1]
		w.agenda = w.agenda[:len(w.agenda)-1]
		next.do()
	}
}
