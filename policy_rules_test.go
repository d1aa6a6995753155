package director_test

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"pgregory.net/rapid"
)

// drawFacts draws a history of snapshots and a lookup at its end.
func drawFacts(t *rapid.T) director.Facts {
	tracker := director.NewTracker(graces)
	var view *director.View
	now := t0
	for range rapid.IntRange(0, 6).Draw(t, "snapshots") {
		now = now.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "seconds")) * time.Second)
		var s director.Snapshot
		s.CurrentAt = now
		for n := range 5 {
			b := backend(n)
			b.Condition = director.Condition(rapid.IntRange(0, 4).Draw(t, "condition"))
			b.Weight = rapid.IntRange(0, 2).Draw(t, "weight")
			if b.Condition <= director.Stopping {
				s.Backends = append(s.Backends, b)
			}
		}
		if rapid.Bool().Draw(t, "replicas known") {
			s.StatefulSets = scaled(rapid.IntRange(0, 5).Draw(t, "replicas"))
		}
		view = tracker.Observe(now, s)
	}
	now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "until lookup")) * time.Second)
	f := director.Facts{
		Now: now, View: view, Key: "ada@example.org",
		Row:      director.RowState(rapid.IntRange(0, 3).Draw(t, "row")),
		ReadOnly: rapid.Bool().Draw(t, "read-only"),
		Outage:   time.Duration(rapid.IntRange(0, 10).Draw(t, "outage")) * time.Second,
	}
	if f.Row == director.RowFound {
		f.Mapping.Age = time.Duration(rapid.IntRange(0, 1000).Draw(t, "age")) * time.Second
		f.Mapping.Backend = rapid.SampledFrom([]string{"dovecot-backend-0", "dovecot-backend-3", "dovecot-backend-7", "192.0.2.12", "198.51.100.1", "::1"}).Draw(t, "backend")
	}
	if rapid.Bool().Draw(t, "remembered") {
		f.Remembered = &director.Remembered{Backend: "dovecot-backend-1", At: now.Add(-time.Duration(rapid.IntRange(0, 5000).Draw(t, "remembered ago")) * time.Second)}
	}
	if rapid.Bool().Draw(t, "sessions known") {
		f.Load = &director.Load{
			Idle: rapid.Bool().Draw(t, "idle"), Expected: rapid.Float64Range(0, 3).Draw(t, "expected"), Typical: rapid.Float64Range(0, 3).Draw(t, "typical"),
			Sessions: map[string]float64{"dovecot-backend-0": rapid.Float64Range(0, 9).Draw(t, "sessions"), "dovecot-backend-3": 1},
		}
	}
	f.New = rapid.Bool().Draw(t, "new")
	if rapid.Bool().Draw(t, "outage's ring") {
		f.OutageRing = fixedRing{{Name: rapid.SampledFrom([]string{"dovecot-backend-0", "dovecot-backend-1", "dovecot-backend-9"}).Draw(t, "outage's proposal"), Weight: 1}}
	}
	if view != nil {
		f.Ring = fixedRing(view.Members())
		f.Rooms = director.Rooms(view, map[string]int{"dovecot-backend-0": rapid.IntRange(0, 9).Draw(t, "count")})
	}
	return f
}

