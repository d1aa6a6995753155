package director

import (
	"context"
	"errors"
	"slices"
)

// Lazy evens out sessions without ending any: users of a crowded backend who are often logged in, and are not now, are moved so that their
// next login lands elsewhere. At that login itself it would be too late: a move holds lookups for some seconds, so that no login
// that was answered before can still be on its way to the old backend.
type Lazy struct {
	// Above is how many times its share of the sessions a backend has that users are moved off; 1.1 for a tenth more. With 0 nobody is.
	Above float64
	// Rate is how many users are moved in a minute at most.
	Rate   int
	Census *Census
}

// even begins moves of users who are not logged in, after each poll of the sessions.
func (k *Conductor) even(ctx context.Context) {
	lazy := k.config.Lazy
	report := lazy.Census.Report()
	if report == nil || !report.Complete || !report.At.After(k.evened) || k.now().Sub(report.At) > 2*lazy.Census.config.Every {
		return
	}
	elapsed := report.At.Sub(k.evened)
	k.evened = report.At
	idle, typical, sessions := lazy.Census.idlers()
	state := k.config.Director.state.Load()
	if len(idle) == 0 || !crowded(state.members, sessions, lazy.Above) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	stay, left, err := k.mayEven(ctx)
	if err != nil {
		k.log.Warn("sessions are not evened out; it is tried again after the next poll", "error", err)
		return
	}
	left = min(left, max(1, int(float64(lazy.Rate)*min(elapsed, 2*lazy.Census.config.Every).Minutes())), movesAtOnce-len(k.config.Director.orders.Load().moving))
	policy := Policy{EvenAbove: lazy.Above}
	begun := 0
	for _, u := range idle {
		if begun >= left || ctx.Err() != nil {
			break
		}
		user, err := k.config.Director.config.Users.Canonical(u.user)
		if err != nil || stay[u.user] {
			continue
		}
		to, ok := policy.even(Facts{
			View: state.view, Ring: state.ring, Key: user.Key,
			Load: &Load{Idle: true, Expected: u.average, Typical: typical, Sessions: sessions},
		}, u.backend)
		if !ok {
			continue
		}
		err = k.begin(ctx, Move{User: u.user, From: u.backend, To: to, Reason: Evened, IdleOnly: true})
		switch {
		case errors.Is(err, ErrMovedMeanwhile), errors.Is(err, ErrNoMapping):
			lazy.Census.moves(u.user, "")
			continue
		case errors.Is(err, ErrMoving), errors.Is(err, ErrNotQuiet):
			continue
		case err != nil:
			k.log.Warn("sessions are not evened out; it is tried again after the next poll", "error", err)
			left = 0
			continue
		}
		sessions[u.backend] -= u.average
		sessions[to] += u.average
		lazy.Census.moves(u.user, to)
		begun++
	}
	if begun > 0 && k.config.Begun != nil {
		k.config.Begun()
	}
}

// mayEven returns who is to stay, and how many users may be moved now.
func (k *Conductor) mayEven(ctx context.Context) (stay map[string]bool, left int, err error) {
	if err := nobodySilent(ctx, k.config.Tasks); err != nil {
		return nil, 0, err
	}
	if left, err = k.budget(ctx); err != nil {
		return nil, 0, err
	}
	stay, err = k.config.Tasks.Settled(ctx, k.config.Stay)
	return stay, left, err
}

// crowded reports whether a member has more than so many times its share of the sessions.
func crowded(members []Member, sessions map[string]float64, above float64) bool {
	return slices.ContainsFunc(sharesOf(members, func(name string) float64 { return sessions[name] }), func(s Share) bool { return s.Has > above*s.Fair })
}
