package director_test

import (
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// obeys makes a director that follows orders.
func obeys(c *director.Config) { c.Ordered = true }

func TestNobodyIsAssignedBeforeOrdersAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), obeys)
		b.store.put("older", "dovecot-backend-1")
		time.Sleep(time.Second)
		b.see(backends(2))
		b.store.put("old", "dovecot-backend-1")
		b.want("new", director.Hold, director.ViewPartial, "")
		b.want("old", director.Serve, director.Mapped, "dovecot-backend-1")
		b.want("older", director.Serve, director.Renewed, "dovecot-backend-1") // who stays needs no orders
		b.Obey(director.Orders{})
		b.want("new", director.Serve, director.Proposed, "dovecot-backend-0")
	})
}

func TestStandingsAreObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), obeys)
		b.see(backends(3))
		order := func(standings ...director.Standing) { b.Obey(director.Orders{Standings: standings}) }
		order()
		b.store.put("old", "dovecot-backend-0")
		generation := b.View().Generation
		for _, state := range []director.State{director.Drain, director.Standby} {
			order(director.Standing{Backend: "dovecot-backend-0", State: state})
			b.want("new-"+string(state), director.Serve, director.Proposed, "dovecot-backend-1")
			b.want("old", director.Serve, director.Mapped, "dovecot-backend-0")
		}
		if b.View().Generation == generation {
			t.Error("the view is the same for those who watch it")
		}
		order(director.Standing{Backend: "dovecot-backend-0", State: director.Active, Weight: 7})
		if members := b.View().Members(); members[0].Weight != 7 || members[1].Weight != 1 {
			t.Errorf("%+v", members)
		}

		time.Sleep(time.Minute)
		b.again()
		order(director.Standing{Backend: "dovecot-backend-0", State: director.Off})
		if l := b.View().Loss("dovecot-backend-0"); l.Cause != director.Disabled || !l.Final(time.Now()) {
			t.Errorf("%+v", l)
		}
		b.want("old", director.Serve, director.Placed, "dovecot-backend-1")

		b.store.put("back", "dovecot-backend-0")
		order()
		b.want("back", director.Serve, director.Mapped, "dovecot-backend-0")
		// One that fails when it is switched on again is waited for as any other.
		order(director.Standing{Backend: "dovecot-backend-0", State: director.Off})
		b.see(with(backends(3), 0, director.NotReady))
		order()
		b.want("back", director.Hold, director.InGrace, "dovecot-backend-0")
	})
}

// TestOffForABackendThatIsGone has an operator who knows that a node is dead, whose pod is not even listed any more.
func TestOffForABackendThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), obeys)
		b.see(backends(3))
		b.Obey(director.Orders{})
		b.store.put("old", "dovecot-backend-0")
		b.see(backends(3)[1:])
		b.want("old", director.Hold, director.InGrace, "dovecot-backend-0")
		b.Obey(director.Orders{Standings: []director.Standing{{Backend: "dovecot-backend-0", State: director.Off}}})
		b.want("old", director.Serve, director.Placed, "dovecot-backend-1")
	})
}

func TestUsersWhoAreMovedAreNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), obeys)
		b.see(backends(2))
		time.Sleep(2 * time.Second) // what is remembered is so by the second
		b.Obey(director.Orders{})
		for _, user := range []string{"ada", "bob"} {
			b.store.put(user, "dovecot-backend-0")
			b.want(user, director.Serve, director.Mapped, "dovecot-backend-0")
		}
		down := func(user string, verb director.Verb, reason director.Reason) {
			t.Helper()
			b.store.setDown(true)
			b.want(user, verb, reason, "")
			b.store.setDown(false)
		}
		down("ada", director.Serve, director.LastKnown)
		b.Obey(director.Orders{Moving: []string{"ada"}})
		down("ada", director.Unavailable, director.StoreDown)
		down("bob", director.Serve, director.LastKnown)
		// A lookup that had read the row before ends now, and learns it.
		b.want("ada", director.Serve, director.Mapped, "dovecot-backend-0")
		b.Obey(director.Orders{})
		down("ada", director.Unavailable, director.StoreDown)
		b.store.put("ada", "dovecot-backend-1")
		b.want("ada", director.Serve, director.Mapped, "dovecot-backend-1")
		down("ada", director.Serve, director.LastKnown)
	})
}

func TestAMoveHolds(t *testing.T) {
	b := newBench(t, newMemory())
	b.see(backends(2))
	b.store.put("ada", "dovecot-backend-0")
	b.store.moving("ada", &director.Moving{To: "dovecot-backend-1", Left: 20 * time.Second})
	a := b.want("ada", director.Hold, director.BeingMoved, "dovecot-backend-0")
	if got, want := a.Detail(), "moving: the user is being moved off backend dovecot-backend-0, for 20s more at most; try again"; got != want {
		t.Errorf("%q", got)
	}
}

// TestFingerprint holds what replicas have to see alike to agree.
func TestFingerprint(t *testing.T) {
	of := func(all []director.Backend) string {
		b := newBench(t, newMemory())
		if b.Self() != (director.Replica{}) {
			t.Error("a replica without a view says something of it")
		}
		b.see(backends(3))
		b.see(all)
		self := b.Self()
		if lost := 3 - self.Alive; self.Lost != lost || self.Generation != b.View().Generation {
			t.Errorf("%+v", self)
		}
		return self.Fingerprint
	}
	seen := map[string]string{}
	for name, all := range map[string][]director.Backend{
		"all":     backends(3),
		"address": {backend(0), backend(1), func() director.Backend { b := backend(2); b.Addr = backend(7).Addr; return b }()},
		"weight":  {backend(0), backend(1), func() director.Backend { b := backend(2); b.Weight = 2; return b }()},
		"failed":  with(backends(3), 2, director.NotReady),
		"deleted": with(backends(3), 2, director.Stopping),
		"another": with(backends(3), 1, director.NotReady),
	} {
		print := of(all)
		if twin, ok := seen[print]; ok {
			t.Errorf("%s and %s are alike", name, twin)
		}
		seen[print] = name
		if again := of(all); again != print {
			t.Errorf("%s: two replicas that see the same differ", name)
		}
	}
}

func TestHeard(t *testing.T) {
	b := newBench(t, newMemory(), obeys)
	if b.Heard() {
		t.Error("nothing was said yet")
	}
	if b.Obey(director.Orders{}); !b.Heard() {
		t.Error("no orders are orders too")
	}
}