// TestPolicyRules holds what must be true of every decision, over drawn histories. It does not say which backend is
// chosen: that is the ring's.
func TestPolicyRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		p := director.Policy{RejectUnknown: rapid.Bool().Draw(t, "strict"), EvenAbove: rapid.SampledFrom([]float64{0, 1, 1.5}).Draw(t, "even above"), OutageProposes: rapid.Bool().Draw(t, "outage proposes")}
		d := p.Decide(f)
		if again := p.Decide(f); again != d {
			t.Fatalf("equal facts, two decisions: %+v and %+v", d, again)
		}
		if f.View == nil {
			if d.Reason != director.NoView {
				t.Fatalf("decided without a view: %+v", d)
			}
			return
		}
		var alive bool
		if d.Verb == director.Serve || d.Verb == director.Assign {
			if _, _, alive = f.View.Backend(d.Backend); !alive {
				t.Fatalf("%s %s, which is not alive", d.Verb, d.Backend)
			}
		}
		_, _, mappedAlive := f.View.Backend(f.Mapping.Backend)
		switch {
		case f.ReadOnly && d.Verb == director.Assign:
			t.Fatalf("a read-only lookup writes: %+v", d)
		case d.Verb == director.Hold && !d.Until.IsZero() && !d.Until.After(f.Now):
			t.Fatalf("held until the past: %+v at %s", d, f.Now)
		case (d.Verb == director.Reject) != (f.Row == director.RowRefused && p.RejectUnknown):
			t.Fatalf("%+v for row state %d", d, f.Row)
		case d.Reason == director.Evened:
			if !mappedAlive || f.ReadOnly || d.Backend == f.Mapping.Backend || p.EvenAbove == 0 || f.Load == nil || !f.Load.Idle {
				t.Fatalf("moved for evening out: %+v", d)
			}
		case d.Reason == director.Renewed:
			if !mappedAlive || d.Backend != f.Mapping.Backend || d.From != d.Backend || f.Mapping.Age == 0 {
				t.Fatalf("renewed: %+v", d)
			}
		case f.Row == director.RowFound && mappedAlive && (d.Verb != director.Serve || d.Backend != f.Mapping.Backend):
			t.Fatalf("mapped to an alive backend, but %+v", d)
		case d.Reason == director.Placed:
			loss := f.View.Loss(f.Mapping.Backend)
			if f.Now.Before(loss.Until) {
				t.Fatalf("moved from %s while in grace until %s, now %s", loss.Backend.Name, loss.Until, f.Now)
			}
			if age := f.Now.Sub(f.View.CurrentAt); age > 5*time.Second {
				t.Fatalf("moved by a view that was proven %s ago", age)
			}
		case d.Reason == director.Provisional:
			proposed, _ := f.OutageRing.Propose(f.Key)
			absent := f
			absent.Row = director.RowAbsent
			if p.Decide(absent).Reason == director.ViewPartial {
				t.Fatalf("proposed by a partial view: %+v", d)
			}
			if d.Backend != proposed || f.Row == director.RowUnavailable && (!p.OutageProposes || !f.New || f.Remembered != nil) || f.Row == director.RowFound {
				t.Fatalf("%+v for row state %d, new %t", d, f.Row, f.New)
			}
		case f.Row == director.RowUnavailable && d.Verb != director.Unavailable && d.Reason != director.LastKnown:
			t.Fatalf("store down, but %+v", d)
		}
	})
}

// TestGraceRules holds what must be true of every history of views: waits are as long as they should be and do not open
// again.
func TestGraceRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tracker := director.NewTracker(graces)
		now := t0
		var before *director.View
		final := map[string]bool{}
		served := map[string]time.Time{} // until when a backend may have served, or when all clocks started again
		ending := map[string]bool{}
		for range rapid.IntRange(1, 30).Draw(t, "snapshots") {
			now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "seconds")) * time.Second)
			var s director.Snapshot
			for n := range 5 {
				b := backend(n)
				b.Condition = director.Condition(rapid.IntRange(0, 4).Draw(t, "condition"))
				if b.Condition <= director.Stopping {
					s.Backends = append(s.Backends, b)
				}
			}
			view := tracker.Observe(now, s)
			if before != nil && len(before.Alive()) == 0 && len(view.Alive()) > 0 {
				clear(final) // all clocks start again
			}
			for _, b := range view.Alive() {
				delete(final, b.Name)
			}
			for _, l := range view.Losses() {
				if _, _, alive := view.Backend(l.Backend.Name); alive {
					t.Fatalf("%s is alive and lost", l.Backend.Name)
				}
				if l.Since.Equal(now) || ending[l.Backend.Name] {
					served[l.Backend.Name] = now
				}
				ending[l.Backend.Name] = slices.ContainsFunc(s.Backends, func(b director.Backend) bool {
					return b.Name == l.Backend.Name && b.Condition >= director.Terminating
				})
				wait := l.Until.Sub(l.Since)
				switch {
				case wait < graces.Failover:
					t.Fatalf("%s waits for %s only", l.Backend.Name, wait)
				case l.Panic && wait < graces.Panic:
					t.Fatalf("%s waits for %s in panic", l.Backend.Name, wait)
				case l.Until.Sub(served[l.Backend.Name]) > graces.Panic:
					t.Fatalf("%s is waited for until %s after it served", l.Backend.Name, l.Until.Sub(served[l.Backend.Name]))
				}
				isFinal := l.Final(now)
				if final[l.Backend.Name] && !isFinal && !l.Serving {
					t.Fatalf("the wait for %s was over and is open again", l.Backend.Name)
				}
				final[l.Backend.Name] = isFinal || final[l.Backend.Name]
			}
			before = view
		}
	})
}

