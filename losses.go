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
//	any --switched off by an operator------> lost, disabled: final
//	lost, disabled --switched on-----------> alive, or lost, planned (from now on)
//
// A backend that is seen terminating and still serves is never final: two backends would serve one mailbox. The wait for
// its restart counts from when it stops serving, and again from when it has ended, as far as that is seen. What was lost
// before the first snapshot is waited for as long as for a restart, since it may be one. Where the end of a backend
// cannot be seen, because the source does not list those that terminate, or it vanished without having been seen so, it
// is taken to go on for the termination grace period of its StatefulSet, if that is known; nothing is final before that
// either.
//
// A final loss stays final until the backend is ready again: what users were once told does not flip back to waiting,
// unless it is seen terminating and serving after all. There are two more exceptions. A removed backend that is wanted
// again will come back; and when every backend was lost, all
// clocks start again with the first that returns, since nobody could be moved meanwhile and the others are likely to
// follow.
//
// When a panic ends because backends return, those that have not returned yet are waited for from then on, but not for
// longer than the panic would have lasted.
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
		returns:    make(map[string]period),
		losses:     maps.Clone(prev.losses),
		sets:       sortedSets(s.StatefulSets),
		unseen:     prev.unseen,
		blind:      s.Blind,
		gaps:       s.Gaps,
		graces:     t.graces,
	}
	if next.losses == nil {
		next.losses = make(map[string]Loss)
	}
	if prev.CurrentAt.After(next.CurrentAt) {
		next.CurrentAt = prev.CurrentAt
	}
	next.enlist(now, prev, s.Backends)
	if s.Gaps != prev.gaps {
		for _, b := range next.alive {
			next.mayBeBack(b.Name, now, prev)
		}
	}
	next.pause(now, s.Blind-prev.blind)
	next.lose(now, prev, s, t.view == nil)
	if len(prev.alive) == 0 && len(next.alive) > 0 {
		next.restartClocks(now)
	}
	next.judge(now)
	next.gather()
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
		old, since, ok := prev.Backend(b.Name)
		if r, returned := prev.returns[b.Name]; ok && returned {
			v.returns[b.Name] = r
		}
		if ok && old.Instance == b.Instance {
			v.since[i] = since
			continue
		}
		v.since[i] = now
		if ok {
			v.mayBeBack(b.Name, now, prev)
		} else {
			v.back(b.Name, now)
		}
	}
}

// mayBeBack notes that a backend was perhaps lost and has come back since the last proof, which matters if that is as long ago as users wait.
func (v *View) mayBeBack(name string, now time.Time, prev *View) {
	if now.Sub(prev.CurrentAt) > prev.vouchesFor() {
		v.back(name, now)
	}
}

// back notes that a backend is back, or was there when this replica began to look. However short its absence was here, another replica may have
// seen a longer one, and may move users until its next proof of what it sees, and a little longer: it writes after it has decided.
func (v *View) back(name string, now time.Time) {
	v.returns[name] = period{now, now.Add(hearsay)}
}

// pause lets the waits that were open when the source lost contact end as much later as it was without.
func (v *View) pause(now time.Time, blind time.Duration) {
	if blind <= 0 {
		return
	}
	then := now.Add(-blind)
	if then.Before(v.unseen) {
		v.unseen = v.unseen.Add(blind)
	}
	for name, l := range v.losses {
		if l.over || l.Final(then) {
			continue
		}
		l.from, l.Until = l.from.Add(blind), l.Until.Add(blind)
		if !l.calmed.IsZero() {
			l.calmed = l.calmed.Add(blind)
		}
		v.losses[name] = l
	}
}

// lose records the losses: what was alive and is not; what is still serving, but terminating, when it is first seen; and
// what is listed in the first snapshot and not ready. A backend that is first seen later and not ready is just starting:
// nobody has lost it.
func (v *View) lose(now time.Time, prev *View, s Snapshot, first bool) {
	listed := make(map[string]Backend, len(s.Backends))
	for _, b := range s.Backends {
		listed[b.Name] = b
		if _, known := v.losses[b.Name]; known {
			continue
		}
		if first && b.Condition != Ready || b.Condition == Terminating || b.Condition == SwitchedOff {
			l := newLoss(now, b)
			l.before = first
			v.losses[b.Name] = l
		}
	}
	for _, b := range prev.alive {
		if _, alive := v.byName[b.Name]; !alive {
			v.losses[b.Name] = newLoss(now, b)
		}
	}
	for name, l := range v.losses {
		if !l.Since.Equal(now) && l.Final(now) && now.Sub(l.Until) > forget {
			delete(v.losses, name)
			continue
		}
		b, there := listed[name]
		claim, set := claim(v.sets, name)
		v.losses[name] = l.next(now, sight{backend: b, there: there, ends: s.ListsTerminating, claim: claim, termination: set.Termination})
	}
}

func newLoss(now time.Time, b Backend) Loss { return Loss{Backend: b, Since: now, from: now} }

// sight is what a snapshot shows of a lost backend.
type sight struct {
	backend     Backend
	there       bool // it is listed
	ends        bool // it would be listed while it terminates
	claim       membership
	termination time.Duration // unless it is unclaimed
}

