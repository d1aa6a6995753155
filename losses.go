package director

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Graces are how long users wait for a lost backend before they are mapped elsewhere. A grace longer than the downtime
// moves nobody; one that is shorter costs both the wait and the move.
type Graces struct {
	// Restart is for planned losses: a pod that was deleted, rolled or evicted and will be started again.
	Restart time.Duration
	// Failover is for failed ones.
	Failover time.Duration
	// Panic is for all, while more than half of the backends are lost at once: a fault of the probes or of the API
	// server must not re-home everybody onto one pod.
	Panic time.Duration
}

// forget is how long a final loss is remembered. After it the backend is as good as Unseen, which comes to the same
// for its users; the bound is there because pods of a Deployment never use a name again.
const forget = 24 * time.Hour

// Tracker turns raw snapshots into views: it decides when a backend counts as lost, why, and until when its users wait.
//
//	alive --not ready----------------------> lost, failed  --Failover--> final
//	alive --terminating or vanished--------> lost, planned --Restart---> final
//	lost, failed --terminating or vanished-> lost, planned (since the first loss)
//	lost --not wanted by its StatefulSet---> lost, removed --it ended--> final
//	lost, removed --wanted again-----------> lost, planned (from now on)
//	lost, final or not --ready-------------> alive
//
// A removed backend has ended when it is not listed any more, if it was seen terminating before. If not, because only
// Endpoints can be read or it was deleted by force, its pod may still be serving sessions: then it is taken to have
// ended when its termination grace period is over.
//
// A backend that is seen terminating and still serves is never final: two backends would serve one mailbox.
//
// A final loss stays final until the backend is ready again: what users were once told does not flip back to waiting.
// There are two exceptions. A removed backend that is wanted again will come back; and when every backend was lost, all
// clocks start again with the first that returns, since nobody could be moved meanwhile and the others are likely to
// follow.
//
// A Tracker has no clock and no goroutine; it is not safe for concurrent use. Equal inputs give equal views.
type Tracker struct {
	graces Graces
	view   *View
}

// NewTracker returns a Tracker that has seen nothing.
func NewTracker(g Graces) *Tracker { return &Tracker{graces: g} }

// Observe takes the next snapshot and returns the view of it. When nothing but CurrentAt changed, the new view keeps
// the Generation of the one before.
func (t *Tracker) Observe(now time.Time, s Snapshot) *View {
	prev := t.view
	if prev == nil {
		prev = &View{graces: t.graces}
	}
	next := &View{
		Generation: prev.Generation,
		CurrentAt:  s.CurrentAt,
		StartedAt:  prev.StartedAt,
		byName:     make(map[string]int, len(s.Backends)),
		byAddr:     make(map[netip.Addr]int, len(s.Backends)),
		losses:     maps.Clone(prev.losses),
		sets:       sortedSets(s.StatefulSets),
		graces:     t.graces,
	}
	if next.losses == nil {
		next.losses = make(map[string]Loss)
	}
	if prev.CurrentAt.After(next.CurrentAt) {
		next.CurrentAt = prev.CurrentAt
	}
	next.enlist(now, prev, s.Backends)
	next.lose(now, prev, s.Backends, t.view == nil)
	if len(prev.alive) == 0 && len(next.alive) > 0 {
		next.restartClocks(now)
	}
	next.judge(now)
	if t.view == nil || !next.same(prev) {
		next.Generation++
	}
	t.view = next
	return next
}

// enlist fills the alive backends.
func (v *View) enlist(now time.Time, prev *View, backends []Backend) {
	for _, b := range backends {
		if b.Condition == Ready {
			v.alive = append(v.alive, b)
		}
	}
	slices.SortFunc(v.alive, func(a, b Backend) int { return strings.Compare(a.Name, b.Name) })
	v.alive = slices.CompactFunc(v.alive, func(a, b Backend) bool { return a.Name == b.Name })
	v.since = make([]time.Time, len(v.alive))
	for i, b := range v.alive {
		v.byName[b.Name] = i
		v.byAddr[b.Addr] = i
		delete(v.losses, b.Name)
		// Another instance of the same name was away in between, even if no snapshot shows the gap.
		if old, since, ok := prev.Backend(b.Name); ok && old.Instance == b.Instance {
			v.since[i] = since
		} else {
			v.since[i] = now
		}
	}
}