// A backend that was lost and came back while the API server could not be reached looks as if it had never been away. Others may have moved
// its users.
func TestWhoMayHaveBeenMovedUnseenIsNotRemembered(t *testing.T) {
	t.Parallel()
	graces := director.Graces{Restart: 2 * time.Minute, Failover: 30 * time.Second, Panic: 5 * time.Minute}
	begin := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	backends := []director.Backend{{Name: "a", Addr: netip.MustParseAddr("192.0.2.1"), Weight: 1}, {Name: "b", Addr: netip.MustParseAddr("192.0.2.2"), Weight: 1}}
	for _, c := range []struct {
		name    string
		away    time.Duration
		gaps    int
		learned time.Duration // after contact was there again
		want    director.Verb
	}{
		{"nothing had changed", 3 * time.Minute, 0, -4 * time.Minute, director.Serve},
		{"something had, for less than users wait", 20 * time.Second, 1, -4 * time.Minute, director.Serve},
		{"something had, and he was served before", 3 * time.Minute, 1, -4 * time.Minute, director.Unavailable},
		{"something had, and he was served afterwards", 3 * time.Minute, 1, time.Second, director.Serve}, // his row was renewed by that
	} {
		tracker := director.NewTracker(graces)
		tracker.Observe(begin, director.Snapshot{CurrentAt: begin, Backends: backends})
		left := begin.Add(5 * time.Minute)
		tracker.Observe(left, director.Snapshot{CurrentAt: left, Backends: backends})
		back := left.Add(c.away)
		tracker.Observe(back, director.Snapshot{CurrentAt: left, Backends: backends, Blind: c.away, Gaps: c.gaps})
		now := back.Add(time.Minute)
		view := tracker.Observe(now, director.Snapshot{CurrentAt: now, Backends: backends, Blind: c.away, Gaps: c.gaps})
		got := director.Policy{}.Decide(director.Facts{
			Now: now, View: view, Row: director.RowUnavailable, Remembered: &director.Remembered{Backend: "a", At: back.Add(c.learned)},
		})
		if got.Verb != c.want {
			t.Errorf("%s: %s (%s), want %s", c.name, got.Verb, got.Reason, c.want)
		}
	}
}

