package director_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// waits looks n users up, and returns how long each is to wait.
func waits(t *testing.T, b *bench, n int, r director.Request) []time.Duration {
	t.Helper()
	all := make([]time.Duration, n)
	for i := range all {
		r.User = fmt.Sprintf("u%04d", i)
		a, err := b.Resolve(t.Context(), r)
		if err != nil || a.Verb != director.Serve {
			t.Fatalf("%+v, %v", a, err)
		}
		if !a.NotBefore.IsZero() {
			if all[i] = a.NotBefore.Sub(a.At); all[i] <= 0 {
				t.Errorf("login %d is told to wait for %s", i, all[i])
			}
		}
	}
	return all
}

// stormy is a director whose first of two backends is lost for good, with 100 users.
func stormy(t *testing.T, s director.Storm) *bench {
	store := newMemory()
	for user := range crowd(100, 0) {
		store.put(user, backend(0).Name)
	}
	b := newBench(t, store, func(c *director.Config) { c.Storm = s })
	b.see(backends(2))
	gone := backends(2)
	gone[0].Condition = director.NotReady
	time.Sleep(time.Hour)
	b.see(gone)
	time.Sleep(graces.Failover + time.Minute)
	b.see(gone)
	return b
}

func TestStorm(t *testing.T) {
	storm := director.Storm{Rate: 10, Most: 5 * time.Second}
	imap := director.Request{Protocol: "imap"}
	synctest.Test(t, func(t *testing.T) {
		b := stormy(t, storm)
		got := waits(t, b, 100, imap)
		for i, wait := range got {
			// A second's worth is let in at once, and then ten in a second, but nobody waits for longer than that.
			want := min(max(0, time.Duration(i-10)*100*time.Millisecond), storm.Most)
			if wait != want {
				t.Errorf("login %d waits %s, want %s", i, wait, want)
			}
		}
		// Who asks again is still being let in, who was mapped some time ago is not.
		if again := waits(t, b, 1, imap); again[0] != storm.Most {
			t.Errorf("at once: %s", again[0])
		}
		time.Sleep(11 * time.Second)
		b.again()
		if later := waits(t, b, 100, imap); later[99] != 0 {
			t.Errorf("later: %s", later[99])
		}
	})
	for name, tc := range map[string]struct {
		storm   director.Storm
		request director.Request
	}{
		"off":    {director.Storm{Most: time.Minute}, imap},
		"LMTP":   {storm, director.Request{Protocol: "lmtp"}},
		"userdb": {storm, director.Request{Protocol: "imap", ReadOnly: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for i, wait := range waits(t, stormy(t, tc.storm), 100, tc.request) {
					if wait != 0 {
						t.Fatalf("login %d waits %s", i, wait)
					}
				}
			})
		})
	}
}

// TestRenewedRowsAreNoStorm holds that who was mapped long ago is let in at once, although his row is young since his backend is back.
func TestRenewedRowsAreNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		for user := range crowd(100, 0) {
			store.put(user, backend(0).Name)
		}
		b := newBench(t, store, func(c *director.Config) { c.Storm = director.Storm{Rate: 1, Most: time.Minute} })
		time.Sleep(time.Hour)
		b.see(backends(2))
		for _, pause := range []time.Duration{time.Second, time.Second, 8 * time.Second} {
			time.Sleep(pause)
			for i, wait := range waits(t, b, 100, director.Request{Protocol: "imap"}) {
				if wait != 0 {
					t.Fatalf("login %d waits %s", i, wait)
				}
			}
		}
	})
}

// TestStormMindsWeights holds that who can take more is sent more.
func TestStormMindsWeights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := stormy(t, director.Storm{Rate: 10, Most: time.Minute})
		b.Obey(director.Orders{Standings: []director.Standing{{Backend: backend(1).Name, State: director.Active, Weight: 2}}})
		if got, want := waits(t, b, 100, director.Request{})[99], 3950*time.Millisecond; got != want {
			t.Errorf("the last waits %s, want %s", got, want)
		}
	})
}

// TestQuiet holds for how long nobody is moved after his row was written: no login of his may be waiting.
func TestQuiet(t *testing.T) {
	for _, tc := range []struct {
		storm director.Storm
		want  time.Duration
	}{
		{director.Storm{Most: time.Minute}, 0}, // nobody ever waits
		{director.Storm{Rate: 0.1, Most: time.Minute}, 70 * time.Second},
	} {
		if got := tc.storm.Quiet(); got != tc.want {
			t.Errorf("%+v: %s, want %s", tc.storm, got, tc.want)
		}
	}
}
