package http

import (
	"sync"
	"time"
)

const (
	// waitLimit is how long a lookup may take, on average, before others are refused. It has to be less than what a call of the store takes at
	// most, 1.2 s: lookups that come to nothing after that long then make the gate narrower, and not wider. And it has to be more than any sound
	// database takes for a lookup, or the gate would close before the database is busy.
	waitLimit = 500 * time.Millisecond
	// spans is in how many parts the last waitLimit is counted.
	spans = 10
	// alwaysIn is how many lookups may be under way however slow they are: the auth workers of two proxies. One that hangs on its own, on a locked
	// row, must not keep others out.
	alwaysIn = 64
	// burstLimit is for how long lookups may come faster than they are answered, after it was calm: a burst out of nothing finds a gate that knows
	// of no answers yet.
	burstLimit = 100 * time.Millisecond
)

// gate bounds how many lookups are under way, so that those which are let in are answered in time when more come than can be answered.
//
// By Little's law, lookups take waitLimit on average when as many are under way as were answered in the last waitLimit. That is the bound. It holds for a
// database of any speed without knowing how fast it is; a fixed number would be too many for a slow one, where all come to nothing, and too few for a
// fast one, which works off thousands in no time. It is counted, and not measured how long the oldest has been waiting, since that may be one whose row
// somebody has locked.
type gate struct {
	mu       sync.Mutex
	underWay int
	answered [spans]int // by part of the last waitLimit
	sum      int        // of answered
	part     int64      // the newest one, since 1970
	full     time.Time  // since when the bound has been reached, zero when it is calm
}

// enter reports whether a lookup is let in. Who is leaves later.
func (g *gate) enter(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pass(now)
	bound := max(alwaysIn, g.sum)
	switch {
	case g.underWay < bound/2:
		g.full = time.Time{}
	case g.underWay < bound:
	case g.full.IsZero():
		g.full = now
	case now.Sub(g.full) >= burstLimit:
		return false
	}
	g.underWay++
	return true
}

// leave counts a lookup that was let in and is over.
func (g *gate) leave(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pass(now)
	g.underWay--
	g.answered[g.part%spans]++
	g.sum++
}

// pass forgets what is longer ago than waitLimit. It needs the lock.
func (g *gate) pass(now time.Time) {
	newest := now.UnixNano() / int64(waitLimit/spans)
	if newest < g.part-spans { // the clock was set back; what came out of turn counts in the newest part
		g.answered, g.sum, g.part = [spans]int{}, 0, newest
	}
	for range min(newest-g.part, spans) {
		g.part++
		g.sum -= g.answered[g.part%spans]
		g.answered[g.part%spans] = 0
	}
	g.part = max(g.part, newest)
}
