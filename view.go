package director

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// View is what one replica knows of the backends at one moment: which are alive, which are lost and how long their
// users wait. It is immutable and safe for concurrent use.
type View struct {
	// Generation grows by one with every change of content. It counts within one replica only.
	Generation uint64
	// CurrentAt is when this was last known to be the truth.
	CurrentAt time.Time
	// StartedAt is when this replica first saw a backend alive, or saw one alive again after all had been lost. The
	// users of backends that it has never seen alive wait from here.
	StartedAt time.Time

	alive []Backend // sorted by name
	since []time.Time
	// returns are, of alive backends, when they came back, and until when other replicas may not have heard of it.
	returns map[string]period
	byName  map[string]int
	byAddr  map[netip.Addr]int
	losses  map[string]Loss
	sets    []StatefulSet // sorted by name
	blind   time.Duration // as in the snapshot
	gaps    int           // too
	graces  Graces
	// unseen is until when the users of backends wait that were never seen alive.
	unseen time.Time
	// gathering is until when users without a mapping wait for backends that are expected after a start; zero when they
	// do not, since those they would be spread over are all there.
	gathering time.Time
}

// period is the time from begin on, and before end.
type period struct{ begin, end time.Time }

// Cause is why a backend counts as lost.
type Cause uint8

// The causes.
const (
	// Failed backends are listed but not ready: a crash, a failing probe, a dead node.
	Failed Cause = iota
	// Planned losses were seen terminating, or vanished from the object: somebody deleted the pod.
	Planned
	// Removed backends have an ordinal that their StatefulSet does not want: they will not come back, and their users
	// wait only until they cannot serve any more.
	Removed
	// Unseen backends were never seen alive by this replica; a mapping names them.
	Unseen
	// Disabled backends were switched off by an operator: nobody waits for them.
	Disabled
)

// String returns the cause's word.
func (c Cause) String() string {
	switch c {
	case Failed:
		return "failed"
	case Planned:
		return "planned"
	case Removed:
		return "removed"
	case Unseen:
		return "unseen"
	case Disabled:
		return "disabled"
	default:
		return "unknown"
	}
}

// Loss is a backend that is not alive.
type Loss struct {
	// Backend is how it was seen last. Only Name is set when the cause is Unseen.
	Backend Backend
	Cause   Cause
	// Since is when it was first seen lost, Until when its users stop waiting for it.
	Since, Until time.Time
	// Panic is set while more than half of the backends are lost at once; Until is later for it.
	Panic bool
	// Serving is set while the backend is terminating and its readiness probe still passes: sessions that are open there
	// go on, so its users wait, beyond Until too.
	Serving bool

	from        time.Time     // from when the wait counts
	before      bool          // it was lost before this replica saw anything
	over        bool          // it was final once
	told        time.Time     // when it was first seen terminating or not at all: it was told to end by then
	terminated  bool          // it was terminating when it was listed last, so that its end can be seen too
	termination time.Duration // how long that takes at most, 0 when it is not known
	gone        time.Time     // when it was first not listed any more, zero while it is
	ended       time.Time     // when it was seen to have ended, or, if that was not, is taken to have
	calmed      time.Time     // when the last panic ended that it was part of
}

// Final reports whether the wait is over.
func (l Loss) Final(now time.Time) bool { return !l.Serving && !now.Before(l.Until) }

// Alive returns the backends that are alive, sorted by name. The caller must not change the slice.
func (v *View) Alive() []Backend { return v.alive }

// Losses returns the lost backends that this replica remembers, sorted by name.
func (v *View) Losses() []Loss {
	return slices.SortedFunc(maps.Values(v.losses), func(a, b Loss) int { return strings.Compare(a.Backend.Name, b.Backend.Name) })
}

// Backend returns the alive backend of that name and since when it has been alive without a break that this replica
// could see.
func (v *View) Backend(name string) (b Backend, since time.Time, ok bool) {
	i, ok := v.byName[name]
	if !ok {
		return Backend{}, time.Time{}, false
	}
	return v.alive[i], v.since[i], true
}

// keeps reports whether an alive backend has certainly kept a user whom the store named it for at some time.
func (v *View) keeps(name string, at time.Time) bool {
	_, since, ok := v.Backend(name)
	return ok && !since.After(at) && !v.returns[name].begin.After(at)
}

// contested reports whether another replica may still move the users of an alive backend, since it has not heard yet that this is back. It
// does not move those whose row was written since the return.
func (v *View) contested(name string, now, written time.Time) bool {
	back, ok := v.returns[name]
	return ok && now.Before(back.end) && written.Before(back.begin)
}

// renewed reports whether the row of an alive backend's user may have been written for no other reason than its return.
func (v *View) renewed(name string, written time.Time) bool {
	back, ok := v.returns[name]
	return ok && !written.Before(back.begin) && written.Before(back.end)
}

// vouchesFor is how long after its last proof the view says who is alive: no other replica can have moved anybody off a backend that was alive
// then, since users wait for the shorter of the graces at least.
func (v *View) vouchesFor() time.Duration {
	return max(freshness, min(v.graces.Failover, v.graces.Restart)-freshness)
}

// ByAddr returns the alive backend that a mapping's text names by its address.
func (v *View) ByAddr(text string) (Backend, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return Backend{}, false
	}
	i, ok := v.byAddr[addr.Unmap()]
	if !ok {
		return Backend{}, false
	}
	return v.alive[i], true
}

// Loss returns what is known of a backend that is not alive, by its name or, for rows of an older deployment, by the
// address that it had. Unknown ones come back as Unseen.
func (v *View) Loss(name string) Loss {
	if l, ok := v.losses[name]; ok {
		return l
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		for _, l := range v.losses {
			if l.Backend.Addr == addr.Unmap() {
				return l
			}
		}
	}
	l := Loss{Backend: Backend{Name: name}, Cause: Unseen, Since: v.StartedAt, Until: v.unseen}
	if claim, set := claim(v.sets, name); claim == unwanted {
		l.Cause, l.Until = Removed, l.Since.Add(set.Termination)
	}
	return l
}

// Members returns what the ring is made of: the alive backends that accept new users, sorted by name. Those that their
// StatefulSet does not want any more are about to go, and take none unless there are no others.
func (v *View) Members() []Member {
	members := make([]Member, 0, len(v.alive))
	leaving := make([]Member, 0)
	for _, b := range v.alive {
		switch claim, _ := claim(v.sets, b.Name); {
		case b.Weight <= 0:
		case claim == unwanted:
			leaving = append(leaving, Member{Name: b.Name, Weight: b.Weight})
		default:
			members = append(members, Member{Name: b.Name, Weight: b.Weight})
		}
	}
	if len(members) == 0 {
		return leaving
	}
	return members
}
