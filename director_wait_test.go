package director_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// TestARollingRestartMovesNobody restarts five backends one after the other, each away for 60 s and back with another
// address and instance, while every user logs in all the time.
func TestARollingRestartMovesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory())
		b.prove = true
		all := backends(5)
		for i := range 50 {
			b.store.put(fmt.Sprintf("user-%d", i), fmt.Sprintf("dovecot-backend-%d", i%5))
		}
		b.see(all)
		rows := maps.Clone(b.store.rows)
		for n := range all {
			b.see(without(all, n))
			for range 6 {
				time.Sleep(10 * time.Second)
				for i := range 50 {
					a := b.lookup(fmt.Sprintf("user-%d", i))
					if held := a.Verb == director.Hold; held != (i%5 == n) {
						t.Fatalf("user-%d while backend %d restarts: %+v", i, n, a)
					}
				}
			}
			all[n].Addr = all[n].Addr.Next()
			all[n].Addr = all[n].Addr.Next()
			all[n].Instance += "-again"
			b.see(all)
			time.Sleep(10 * time.Second)
		}
		for user, row := range rows {
			if got := b.store.row(user); got != row.backend {
				t.Errorf("%s moved from %s to %s", user, row.backend, got)
			}
		}
	})
}

func TestALossMovesItsOwnUsersOnlyAfterTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory())
		b.prove = true
		for i := range 5 {
			b.store.put(fmt.Sprintf("user-%d", i), fmt.Sprintf("dovecot-backend-%d", i))
		}
		b.see(backends(5))
		b.see(with(backends(5), 1, director.NotReady))
		time.Sleep(graces.Failover - time.Second)
		b.want("user-1", director.Hold, director.InGrace, "dovecot-backend-1")
		time.Sleep(time.Second)
		a := b.want("user-1", director.Serve, director.Placed, "")
		if a.Backend == "dovecot-backend-1" || b.store.row("user-1") != a.Backend {
			t.Errorf("placed on %s, stored %s", a.Backend, b.store.row("user-1"))
		}
		for _, i := range []int{0, 2, 3, 4} {
			b.want(fmt.Sprintf("user-%d", i), director.Serve, director.Mapped, fmt.Sprintf("dovecot-backend-%d", i))
		}
	})
}

func TestWithoutProofNobodyIsMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory())
		b.store.put("ada", "dovecot-backend-1")
		b.see(backends(3))
		b.see(backends(1))
		time.Sleep(time.Hour)
		start := time.Now()
		b.want("ada", director.Hold, director.ViewStale, "dovecot-backend-1")
		if b.confirmed.Load() == 0 {
			t.Error("nobody asked for a proof")
		}
		if waited := time.Since(start); waited == 0 || waited > time.Second {
			t.Errorf("waited %s for the proof", waited)
		}
		start = time.Now()
		b.want("ada", director.Hold, director.ViewStale, "dovecot-backend-1")
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %s right after waiting in vain", waited)
		}
		b.want("new", director.Serve, director.Proposed, "dovecot-backend-0")
		b.prove = true
		time.Sleep(time.Minute)
		b.want("ada", director.Serve, director.Placed, "dovecot-backend-0")
	})
}

// TestCutOffFromAll has a replica that reaches neither the store nor the source: others may move users, and it would not hear of it.
func TestCutOffFromAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, propose := newBench(t, newMemory()), newBench(t, newMemory(), proposes)
		for _, b := range []*bench{b, propose} {
			b.see(backends(3))
			b.want("ada", director.Serve, director.Proposed, "dovecot-backend-0")
			b.store.setDown(true)
		}
		time.Sleep(graces.Failover - 5*time.Second)
		b.want("ada", director.Serve, director.LastKnown, "dovecot-backend-0")
		if n := b.confirmed.Load(); n != 1 {
			t.Errorf("a proof was asked for %d times before it was needed", n)
		}
		time.Sleep(time.Second)
		start := time.Now()
		if a := b.want("ada", director.Unavailable, director.ViewStale, "dovecot-backend-0"); !strings.Contains(a.Detail(), "neither the database nor the API server") {
			t.Error(a.Detail())
		}
		if waited := time.Since(start); waited == 0 || waited > time.Second {
			t.Errorf("waited %s for a proof", waited)
		}
		propose.want("ada", director.Serve, director.LastKnown, "dovecot-backend-0")
		b.prove = true
		b.want("ada", director.Unavailable, director.ViewStale, "dovecot-backend-0") // it has just waited in vain
		time.Sleep(time.Second)
		b.want("ada", director.Serve, director.LastKnown, "dovecot-backend-0")
	})
}

