package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// state is what a backend does. It is not what directors know of it: they see a Condition, some time later.
type state uint8

const (
	absent      state = iota // not there
	starting                 // there, and not ready yet
	ready                    // serves
	failing                  // crashed; sessions are cut
	unready                  // fails its probe and serves
	terminating              // was told to end and serves
	stopping                 // was told to end and serves no more
)

// pod is a backend.
type pod struct {
	name     string
	state    state
	weight   int
	addr     netip.Addr
	instance string
	// change counts changes of state, so that what was planned for an older state is dropped.
	change int
	// unavailable is since when it is not ready, nil while it is.
	absence *absence
	// users are those whose last login it served, sessions those that are open.
	users, sessions int
}

// serves reports whether sessions live on it and logins succeed that reach it.
func (p *pod) serves() bool { return p.state == ready || p.state == unready || p.state == terminating }

// absence is a time during which a backend takes no logins. While it lasts, it is not known whether it is for good.
type absence struct {
	number   uint32
	returned bool
	// wanted counts its users who wanted to log in meanwhile, by the phase of their first attempt.
	wanted map[int]int
}

// cluster is all backends, as a StatefulSet and its pods if they have no names of their own.
type cluster struct {
	w        *world
	pods     []*pod
	replicas int
	set      bool
	absences []*absence
	apiDown  bool
	blind    time.Duration
	since    moment // of the API's outage
	scaling  int    // counts scalings, so that one that was overtaken stops
}

func newCluster(w *world) *cluster {
	b := &w.scenario.backends
	c := &cluster{w: w, replicas: b.count, set: b.names == nil}
	for i := range b.count {
		p := c.pod(i)
		p.state = ready
		p.renew(i)
	}
	return c
}

// pod returns a backend by its number, and makes it and those before it if it was never there.
func (c *cluster) pod(i int) *pod {
	for len(c.pods) <= i {
		n := len(c.pods)
		weight, ok := c.w.scenario.backends.weights[n]
		if !ok {
			weight = 1
		}
		p := &pod{name: c.w.scenario.backends.name(n), weight: weight}
		c.pods = append(c.pods, p)
		c.w.byName[p.name] = n
	}
	return c.pods[i]
}

// renew gives a backend the address and the identity of a new instance.
func (p *pod) renew(i int) {
	n := p.change
	p.addr = netip.AddrFrom4([4]byte{10, byte(n), byte(i >> 8), byte(i)})
	p.instance = fmt.Sprintf("%s/%d", p.name, n)
}

// snapshot is what the API server shows.
func (c *cluster) snapshot() director.Snapshot {
	s := director.Snapshot{ListsTerminating: true, Blind: c.blind, CurrentAt: c.w.clock()}
	for _, p := range c.pods {
		condition := director.NotReady
		switch p.state {
		case absent:
			continue
		case ready:
			condition = director.Ready
		case terminating:
			condition = director.Terminating
		case stopping:
			condition = director.Stopping
		}
		s.Backends = append(s.Backends, director.Backend{Name: p.name, Addr: p.addr, Weight: p.weight, Instance: p.instance, Condition: condition})
	}
	if c.set {
		s.StatefulSets = []director.StatefulSet{{Name: c.w.scenario.backends.prefix, Replicas: c.replicas, Termination: 30 * time.Second}}
	}
	return s
}

// wanted reports whether a backend should be there.
func (c *cluster) wanted(i int) bool { return !c.set || i < c.replicas }

// enter changes a backend's state: sessions are cut if it stops serving, and directors hear of it.
func (c *cluster) enter(i int, next state) {
	p := c.pod(i)
	served := p.serves()
	p.state = next
	p.change++
	if next == starting {
		p.renew(i)
	}
	switch {
	case next == ready && p.absence != nil:
		p.absence.returned = true
		p.absence = nil
	case next != ready && p.absence == nil:
		p.absence = &absence{number: uint32(len(c.absences) + 1), wanted: map[int]int{}}
		c.absences = append(c.absences, p.absence)
	}
	if served && !p.serves() {
		c.w.cut(i)
	}
	c.tell()
}