// lose records the losses: what was alive and is not, and, in the first snapshot, what is listed and not ready. A
// backend that is first seen later and not ready is just starting: nobody has lost it.
func (v *View) lose(now time.Time, prev *View, backends []Backend, first bool) {
	listed := make(map[string]Backend, len(backends))
	for _, b := range backends {
		listed[b.Name] = b
		if first && b.Condition != Ready {
			v.losses[b.Name] = Loss{Backend: b, Since: now}
		}
	}
	for _, b := range prev.alive {
		if _, alive := v.byName[b.Name]; !alive {
			v.losses[b.Name] = Loss{Backend: b, Since: now}
		}
	}
	for name, l := range v.losses {
		if !l.Since.Equal(now) && l.Final(now) && now.Sub(l.Until) > forget {
			delete(v.losses, name)
			continue
		}
		b, there := listed[name]
		claim, set := claim(v.sets, name)
		v.losses[name] = l.next(now, b, there, claim, set)
	}
}

// next returns what becomes of a loss with a snapshot in which b is the backend, if it is there. A new loss has no Until
// yet; that, and how long the wait is under panic, is judge's.
func (l Loss) next(now time.Time, b Backend, there bool, claim membership, set StatefulSet) Loss {
	switch {
	case l.Cause == Removed && claim == wanted:
		l.Cause, l.Since, l.Until = Planned, now, time.Time{}
	case !l.Until.IsZero() && l.Final(now):
		return l
	case claim == unwanted:
		l.Cause = Removed
	case l.Cause == Removed: // its set cannot be read any more
	case !there || b.Condition != NotReady:
		l.Cause = Planned
	}
	l.Serving = there && b.Condition == Terminating
	l.terminated = l.terminated || there && b.Condition != NotReady
	switch {
	case there:
		l.gone = time.Time{}
	case l.gone.IsZero():
		l.gone = now
	}
	if claim == unwanted {
		switch {
		case there:
			l.Until = l.Since.Add(set.Termination)
		case l.terminated:
			l.Until = l.gone
		default:
			l.Until = l.gone.Add(set.Termination)
		}
	}
	return l
}

// restartClocks lets the users of all lost backends wait from now on.
func (v *View) restartClocks(now time.Time) {
	v.StartedAt = now
	for name, l := range v.losses {
		if l.Cause != Removed {
			l.Since, l.Until = now, now.Add(v.graces.of(l.Cause))
			v.losses[name] = l
		}
	}
}

// judge sets when the open losses end, under panic or not. Losses that are final stay as they are, and those of removed
// backends, which are no surprise.
func (v *View) judge(now time.Time) {
	open := 0
	for name, l := range v.losses {
		if l.Cause == Removed {
			continue
		}
		if l.Until.IsZero() {
			l.Until = l.Since.Add(v.graces.of(l.Cause))
			v.losses[name] = l
		}
		if !l.Final(now) {
			open++
		}
	}
	panicking := 2*open > open+len(v.alive)
	for name, l := range v.losses {
		if l.Cause == Removed || l.Final(now) {
			continue
		}
		l.Panic = panicking
		l.Until = l.Since.Add(v.graces.of(l.Cause))
		if panicking {
			l.Until = l.Since.Add(max(v.graces.Panic, v.graces.of(l.Cause)))
		}
		v.losses[name] = l
	}
}

func (g Graces) of(c Cause) time.Duration {
	if c == Failed {
		return g.Failover
	}
	return g.Restart
}

// same reports whether two views differ in nothing that users or operators could see, CurrentAt aside.
func (v *View) same(w *View) bool {
	return v.StartedAt.Equal(w.StartedAt) && slices.Equal(v.sets, w.sets) &&
		slices.EqualFunc(v.alive, w.alive, sameBackend) && maps.EqualFunc(v.losses, w.losses, func(a, b Loss) bool {
		return a.Cause == b.Cause && a.Panic == b.Panic && a.Serving == b.Serving && a.Since.Equal(b.Since) && a.Until.Equal(b.Until) && sameBackend(a.Backend, b.Backend)
	})
}

func sameBackend(a, b Backend) bool {
	return a.Name == b.Name && a.Addr == b.Addr && a.Weight == b.Weight && a.Instance == b.Instance &&
		a.Zone == b.Zone && a.Condition == b.Condition && maps.Equal(a.Ports, b.Ports)
}
