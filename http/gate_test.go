package http

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// crowd is what comes of lookups that arrive at a steady pace at a gate, behind which so many can be answered in a second, one after the
// other.
type crowd struct {
	answered, refused int
	took              []time.Duration // of those that were let in, in their order
}

// arrive simulates it.
func arrive(g *gate, begun time.Time, number int, perSecond, capacity float64) (c crowd) {
	var leaving []time.Time // of those under way, the next one first
	free := begun
	for i := range number {
		now := begun.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		for len(leaving) > 0 && !leaving[0].After(now) {
			g.leave(leaving[0])
			leaving = leaving[1:]
		}
		if !g.enter(now) {
			c.refused++
			continue
		}
		if free.Before(now) {
			free = now
		}
		free = free.Add(time.Duration(float64(time.Second) / capacity))
		leaving = append(leaving, free)
		c.answered++
		c.took = append(c.took, free.Sub(now))
	}
	for _, at := range leaving {
		g.leave(at)
	}
	return c
}

// Whatever the database is able to do: as much as that is answered, in a time that is bounded, and the rest is refused.
func TestGateInOverload(t *testing.T) {
	for _, capacity := range []float64{200, 1000, 10_000} {
		for _, times := range []float64{0.5, 0.9, 1.2, 2, 4, 10} {
			t.Run(fmt.Sprintf("%.1f times %.0f", times, capacity), func(t *testing.T) {
				const seconds = 4
				c := arrive(&gate{}, time.Unix(1_800_000_000, 0), int(seconds*times*capacity), times*capacity, capacity)
				if want := min(1, times) * seconds * capacity; float64(c.answered) < 0.98*want {
					t.Errorf("%d answered, want %.0f", c.answered, want)
				}
				if times < 1 && c.refused > 0 {
					t.Errorf("%d refused, want none", c.refused)
				}
				// After the first burst it has settled.
				if worst := slices.Max(c.took[len(c.took)/2:]); worst > waitLimit*5/4 {
					t.Errorf("one takes %s", worst)
				}
				if worst := slices.Max(c.took); times <= 4 && worst > 2*waitLimit {
					t.Errorf("one in the first burst takes %s", worst)
				}
			})
		}
	}
}

// A burst out of nothing is let in if it can be answered: nobody has been answered yet who would tell.
func TestGateLetsABurstIn(t *testing.T) {
	if c := arrive(&gate{}, time.Unix(1_800_000_000, 0), 2000, 1e6, 20_000); c.refused > 0 {
		t.Errorf("%d of 2000 refused", c.refused)
	}
}

// Overload leaves nothing behind.
func TestGateRecovers(t *testing.T) {
	g, begun := &gate{}, time.Unix(1_800_000_000, 0)
	if c := arrive(g, begun, 40_000, 4000, 1000); c.refused == 0 {
		t.Fatal("nobody refused")
	}
	if c := arrive(g, begun.Add(time.Minute), 8000, 800, 1000); c.refused > 0 {
		t.Errorf("%d refused afterwards", c.refused)
	}
	if g.underWay != 0 {
		t.Errorf("%d are under way", g.underWay)
	}
}

// Lookups that hang keep no others out, and a database that answers nobody for a while is not asked by ever more.
func TestGateWhileLookupsHang(t *testing.T) {
	g, now := &gate{}, time.Unix(1_800_000_000, 0)
	for range alwaysIn / 2 {
		g.enter(now) // and never leaves
	}
	if c := arrive(g, now, 10_000, 1000, 2000); c.refused > 0 {
		t.Errorf("%d refused while few hang", c.refused)
	}
	g, in := &gate{}, 0
	for range 10_000 {
		now = now.Add(time.Millisecond)
		if g.enter(now) {
			in++
		}
	}
	if most := alwaysIn + 200; in > most {
		t.Errorf("%d let in while nobody is answered, want %d at most", in, most)
	}
}

// A clock that is set back, or far ahead, does no harm.
func TestGateWhenTheClockIsSet(t *testing.T) {
	g, now := &gate{}, time.Unix(1_800_000_000, 0)
	for _, at := range []time.Time{now, now.Add(-time.Hour), now.Add(time.Hour), now} {
		if c := arrive(g, at, 1000, 1000, 2000); c.refused > 0 {
			t.Errorf("%d refused at %s", c.refused, at)
		}
	}
	if g.sum < 0 || g.underWay != 0 {
		t.Errorf("%+v", g)
	}
}

// After a clock was set back, more are refused as soon as before it: what has been answered until it is there again is not all counted as if
// it had been just now.
func TestGateHoldsAfterTheClockWasSetBack(t *testing.T) {
	g, now := &gate{}, time.Unix(1_800_000_000, 0)
	arrive(g, now, 1000, 1000, 2000)
	c := arrive(g, now.Add(-time.Hour), 40_000, 4000, 1000)
	if worst := slices.Max(c.took); worst > 2*waitLimit {
		t.Errorf("%d answered, %d refused, one takes %s", c.answered, c.refused, worst)
	}
}
