package director

import (
	"cmp"
	"slices"
)

// Resident is a mapped user as the planner sees it.
type Resident struct {
	User, Backend string
	// Key is what the ring hashes for this user.
	Key string
	// Load is how much the user weighs: 1 if rows are to be evened out, sessions on average if those are. Users of no load
	// are never moved.
	Load float64
	// Idle users have no session open: nobody notices when they are moved.
	Idle bool
	// Stays keeps a user where he is; he counts.
	Stays bool
	// Moving is why the user is being moved to Backend, empty if he is not.
	Moving Reason
}

// Planner says what to even out, and how far.
type Planner struct {
	// Slack is how much more than its fair share a backend may have: 0.1 for a tenth more.
	Slack float64
	// IdleFirst takes users without sessions before the others. It costs some more moves where users weigh differently, and
	// spares nearly all kicks. Otherwise the heaviest go first, which takes the fewest moves.
	IdleFirst bool
}

// PlannedMove is one user's move in a plan.
type PlannedMove struct {
	Resident
	To string
}

// Plan is what evening out takes.
type Plan struct {
	Moves []PlannedMove
	// Least is the smallest number of moves that could bring every backend to its limit: where users weigh the same, a plan
	// has no more.
	Least int
	// Before and After are the loads of the members.
	Before, After []Share
}

// Plan returns the moves that bring every member to at most 1+Slack times its fair share. Members that have too much give,
// and none gets more than its limit, so that no move makes another necessary. Users go where the ring proposes if there is
// room, which saves a later move, otherwise to the member that is filled least. Residents of others than the members stay
// and do not count. It is pure: equal arguments give equal plans.
//
// Equal users are moved in the least number possible: the sum of what each member has above its limit. Where the limit is
// no whole number of users, as many as fit nowhere stay.
func (p Planner) Plan(members []Member, r Ring, residents []Resident) Plan {
	has := make(map[string]float64, len(members))
	on := make(map[string][]Resident, len(members))
	for _, m := range members {
		has[m.Name] = 0
	}
	for _, u := range residents {
		if _, ok := has[u.Backend]; ok && u.Load > 0 {
			has[u.Backend] += u.Load
			if !u.Stays {
				on[u.Backend] = append(on[u.Backend], u)
			}
		}
	}
	load := func(name string) float64 { return has[name] }
	plan := Plan{Before: sharesOf(members, load)}
	slices.SortFunc(plan.Before, func(a, b Share) int { return cmp.Compare(a.Backend, b.Backend) })
	limits := make(map[string]float64, len(members))
	for _, s := range plan.Before {
		limits[s.Backend] = s.Fair * (1 + p.Slack) * (1 + roundOff)
	}
	w := work{planner: p, ring: r, shares: plan.Before, has: has, limits: limits}
	for _, s := range plan.Before {
		if s.Has > limits[s.Backend] {
			plan.Least += least(on[s.Backend], s.Has, limits[s.Backend])
			w.relieve(s.Backend, on[s.Backend])
		}
	}
	plan.Moves = w.moves
	plan.After = sharesOf(members, load)
	slices.SortFunc(plan.After, func(a, b Share) int { return cmp.Compare(a.Backend, b.Backend) })
	return plan
}

// roundOff is more than sums of loads are off by rounding, as a share of them.
const roundOff = 1e-9

// work is a plan that is being made.
type work struct {
	planner     Planner
	ring        Ring
	shares      []Share
	has, limits map[string]float64
	moves       []PlannedMove
}

// relieve moves users off a member until it is at its limit, or no user fits elsewhere.
func (w *work) relieve(from string, users []Resident) {
	slices.SortFunc(users, func(a, b Resident) int { return cmp.Or(w.compare(a, b), cmp.Compare(a.User, b.User)) })
	for len(users) > 0 {
		// Those that are as good as each other: first who goes where the ring wants him.
		group := 1
		for group < len(users) && w.compare(users[0], users[group]) == 0 {
			group++
		}
		var others []Resident
		for _, u := range users[:group] {
			if w.has[from] <= w.limits[from] {
				return
			}
			if to, ok := w.ring.Propose(u.Key); ok && to != from && w.fits(u, to) {
				w.move(u, to)
			} else {
				others = append(others, u)
			}
		}
		for _, u := range others {
			if w.has[from] <= w.limits[from] {
				return
			}
			if to := w.emptiest(); to != from && w.fits(u, to) {
				w.move(u, to)
			}
		}
		users = users[group:]
	}
}

// compare says who of two goes first.
func (w *work) compare(a, b Resident) int {
	if w.planner.IdleFirst && a.Idle != b.Idle {
		if a.Idle {
			return -1
		}
		return 1
	}
	return cmp.Compare(b.Load, a.Load)
}

func (w *work) fits(u Resident, to string) bool { return w.has[to]+u.Load <= w.limits[to] }

func (w *work) move(u Resident, to string) {
	w.has[u.Backend] -= u.Load
	w.has[to] += u.Load
	w.moves = append(w.moves, PlannedMove{Resident: u, To: to})
}

// emptiest returns the member that has the smallest part of its fair share.
func (w *work) emptiest() string {
	best := w.shares[0]
	for _, s := range w.shares[1:] {
		if w.has[s.Backend]*best.Fair < w.has[best.Backend]*s.Fair {
			best = s
		}
	}
	return best.Backend
}

// least returns how many of the users would have to leave at least.
func least(users []Resident, has, limit float64) int {
	loads := make([]float64, len(users))
	for i, u := range users {
		loads[i] = u.Load
	}
	slices.SortFunc(loads, func(a, b float64) int { return cmp.Compare(b, a) })
	n := 0
	for _, l := range loads {
		if has <= limit {
			break
		}
		has -= l
		n++
	}
	return n
}
