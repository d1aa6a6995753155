package director

import (
	"fmt"
	"time"
)

// answer adds to a decision what the proxy needs.
func (d *Director) answer(st *state, r Request, user string, decision Decision) Answer {
	a := Answer{Decision: decision, User: user, At: d.now()}
	if decision.Verb != Serve {
		return a
	}
	b, _, _ := st.view.Backend(decision.Backend)
	a.Addr = b.Addr
	if r.Protocol != "" {
		a.Port, _ = b.Port(r.Protocol)
	}
	return a
}

// Detail is one sentence for the proxy's log: what is wrong and what happens next. It is empty with Serve.
func (a Answer) Detail() string {
	d := a.Decision
	if d.Verb == Serve {
		return ""
	}
	wait := "try again later"
	if left := d.Until.Sub(a.At); left > 0 {
		wait = fmt.Sprintf("waiting up to %s more for it to come back", left.Round(time.Second))
	}
	switch d.Reason {
	case InGrace:
		return fmt.Sprintf("%s: backend %s is lost, %s", d.Reason, d.Backend, wait)
	case InPanic:
		return fmt.Sprintf("%s: most backends are lost at once, %s among them, %s", d.Reason, d.Backend, wait)
	case ViewBehind:
		return fmt.Sprintf("%s: another replica has seen backend %s alive, this one has not; try again", d.Reason, d.Backend)
	case ViewPartial:
		if d.Until.IsZero() {
			return fmt.Sprintf("%s: it is not known yet which backends take users; try again", d.Reason)
		}
		return fmt.Sprintf("%s: not all backends are there yet after a start, new users wait up to %s for them", d.Reason, d.Until.Sub(a.At).Round(time.Second))
	case ViewStale:
		if d.Verb == Unavailable {
			return fmt.Sprintf("%s: neither the database nor the API server can be reached, so this user may have been moved off backend %s; try again later", d.Reason, d.Backend)
		}
		return fmt.Sprintf("%s: backend %s is lost, but it cannot be proven now that it did not come back; try again", d.Reason, d.Backend)
	case BeingMoved:
		return fmt.Sprintf("%s: the user is being moved off backend %s, for %s more at most; try again", d.Reason, d.Backend, d.Until.Sub(a.At).Round(time.Second))
	case Contended:
		return fmt.Sprintf("%s: the mapping is being changed by somebody else all the time; try again", d.Reason)
	case NoView:
		return fmt.Sprintf("%s: the backends are not known yet; try again", d.Reason)
	case NoBackend:
		return fmt.Sprintf("%s: no backend is alive that takes this user; try again later", d.Reason)
	case StoreDown:
		return fmt.Sprintf("%s: the database cannot be reached and this user's backend is not remembered; try again later", d.Reason)
	case UnknownUser:
		return fmt.Sprintf("%s: the database knows no such mailbox", d.Reason)
	}
	return string(d.Reason)
}

// report logs how one view differs from the one before: a line per backend that was lost, came back, moved or joined.
func (d *Director) report(before, after *View) {
	if before == nil {
		d.log.Info("first complete view of the backends", "generation", after.Generation, "alive", len(after.alive), "lost", len(after.losses))
		before = &View{}
	}
	if before.Generation == after.Generation {
		return
	}
	for _, l := range after.Losses() {
		old, lost := before.losses[l.Backend.Name]
		if lost && old.Cause == l.Cause && old.Panic == l.Panic && old.Until.Equal(l.Until) {
			continue
		}
		d.log.Warn("backend lost; its users get a temporary failure until it is back or the wait is over, then they are moved",
			"backend", l.Backend.Name, "address", l.Backend.Addr, "cause", l.Cause.String(), "panic", l.Panic,
			"wait", l.Until.Sub(l.Since), "generation", after.Generation)
	}
	for i, b := range after.alive {
		old, _, alive := before.Backend(b.Name)
		_, lost := before.losses[b.Name]
		switch {
		case lost:
			d.log.Info("backend is back", "backend", b.Name, "address", b.Addr, "away", after.since[i].Sub(before.losses[b.Name].Since), "generation", after.Generation)
		case !alive:
			d.log.Info("backend joined", "backend", b.Name, "address", b.Addr, "generation", after.Generation)
		case old.Addr != b.Addr:
			d.log.Info("backend has a new address", "backend", b.Name, "address", b.Addr, "before", old.Addr, "generation", after.Generation)
		}
	}
}