// TestReplicasAgreeOnUsersOfABackendThatIsBack has one come back when its users have stopped waiting, and a second replica that has not heard
// of it: whoever writes a user's row first decides where he is.
func TestReplicasAgreeOnUsersOfABackendThatIsBack(t *testing.T) {
	// both are two replicas on one store. The first sees backend-1 again, the second does not.
	both := func(t *testing.T) (first, second *bench) {
		store := newMemory()
		store.put("ada", "dovecot-backend-1")
		store.put("grace", "dovecot-backend-1")
		first, second = newBench(t, store), newBench(t, store)
		for _, b := range []*bench{first, second} {
			b.see(backends(3))
			b.see(with(backends(3), 1, director.NotReady))
		}
		time.Sleep(graces.Failover)
		first.see(backends(3))
		second.again()
		time.Sleep(time.Second)
		return first, second
	}
	for name, test := range map[string]func(t *testing.T, first, second *bench){
		"the first is asked first": func(t *testing.T, first, second *bench) {
			first.want("ada", director.Serve, director.Renewed, "dovecot-backend-1")
			time.Sleep(time.Second)
			first.want("ada", director.Serve, director.Mapped, "dovecot-backend-1")
			second.want("ada", director.Hold, director.ViewBehind, "dovecot-backend-1")
			second.see(backends(3))
			second.want("ada", director.Serve, director.Renewed, "dovecot-backend-1") // a third may not have heard
			second.want("ada", director.Serve, director.Mapped, "dovecot-backend-1")
		},
		"the second is asked first": func(t *testing.T, first, second *bench) {
			to := second.want("ada", director.Serve, director.Placed, "").Backend
			first.want("ada", director.Serve, director.Mapped, to)
		},
		"the first is asked while the second writes": func(t *testing.T, first, second *bench) {
			second.store.beforeAssign = func(director.Assignment) {
				second.store.beforeAssign = nil
				time.Sleep(10 * time.Millisecond)
				first.want("ada", director.Serve, director.Renewed, "dovecot-backend-1")
			}
			second.want("ada", director.Hold, director.ViewBehind, "dovecot-backend-1")
		},
		"the second is asked while the first writes": func(t *testing.T, first, second *bench) {
			var to string
			first.store.beforeAssign = func(director.Assignment) {
				first.store.beforeAssign = nil
				to = second.want("ada", director.Serve, director.Placed, "").Backend
			}
			first.want("ada", director.Serve, director.Mapped, "")
			first.want("ada", director.Serve, director.Mapped, to)
		},
		"the first has just been started": func(t *testing.T, first, second *bench) {
			first = newBench(t, first.store)
			first.see(backends(3))
			first.want("ada", director.Serve, director.Renewed, "dovecot-backend-1")
			second.want("ada", director.Hold, director.ViewBehind, "dovecot-backend-1")
		},
		"looking writes nothing": func(t *testing.T, first, second *bench) {
			a, err := first.Resolve(t.Context(), director.Request{User: "ada", ReadOnly: true})
			if err != nil || a.Verb != director.Serve || a.Reason != director.Renewed {
				t.Errorf("got %+v, %v", a, err)
			}
			second.want("ada", director.Serve, director.Placed, "")
		},
		"it cannot be written": func(t *testing.T, first, _ *bench) {
			first.store.beforeAssign = func(director.Assignment) { first.store.setDown(true) }
			first.want("ada", director.Unavailable, director.StoreDown, "")
		},
		"it is remembered, once it is written": func(t *testing.T, first, _ *bench) {
			first.want("ada", director.Serve, director.Renewed, "dovecot-backend-1")
			first.store.setDown(true)
			first.want("ada", director.Serve, director.LastKnown, "dovecot-backend-1")
			first.want("grace", director.Unavailable, director.StoreDown, "")
		},
		"it was switched off, and is on again": func(t *testing.T, first, second *bench) {
			for _, b := range []*bench{first, second} {
				b.see(with(backends(3), 1, director.SwitchedOff))
			}
			time.Sleep(2 * time.Second)
			first.see(backends(3))
			first.want("ada", director.Serve, director.Renewed, "dovecot-backend-1")
			second.again()
			second.want("ada", director.Hold, director.ViewBehind, "dovecot-backend-1")
			second.want("grace", director.Serve, director.Placed, "")
		},
		"it comes back, and another instance at once": func(t *testing.T, first, second *bench) {
			another := backends(3)
			another[1].Instance = "another"
			first.see(another)
			first.want("ada", director.Serve, director.Renewed, "dovecot-backend-1")
			second.want("ada", director.Hold, director.ViewBehind, "dovecot-backend-1")
		},
		"everybody has heard": func(t *testing.T, first, _ *bench) {
			time.Sleep(6900 * time.Millisecond)
			first.want("ada", director.Serve, director.Renewed, "dovecot-backend-1")
			time.Sleep(200 * time.Millisecond)
			first.want("grace", director.Serve, director.Mapped, "dovecot-backend-1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first, second := both(t)
				test(t, first, second)
			})
		})
	}
}

// TestWhileUsersWaitTheViewIsProvenNowAndThen holds that a source which lost contact gets to know it before the wait is
// over, and that nobody waits for that.
func TestWhileUsersWaitTheViewIsProvenNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory())
		b.store.put("ada", "dovecot-backend-1")
		b.see(backends(3))
		b.see(with(backends(3), 1, director.NotReady))
		for second, want := range []int32{0, 0, 0, 0, 0, 0, 1, 2} {
			start := time.Now()
			b.want("ada", director.Hold, director.InGrace, "dovecot-backend-1")
			if waited := time.Since(start); waited != 0 {
				t.Errorf("a lookup took %s", waited)
			}
			if n := b.confirmed.Load(); n != want {
				t.Errorf("after %d s a proof was asked for %d times, want %d", second, n, want)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestNewUsersWaitWhileABackendIsStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory())
		b.see(with(backends(3), 1, director.NotReady))
		a := b.want("new", director.Hold, director.ViewPartial, "")
		if !strings.Contains(a.Detail(), "30s") || b.store.row("new") != "" {
			t.Errorf("told %q, stored %q", a.Detail(), b.store.row("new"))
		}
		time.Sleep(graces.Failover)
		b.want("new", director.Serve, director.Proposed, "dovecot-backend-0")
	})
}

func TestAViewThatLagsBehindIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory())
		b.see(backends(3))
		time.Sleep(time.Hour)
		b.store.put("ada", "dovecot-backend-3")
		b.want("ada", director.Hold, director.ViewBehind, "dovecot-backend-3")
		time.Sleep(time.Minute)
		go func() {
			time.Sleep(100 * time.Millisecond)
			b.see(backends(4))
		}()
		b.store.put("ada", "dovecot-backend-3")
		b.want("ada", director.Serve, director.Mapped, "dovecot-backend-3")
	})
}