// A replica that hears of a return early answers users whom another one, which has not heard of it, would move a moment later. So it renews
// their rows first. The history checker found this.
func TestAfterAReturnRowsAreRenewed(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	all, lost, another := backends(3), backends(3)[1:], backends(3)
	another[0].Instance = "another"
	begin := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	seconds := func(n float64) time.Time { return begin.Add(time.Duration(n * float64(time.Second))) }
	type sights map[float64]director.Snapshot
	// Users wait for two minutes.
	for name, c := range map[string]struct {
		sights sights
		later  float64       // when the user is asked for, in seconds after the last sight
		age    time.Duration // of his row
		want   director.Reason
	}{
		"back at once, as it seems here":             {sights{0: {Backends: all}, 1: {Backends: lost}, 2: {Backends: all}}, 1, day, director.Renewed},
		"back too late":                              {sights{0: {Backends: all}, 1: {Backends: lost}, 200: {Backends: all}}, 1, day, director.Renewed},
		"back too late, some time ago":               {sights{0: {Backends: all}, 1: {Backends: lost}, 200: {Backends: all}}, 8, day, director.Mapped},
		"back too late, just before everybody knows": {sights{0: {Backends: all}, 1: {Backends: lost}, 200: {Backends: all}}, 7.9, day, director.Renewed},
		"back too late, written before":              {sights{0: {Backends: all}, 1: {Backends: lost}, 200: {Backends: all}}, 2, 3 * time.Second, director.Renewed},
		"back too late, written since":               {sights{0: {Backends: all}, 1: {Backends: lost}, 200: {Backends: all}}, 2, time.Second, director.Mapped},
		"back too late, and seen again":              {sights{0: {Backends: all}, 1: {Backends: lost}, 200: {Backends: all}, 202: {Backends: all}}, 1, day, director.Renewed},
		"just started":                               {sights{0: {Backends: all}}, 1, day, director.Renewed},
		"just started, written since":                {sights{0: {Backends: all}}, 2, time.Second, director.Mapped},
		"started some time ago":                      {sights{0: {Backends: all}}, 8, day, director.Mapped},
		"lost before the start":                      {sights{0: {Backends: with(all, 0, director.NotReady)}, 20: {Backends: all}}, 1, day, director.Renewed},
		"away unseen, for a moment":                  {sights{0: {Backends: all}, 25: {Backends: all, Gaps: 1}}, 1, day, director.Mapped},
		"away unseen, for as long as users may wait": {sights{0: {Backends: all}, 26: {Backends: all, Gaps: 1}}, 1, day, director.Renewed},
		"nothing can have been missed":               {sights{0: {Backends: all}, 300: {Backends: all}}, 1, day, director.Mapped},
		"another instance at once":                   {sights{0: {Backends: all}, 25: {Backends: another}}, 1, day, director.Mapped},
		"another instance, since an unknown time":    {sights{0: {Backends: all}, 26: {Backends: another}}, 1, day, director.Renewed},
		"another backend is back":                    {sights{0: {Backends: all}, 10: {Backends: all[:2]}, 200: {Backends: all}}, 1, day, director.Mapped},
	} {
		tracker := director.NewTracker(director.Graces{Restart: 2 * time.Minute, Failover: 30 * time.Second, Panic: 5 * time.Minute})
		var view *director.View
		var last float64
		for _, second := range slices.Sorted(maps.Keys(c.sights)) {
			s := c.sights[second]
			s.CurrentAt = seconds(second)
			view, last = tracker.Observe(s.CurrentAt, s), second
		}
		got := director.Policy{}.Decide(director.Facts{
			Now: seconds(last + c.later), View: view, Ring: fixedRing(view.Members()), Row: director.RowFound, Mapping: director.Mapping{Backend: all[0].Name, Age: c.age},
		})
		if got.Reason != c.want || got.Backend != all[0].Name {
			t.Errorf("%s: %s %s %q, want %s", name, got.Verb, got.Reason, got.Backend, c.want)
		}
	}
}

// With short waits, a row that was written not long after a loss may already be one that was renewed after the return.
func TestRowsTellOfAReturn(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		grace, written, now time.Duration // the latter two since the loss
		want                director.Reason
	}{
		{30 * time.Second, 5 * time.Second, 31 * time.Second, director.Placed},
		{30 * time.Second, 6 * time.Second, 31 * time.Second, director.ViewBehind},
		{30 * time.Second, 6 * time.Second, 36 * time.Second, director.Placed},
		{10 * time.Second, 2 * time.Second, 10 * time.Second, director.Placed},
		{10 * time.Second, 3 * time.Second, 10 * time.Second, director.ViewBehind},
		{10 * time.Second, 3 * time.Second, 13 * time.Second, director.Placed},
		{time.Second, 0, time.Second, director.Placed},
		{time.Second, time.Second, 8 * time.Second, director.ViewBehind},
		{time.Second, time.Second, 9 * time.Second, director.Placed},
	} {
		tracker := director.NewTracker(director.Graces{Restart: c.grace, Failover: c.grace, Panic: time.Hour})
		tracker.Observe(begin.Add(-time.Hour), director.Snapshot{CurrentAt: begin.Add(-time.Hour), Backends: backends(3)})
		tracker.Observe(begin, director.Snapshot{CurrentAt: begin, Backends: backends(3)[1:]})
		now := begin.Add(c.now)
		view := tracker.Observe(now, director.Snapshot{CurrentAt: now, Backends: backends(3)[1:]})
		got := director.Policy{}.Decide(director.Facts{
			Now: now, View: view, Ring: fixedRing(view.Members()), Row: director.RowFound,
			Mapping: director.Mapping{Backend: backend(0).Name, Age: c.now - c.written}, Rooms: director.Rooms(view, nil),
		})
		if got.Reason != c.want {
			t.Errorf("waits of %s, written %s after the loss, asked for after %s: %s, want %s", c.grace, c.written, c.now, got.Reason, c.want)
		}
	}
}
