package director

import "math"

// worthMoving is how many sessions a user must have open on average to be moved for evening out. Users with fewer would
// double the moves and change little: it is sessions that make a backend crowded, not rows.
const worthMoving = 0.5

// Load is what is known of sessions at a login. Averages over a day or so are meant, not the numbers of this moment.
type Load struct {
	// Idle says that the user has no session open anywhere. Not known is not idle.
	Idle bool
	// Expected is how many sessions the user has open on average, Typical how many users have who are worth moving.
	Expected, Typical float64
	// Sessions are how many are open on each backend on average.
	Sessions map[string]float64
}

// even returns where a user goes at this login who would not notice to be moved, off a backend that is crowded.
func (p Policy) even(f Facts, backend string) (string, bool) {
	if p.EvenAbove <= 0 || f.ReadOnly || f.Load == nil || !f.Load.Idle || f.Load.Expected < worthMoving {
		return "", false
	}
	shares := sharesOf(f.View.Members(), func(name string) float64 { return f.Load.Sessions[name] })
	crowded := false
	rooms := make([]Room, 0, len(shares))
	for _, s := range shares {
		if s.Backend == backend {
			crowded = s.Has > p.EvenAbove*s.Fair
		} else {
			rooms = append(rooms, Room{Backend: s.Backend, Free: max(0, s.Fair-s.Has)})
		}
	}
	if !crowded || !f.chosen() {
		return "", false
	}
	return f.Ring.Place(f.Key, rooms)
}

// chosen draws, by the user's hash, whether somebody who weighs less than others is one of those who are moved. Who has one program
// open is without a session more often than who has three: without a draw such users would all go first, and a third more users
// be moved in the end.
func (f Facts) chosen() bool {
	weight := f.Load.Expected / f.Load.Typical
	chance := weight * math.Sqrt(weight) // measured: the square moves fewer, but takes longer than a day
	if !(chance < 1) {
		return true
	}
	drawn, _ := f.Ring.Place(f.Key, []Room{{Backend: "go", Free: chance}, {Backend: "stay", Free: 1 - chance}})
	return drawn == "go"
}

// Share is what a backend has of a load, and what would be fair by its weight.
type Share struct {
	Backend   string
	Has, Fair float64
}

// sharesOf returns the shares of all members, in their order.
func sharesOf(members []Member, load func(name string) float64) []Share {
	shares := make([]Share, len(members))
	total, weights := 0.0, 0
	for i, m := range members {
		shares[i] = Share{Backend: m.Name, Has: load(m.Name)}
		total += shares[i].Has
		weights += m.Weight
	}
	for i, m := range members {
		shares[i].Fair = total * float64(m.Weight) / float64(weights)
	}
	return shares
}

// Peak returns how many times its fair share the fullest backend has; 0 when there is no load.
func Peak(shares []Share) float64 {
	peak := 0.0
	for _, s := range shares {
		if s.Fair > 0 {
			peak = max(peak, s.Has/s.Fair)
		}
	}
	return peak
}