// next returns what becomes of a loss. A new loss has no Until yet; that is judge's.
func (l Loss) next(now time.Time, s sight) Loss {
	if s.there && s.backend.Condition == SwitchedOff {
		if l.Cause != Disabled {
			l.Cause, l.Since, l.Until, l.over, l.Serving, l.Panic = Disabled, now, now, true, false, false
		}
		return l
	}
	serving := s.there && s.backend.Condition == Terminating
	failing := s.there && s.backend.Condition == NotReady
	l.over = l.over || !l.Until.IsZero() && l.Final(now)
	switch {
	case l.Cause == Disabled && s.there, l.Cause == Removed && s.claim == wanted:
		l.Cause, l.Since, l.from, l.Until, l.over = Planned, now, now, time.Time{}, false
	case l.over:
		l.Serving, l.terminated = serving, s.there && !failing // the latter matters when all clocks start again
		return l
	case s.claim == unwanted && !failing: // one that fails is not even told to end
		l.Cause = Removed
	case l.Cause == Removed: // its set cannot be read any more
	case !failing:
		l.Cause = Planned
	}
	if s.claim != unclaimed {
		l.termination = s.termination
	}
	if !failing && l.told.IsZero() {
		l.told = now
	}
	if l.Serving && !serving || l.terminated && !s.there && l.gone.IsZero() {
		l.from, l.Until = now, time.Time{} // it ended, so its restart begins
	}
	l.Serving = serving
	if s.there {
		l.terminated, l.gone = !failing, time.Time{}
	} else if l.gone.IsZero() {
		l.gone = now
	}
	switch {
	case failing:
		l.ended = time.Time{}
	case s.there:
		l.ended = l.told.Add(l.termination)
	case l.terminated && s.ends:
		l.ended = l.gone
	default:
		l.ended = l.gone.Add(l.termination)
	}
	return l
}

// restartClocks lets the users of all lost backends wait from now on.
func (v *View) restartClocks(now time.Time) {
	v.StartedAt = now
	v.unseen = now.Add(v.graces.Restart)
	for name, l := range v.losses {
		if l.Cause != Removed && l.Cause != Disabled {
			l.Since, l.from, l.over = now, now, false
			l.Until = now.Add(v.graces.of(l.Cause))
			v.losses[name] = l
		}
	}
}

// judge sets when the open losses end, under panic or not. Losses that are final stay as they are. Those of removed
// backends, which are no surprise, make no panic and end with the backend.
func (v *View) judge(now time.Time) {
	open := 0
	for name, l := range v.losses {
		switch {
		case l.Cause == Removed:
			l.Until, l.Panic = l.ended, false
		case l.Until.IsZero():
			l.Until = l.until(v.graces)
		}
		v.losses[name] = l
		if l.Cause != Removed && !l.over && !l.Final(now) {
			open++
		}
	}
	panicking := 2*open > open+len(v.alive)
	for name, l := range v.losses {
		if l.Cause == Removed || l.over || l.Final(now) {
			continue
		}
		if l.Panic && !panicking {
			l.calmed = now
		}
		l.Panic = panicking
		l.Until = l.until(v.graces)
		v.losses[name] = l
	}
}

// until returns when the users of a backend that may come back stop waiting.
func (l Loss) until(g Graces) time.Time {
	grace := g.of(l.Cause)
	if l.before {
		grace = max(grace, g.Restart) // it may be one that was deleted and starts again
	}
	until, most := l.from.Add(grace), l.from.Add(max(g.Panic, grace))
	switch {
	case l.Panic:
		until = most
	case !l.calmed.IsZero():
		until = earlier(later(until, l.calmed.Add(grace)), most)
	}
	if l.Cause == Failed {
		return until // it has not been told to end
	}
	return later(until, l.ended)
}

// gather decides whether backends are still expected after a start: those that have been lost since then and may come
// back, and those that a StatefulSet wants and that were never seen.
func (v *View) gather() {
	expected := false
	for name, l := range v.losses {
		claim, _ := claim(v.sets, name)
		expected = expected || l.Since.Equal(v.StartedAt) && claim != unwanted
	}
	for _, s := range v.sets {
		for ordinal := s.Start; ordinal < s.Start+s.Replicas && !expected; ordinal++ {
			name := s.pod(ordinal)
			_, alive := v.byName[name]
			_, lost := v.losses[name]
			expected = !alive && !lost
		}
	}
	if expected {
		v.gathering = v.StartedAt.Add(v.graces.Failover)
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
	return v.StartedAt.Equal(w.StartedAt) && v.unseen.Equal(w.unseen) && slices.Equal(v.sets, w.sets) &&
		slices.EqualFunc(v.alive, w.alive, sameBackend) && maps.EqualFunc(v.losses, w.losses, func(a, b Loss) bool {
		return a.Cause == b.Cause && a.Panic == b.Panic && a.Serving == b.Serving && a.Since.Equal(b.Since) && a.Until.Equal(b.Until) && sameBackend(a.Backend, b.Backend)
	})
}

func sameBackend(a, b Backend) bool {
	return a.Name == b.Name && a.Addr == b.Addr && a.Weight == b.Weight && a.Instance == b.Instance &&
		a.Zone == b.Zone && a.Condition == b.Condition && maps.Equal(a.Ports, b.Ports)
}
