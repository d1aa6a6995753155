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
		if b.confirmed == 0 {
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
		if b.confirmed != 1 {
			t.Errorf("a proof was asked for %d times before it was needed", b.confirmed)
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

// TestUsersOfABackendThatIsBackAreNotRememberedAtOnce has one come back after its users had stopped waiting: until other replicas must have
// heard of that, they may move a user who was just read.
func TestUsersOfABackendThatIsBackAreNotRememberedAtOnce(t *testing.T) {
	for after, remembered := range map[time.Duration]bool{time.Second: false, 6200 * time.Millisecond: false, 6500 * time.Millisecond: true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, newMemory())
			b.store.put("ada", "dovecot-backend-1")
			b.see(backends(3))
			b.see(with(backends(3), 1, director.NotReady))
			time.Sleep(graces.Failover)
			b.see(backends(3))
			time.Sleep(after)
			b.want("ada", director.Serve, director.Mapped, "dovecot-backend-1")
			b.store.setDown(true)
			if a := b.lookup("ada"); (a.Reason == director.LastKnown) != remembered {
				t.Errorf("read %s after the return: %s", after, a.Reason)
			}
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
		for second, want := range []int{0, 0, 0, 0, 0, 0, 1, 2} {
			start := time.Now()
			b.want("ada", director.Hold, director.InGrace, "dovecot-backend-1")
			if waited := time.Since(start); waited != 0 {
				t.Errorf("a lookup took %s", waited)
			}
			if b.confirmed != want {
				t.Errorf("after %d s a proof was asked for %d times, want %d", second, b.confirmed, want)
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
