package director

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"maps"
)

// Orders are what operators have decided and movers are about, as the store keeps it and every replica follows it.
type Orders struct {
	// Standings are of the backends that something was said about.
	Standings []Standing
	// Moving are the users who are being moved.
	Moving []string
}

// orders are the part of Orders that lookups read.
type orders struct {
	heard  bool
	moving map[string]bool
}

// Obey takes the orders as they are now. When it returns, lookups that begin see them, and no user who is or was being moved is served
// from memory as he was before. It is for the one follower of the store.
func (d *Director) Obey(o Orders) {
	d.observe.Lock()
	defer d.observe.Unlock()
	before := d.orders.Load()
	next := &orders{heard: true, moving: make(map[string]bool, len(o.Moving))}
	for _, user := range o.Moving {
		next.moving[user] = true
	}
	d.orders.Store(next)
	for user := range before.moving {
		if !next.moving[user] {
			// Lookups that had begun before the move may have learnt where he was; they have ended since.
			d.known.forget(user)
		}
	}
	standings := make(map[string]Standing, len(o.Standings))
	for _, s := range o.Standings {
		s.Age = 0 // it grows by itself
		standings[s.Backend] = s
	}
	if maps.Equal(standings, d.standings) {
		return
	}
	for name, s := range standings {
		if d.standings[name] != s {
			d.log.Info("an operator's order for a backend is in force", "backend", name, "state", s.State, "weight", s.Weight, "actor", s.Actor, "note", s.Note)
		}
	}
	for name := range d.standings {
		if _, ok := standings[name]; !ok {
			d.log.Info("an operator's order for a backend was taken back", "backend", name)
		}
	}
	d.standings = standings
	if d.snapshot != nil {
		d.publish()
	}
}

// Heard reports whether Obey was called.
func (d *Director) Heard() bool { return d.orders.Load().heard }

// Fingerprint is equal in two replicas that see the same backends in the same condition, and almost certainly different in others.
func (v *View) Fingerprint() string {
	h := fnv.New64a()
	for _, b := range v.alive {
		fmt.Fprintln(h, b.Name, b.Addr, b.Weight)
	}
	for _, l := range v.Losses() {
		fmt.Fprintln(h, l.Backend.Name, l.Cause)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// standing returns what operators want of a backend.
func (d *Director) standing(backend string) Standing {
	d.observe.Lock()
	defer d.observe.Unlock()
	if s, ok := d.standings[backend]; ok {
		return s
	}
	return Standing{Backend: backend, State: Active}
}

// Self returns how this replica is, for the others.
func (d *Director) Self() Replica {
	view := d.View()
	if view == nil {
		return Replica{}
	}
	return Replica{Generation: view.Generation, Fingerprint: view.Fingerprint(), Alive: len(view.alive), Lost: len(view.losses)}
}