// tell shows directors what has changed.
func (c *cluster) tell() {
	c.w.book.reweigh(c.w)
	if !c.apiDown {
		c.w.strategy.observe(c.snapshot())
	}
}

// later does something with a backend after a time, unless its state has changed otherwise meanwhile.
func (c *cluster) later(after time.Duration, i int, do func()) {
	change := c.pod(i).change
	c.w.after(after, func() {
		if c.pod(i).change == change {
			do()
		}
	})
}

// start lets a backend appear, and be ready after a time.
func (c *cluster) start(i int, down time.Duration, then func()) {
	c.enter(i, starting)
	c.later(down, i, func() {
		c.enter(i, ready)
		then()
	})
}

// end deletes a backend: it serves until it has ended, if it does now.
func (c *cluster) end(i int, stop time.Duration, then func()) {
	switch p := c.pod(i); {
	case p.state == absent || p.state == terminating:
		then()
		return
	case p.serves():
		c.enter(i, terminating)
	default:
		c.enter(i, stopping)
		stop = 0
	}
	c.later(stop, i, func() {
		c.enter(i, absent)
		then()
	})
}

// restart deletes a backend and starts it anew, if it is wanted then.
func (c *cluster) restart(i int, stop, down time.Duration, then func()) {
	c.end(i, stop, func() {
		if c.wanted(i) {
			c.start(i, down, then)
		} else {
			then()
		}
	})
}

// scale starts or ends backends one after the other, as a StatefulSet does it.
func (c *cluster) scale(to int) {
	c.replicas = to
	c.scaling++
	for i := range to {
		c.pod(i) // it has a name from now on
	}
	c.tell()
	c.settle(c.scaling)
}

func (c *cluster) settle(scaling int) {
	if scaling != c.scaling {
		return
	}
	again := func() { c.settle(scaling) }
	for i := range c.replicas {
		if c.pod(i).state == absent {
			c.start(i, c.w.random.within(c.w.scenario.backends.start), again)
			return
		}
	}
	for i := len(c.pods) - 1; i >= c.replicas; i-- {
		if s := c.pods[i].state; s != absent && s != terminating {
			c.end(i, c.w.random.within(c.w.scenario.backends.stop), again)
			return
		}
	}
}

// roll restarts all backends from the last to the first, each after the one before has been ready for a while.
func (c *cluster) roll(a *action) {
	var next func(i int)
	next = func(i int) {
		if i >= 0 {
			c.restart(i, c.w.stop(a), c.w.random.within(a.down), func() { c.w.after(a.pause, func() { next(i - 1) }) })
		}
	}
	next(c.replicas - 1)
}

// outage takes the API server away, or brings it back.
func (c *cluster) outage(down bool) {
	if down == c.apiDown {
		return
	}
	c.apiDown = down
	if down {
		c.since = c.w.now
		return
	}
	c.blind += time.Duration(c.w.now-c.since) * time.Millisecond
	c.tell()
}

// shares returns what each backend that should be there has of a load, and what would be fair.
func (c *cluster) shares(load func(*pod) int) (total, weights int, each []*pod) {
	for i, p := range c.pods {
		if c.wanted(i) {
			each = append(each, p)
			weights += p.weight
		}
		total += load(p)
	}
	return total, weights, each
}

// spread measures how even a load is.
func (c *cluster) spread(load func(*pod) int) Spread {
	total, weights, each := c.shares(load)
	s := Spread{Mean: float64(total) / float64(len(each)), Min: load(slices.MinFunc(each, func(a, b *pod) int { return load(a) - load(b) }))}
	for _, p := range each {
		s.Max = max(s.Max, load(p))
		s.Peak = max(s.Peak, peak(load(p), p.weight, total, weights))
	}
	return s
}

// peak is a load divided by what would be fair.
func peak(load, weight, total, weights int) float64 {
	if load == 0 || weight == 0 {
		return 0 // who drains has no share
	}
	return float64(load) * float64(weights) / (float64(weight) * float64(total))
}
