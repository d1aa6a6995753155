package director_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// Each reads the rows; memory is a director.Rows.
func (m *memory) Each(_ context.Context, do func(director.Row) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return director.ErrUnavailable
	}
	for user, row := range m.rows {
		if err := do(director.Row{User: user, Backend: row.backend}); err != nil {
			return err
		}
	}
	return nil
}

// diary is a journal.
type diary struct {
	mu      sync.Mutex
	entries []director.Entry
}

func (d *diary) Note(_ context.Context, e director.Entry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries = append(d.entries, e)
	return nil
}

// visits are sessions of users, as "user backend". It implements Sessions as far as sessions are ended.
type visits struct {
	director.Sessions
	mu   sync.Mutex
	open map[string]int
	deaf bool // kicks do nothing
}

func (v *visits) Find(_ context.Context, b director.Backend, user string) ([]director.Session, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !b.Addr.IsValid() {
		return nil, director.ErrUnreachable
	}
	return slices.Repeat([]director.Session{{User: user}}, v.open[user+" "+b.Name]), nil
}

func (v *visits) Kick(_ context.Context, b director.Backend, sessions []director.Session) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.deaf {
		delete(v.open, sessions[0].User+" "+b.Name)
	}
	return nil
}

func proposes(c *director.Config) { c.Policy.OutageProposes = true }

// reconciling runs a reconciler of b until the test ends, and waits until it has looked once.
func (b *bench) reconciling(sessions director.Sessions, journal *diary) {
	b.reconcilingRows(b.store, sessions, journal)
}

func (b *bench) reconcilingRows(rows director.Rows, sessions director.Sessions, journal *diary) {
	b.run(director.ReconcilerConfig{Rows: rows, Sessions: sessions, Journal: journal})
}

// run runs a reconciler until the test ends or stop is called.
func (b *bench) run(config director.ReconcilerConfig) (stop func()) {
	config.Director = b.Director
	r := director.NewReconciler(config)
	ctx, cancel := context.WithCancel(b.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			b.t.Error(err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	b.t.Cleanup(stop)
	synctest.Wait()
	return stop
}

// TestNewUsersDuringAnOutage has two replicas that go on without the store, and see different things then.
func TestNewUsersDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, journal := newMemory(), &diary{}
		store.put("old", "dovecot-backend-2")
		store.put("bob", "dovecot-backend-1")
		one, two := newBench(t, store, proposes), newBench(t, store, proposes)
		for _, b := range []*bench{one, two} {
			b.see(backends(3)[1:])
			b.reconciling(nil, journal)
		}
		one.want("bob", director.Serve, director.Mapped, "dovecot-backend-1")
		time.Sleep(1300 * time.Millisecond) // between what is done each second
		store.setDown(true)
		one.want("bob", director.Serve, director.LastKnown, "dovecot-backend-1")
		one.want("old", director.Unavailable, director.StoreDown, "") // has a row, but this replica does not know which
		one.want("new", director.Serve, director.Provisional, "dovecot-backend-1")
		two.want("other", director.Serve, director.Provisional, "dovecot-backend-1")

		// Both saw the same when the outage began, and go on with that: dovecot-backend-0, which the ring would propose now, gets nobody.
		one.see(backends(3))
		one.want("new", director.Serve, director.Provisional, "dovecot-backend-1")
		two.want("new", director.Serve, director.Provisional, "dovecot-backend-1")
		one.see(with(backends(3), 1, director.NotReady))
		one.want("new", director.Unavailable, director.StoreDown, "")
		one.see(backends(3))
		one.want("new", director.Serve, director.Provisional, "dovecot-backend-1")
		if a, err := one.Resolve(t.Context(), director.Request{User: "looked-at", ReadOnly: true}); err != nil || a.Backend != "dovecot-backend-1" {
			t.Errorf("userdb: %+v, %v", a, err)
		}

		store.setDown(false)
		time.Sleep(2 * time.Second)
		want := map[string]string{"old": "dovecot-backend-2", "bob": "dovecot-backend-1", "new": "dovecot-backend-1", "other": "dovecot-backend-1"}
		for user, backend := range want {
			if got := store.row(user); got != backend {
				t.Errorf("%s is mapped to %q, want %s", user, got, backend)
			}
		}
		if n := len(store.rows); n != len(want) {
			t.Errorf("%d rows, want %d", n, len(want))
		}
		if len(journal.entries) > 0 {
			t.Errorf("the journal tells of conflicts: %+v", journal.entries)
		}
		one.want("new", director.Serve, director.Mapped, "dovecot-backend-1")

		// Another replica may not have written yet whom it let in: for a minute all propose as in the outage.
		written := 0
		store.beforeAssign = func(director.Assignment) { written++ }
		one.want("late", director.Serve, director.Provisional, "dovecot-backend-1")
		one.want("late", director.Serve, director.Mapped, "dovecot-backend-1")
		time.Sleep(2 * time.Second)
		// The same outage goes on, for who has let users in: nothing may be proposed anew.
		store.setDown(true)
		one.want("newer", director.Serve, director.Provisional, "dovecot-backend-1")
		store.setDown(false)
		one.want("newer", director.Serve, director.Provisional, "dovecot-backend-1")
		time.Sleep(2 * time.Second)
		if written != 2 {
			t.Errorf("two users were written %d times", written)
		}
		time.Sleep(time.Minute)
		one.want("later", director.Serve, director.Proposed, "dovecot-backend-0")
	})
}

// TestEachOutageHasItsRing holds that nobody goes on with the ring of an outage of long ago: other replicas have given it up, by a new user
// who came to them meanwhile.
func TestEachOutageHasItsRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		store.put("bob", "dovecot-backend-1")
		b := newBench(t, store, proposes)
		b.see(backends(3)[1:])
		b.reconciling(nil, &diary{})
		time.Sleep(time.Second)
		store.setDown(true)
		b.want("new", director.Serve, director.Provisional, "dovecot-backend-1")
		store.setDown(false)
		time.Sleep(2 * time.Second)
		b.see(backends(3))
		time.Sleep(time.Hour)
		b.want("bob", director.Serve, director.Mapped, "dovecot-backend-1")
		store.setDown(true)
		b.want("newer", director.Serve, director.Provisional, "dovecot-backend-0")
	})
}

// TestTwoOutages holds that who was let in during an outage and has his row now is not new in the next one.
func TestTwoOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), proposes)
		b.see(backends(3)[1:])
		b.reconciling(nil, &diary{})
		time.Sleep(time.Second)
		b.store.setDown(true)
		b.want("new", director.Serve, director.Provisional, "dovecot-backend-1")
		b.store.setDown(false)
		time.Sleep(2 * time.Minute)
		b.see(backends(3))
		b.store.setDown(true)
		b.want("new", director.Serve, director.LastKnown, "dovecot-backend-1")
	})
}

// TestAnOutageBeginsAsAnotherEnds holds that the ring of an outage is kept for as long as it lasts, also if a lookup fails while another one,
// which was answered, says that the outage before is over.
func TestAnOutageBeginsAsAnotherEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		store.put("bob", "dovecot-backend-1")
		var b *bench
		var answered atomic.Bool // bob's row was read a moment ago
		b = newBench(t, store, proposes, func(c *director.Config) {
			c.Mappings = readBy{store, func(user string) { answered.Store(user == "bob") }}
			c.Now = func() time.Time {
				if answered.CompareAndSwap(true, false) {
					store.setDown(true)
					b.want("new", director.Serve, director.Provisional, "dovecot-backend-0")
				}
				return time.Now()
			}
		})
		b.see(backends(2))
		b.reconciling(nil, &diary{})
		time.Sleep(1300 * time.Millisecond)
		store.setDown(true)
		b.want("new", director.Serve, director.Provisional, "dovecot-backend-0")
		store.setDown(false)
		b.want("bob", director.Serve, director.Mapped, "dovecot-backend-1")
		if answered.Load() {
			t.Fatal("nobody looked at the clock")
		}
		for range 3 {
			b.want("newer", director.Serve, director.Provisional, "dovecot-backend-0")
			time.Sleep(time.Minute)
		}
	})
}

// readBy tells whose row was read.
type readBy struct {
	*memory
	told func(user string)
}

func (r readBy) Get(ctx context.Context, user string) (director.Mapping, error) {
	m, err := r.memory.Get(ctx, user)
	r.told(user)
	return m, err
}

// TestWhoIsNotNew holds whom nobody proposes anything for while the store is down.
func TestWhoIsNotNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known := newBench(t, newMemory())
		known.see(backends(2))
		known.reconciling(nil, &diary{})
		known.store.setDown(true)
		known.want("new", director.Unavailable, director.StoreDown, "") // it is off by default

		b := newBench(t, newMemory(), proposes, func(c *director.Config) { c.Remember = 2 })
		b.see(backends(2))
		b.store.setDown(true)
		b.want("new", director.Unavailable, director.StoreDown, "") // who has a row was never read
		b.reconciling(nil, &diary{})
		b.want("new", director.Unavailable, director.StoreDown, "")
		b.store.setDown(false)
		time.Sleep(2 * time.Second) // read at once when the store is there
		b.store.put("ada", "dovecot-backend-0")
		b.want("ada", director.Serve, director.Mapped, "dovecot-backend-0")
		b.Obey(director.Orders{Moving: []string{"eve"}})
		b.store.setDown(true)
		b.want("eve", director.Unavailable, director.StoreDown, "")
		time.Sleep(time.Second)
		b.see(backends(2)[1:])
		b.see(backends(2))
		b.want("ada", director.Unavailable, director.StoreDown, "") // his backend was away: he may have been moved, but is not new
		for i := range 4 {
			verb, reason := director.Serve, director.Provisional
			if i >= 2 { // no more can be noted
				verb, reason = director.Unavailable, director.StoreDown
			}
			b.want(fmt.Sprintf("u%d", i), verb, reason, "")
		}
		b.want("u0", director.Serve, director.Provisional, "")
		time.Sleep(time.Hour - time.Second)
		b.want("u0", director.Serve, director.Provisional, "")
		time.Sleep(time.Second)
		b.want("u0", director.Unavailable, director.StoreDown, "") // a replica that is cut off alone does not go on for ever
	})
}

// TestAnOutageAfterAStart holds that nothing is proposed by a ring that backends are missing in which are on their way.
func TestAnOutageAfterAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), proposes)
		b.Observe(director.Snapshot{Backends: backends(2), CurrentAt: time.Now(), StatefulSets: scaled(3)})
		b.reconciling(nil, &diary{})
		b.store.setDown(true)
		b.want("new", director.Unavailable, director.StoreDown, "")
		time.Sleep(graces.Failover)
		b.want("new", director.Serve, director.Provisional, "dovecot-backend-0")
	})
}

// TestALockedRowIsNoOutage holds that the ring stays what it is while somebody's row is locked now and then.
func TestALockedRowIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), proposes)
		b.see(backends(3)[1:])
		b.store.put("ada", "dovecot-backend-1")
		b.store.put("bob", "dovecot-backend-1")
		b.reconciling(nil, &diary{})
		hiccup := func() {
			b.store.setDown(true)
			b.want("ada", director.Unavailable, director.StoreDown, "")
			b.store.setDown(false)
			b.want("bob", director.Serve, director.Mapped, "")
		}
		hiccup()
		b.see(backends(3))
		b.want("new", director.Serve, director.Proposed, "dovecot-backend-0")
		hiccup()
		b.want("newer", director.Serve, director.Proposed, "dovecot-backend-0")

		// In the minute after an outage the ring of the outage stays, and no longer.
		b.see(backends(3)[1:])
		b.store.setDown(true)
		b.want("ada", director.Unavailable, director.StoreDown, "")
		time.Sleep(2 * time.Second)
		b.store.setDown(false)
		b.want("bob", director.Serve, director.Mapped, "")
		b.see(backends(3))
		time.Sleep(30 * time.Second)
		hiccup()
		b.want("newest", director.Serve, director.Provisional, "dovecot-backend-1")
		time.Sleep(31 * time.Second)
		b.want("last", director.Serve, director.Proposed, "dovecot-backend-0")
	})
}

// TestUsersAreReadAnew holds that who got a row since the start is not taken for new.
func TestUsersAreReadAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), proposes)
		b.see(backends(2))
		b.reconciling(nil, &diary{})
		b.store.put("ada", "dovecot-backend-1") // by another replica
		time.Sleep(5*time.Minute + time.Second)
		b.store.setDown(true)
		time.Sleep(time.Hour / 2) // what was read stays
		b.want("ada", director.Unavailable, director.StoreDown, "")
		b.want("new", director.Serve, director.Provisional, "dovecot-backend-0")
	})
}

// TestHowOftenUsersAreRead holds that the whole table is read every five minutes, and that it is said once that it was.
func TestHowOftenUsersAreRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), proposes)
		b.see(backends(2))
		rows, log := &countedRows{memory: b.store}, &bytes.Buffer{}
		stop := b.run(director.ReconcilerConfig{Rows: rows, Journal: &diary{}, Logger: slog.New(slog.NewTextHandler(log, nil))})
		time.Sleep(15*time.Minute + time.Second/2)
		stop()
		if rows.reads != 4 {
			t.Errorf("in a quarter of an hour they are read %d times", rows.reads)
		}
		if n := strings.Count(log.String(), "read who has a mapping"); n != 1 || strings.Contains(log.String(), "WARN") {
			t.Errorf("the log says\n%s", log)
		}
	})
}

type countedRows struct {
	*memory
	reads int
}

func (c *countedRows) Each(ctx context.Context, do func(director.Row) error) error {
	c.reads++
	return c.memory.Each(ctx, do)
}

// TestAStopDuringAnOutage holds that it is said who is forgotten.
func TestAStopDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, log := newBench(t, newMemory(), proposes), &bytes.Buffer{}
		b.see(backends(2))
		stop := b.run(director.ReconcilerConfig{Rows: b.store, Journal: &diary{}, Logger: slog.New(slog.NewTextHandler(log, nil))})
		b.store.setDown(true)
		b.want("new", director.Serve, director.Provisional, "dovecot-backend-0")
		stop()
		if !strings.Contains(log.String(), "users who were let in meanwhile are forgotten") || !strings.Contains(log.String(), "users=1\n") {
			t.Errorf("the log says\n%s", log)
		}
	})
}

// TestAnOldRowIsRememberedAsOld has a user let in during an outage who has a row. It is from before the backend was away, and the user
// may have been moved then: what is remembered of it must serve nobody in the next outage.
func TestAnOldRowIsRememberedAsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), proposes)
		b.see(backends(2))
		b.reconciling(nil, &diary{})
		b.store.put("ada", "dovecot-backend-0") // by another replica
		time.Sleep(time.Second)
		b.see(with(backends(2), 0, director.NotReady))
		time.Sleep(time.Second)
		b.see(backends(2))
		time.Sleep(time.Minute)
		b.store.setDown(true)
		b.want("ada", director.Serve, director.Provisional, "dovecot-backend-0")
		b.store.setDown(false)
		time.Sleep(2 * time.Second) // it is found that ada has a row
		b.store.setDown(true)
		b.want("ada", director.Unavailable, director.StoreDown, "")
	})
}

// TestTheRowWinsOverTheOutage has another replica write another row than this one has proposed.
func TestTheRowWinsOverTheOutage(t *testing.T) {
	for name, tc := range map[string]struct {
		sessions *visits
		row      string
		wait     time.Duration
		note     string
		left     int
	}{
		"sessions are ended":           {&visits{open: map[string]int{"new dovecot-backend-0": 2}}, "dovecot-backend-1", 3 * time.Second, "2 sessions ended", 0},
		"sessions do not end":          {&visits{open: map[string]int{"new dovecot-backend-0": 2}, deaf: true}, "dovecot-backend-1", time.Minute, "may go on: they did not end", 2},
		"doveadm is not configured":    {nil, "dovecot-backend-1", 3 * time.Second, "no doveadm key", 0},
		"the row is another's address": {&visits{}, "192.0.2.11", 3 * time.Second, "0 sessions ended", 0},
		"the row is its address":       {&visits{open: map[string]int{"new dovecot-backend-0": 2}}, "192.0.2.10", 3 * time.Second, "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, journal := newBench(t, newMemory(), proposes), &diary{}
				b.see(backends(2))
				var sessions director.Sessions
				if tc.sessions != nil {
					sessions = tc.sessions
				}
				b.reconciling(sessions, journal)
				b.store.setDown(true)
				b.want("new", director.Serve, director.Provisional, "dovecot-backend-0")
				b.store.put("new", tc.row)
				b.store.setDown(false)
				time.Sleep(tc.wait)
				synctest.Wait()
				if got := b.store.row("new"); got != tc.row {
					t.Errorf("the row became %s", got)
				}
				switch {
				case tc.note == "" && len(journal.entries) > 0:
					t.Errorf("journal: %+v", journal.entries)
				case tc.note != "" && (len(journal.entries) != 1 || journal.entries[0].From != "dovecot-backend-0" || journal.entries[0].To != tc.row ||
					journal.entries[0].Reason != director.Provisional || !strings.Contains(journal.entries[0].Note, tc.note)):
					t.Errorf("journal: %+v", journal.entries)
				}
				if tc.sessions != nil && tc.sessions.open["new dovecot-backend-0"] != tc.left {
					t.Errorf("sessions: %v", tc.sessions.open)
				}
			})
		})
	}
}

// TestReconcilingManyUsers has the store go down again while rows are written, and refuse some.
func TestReconcilingManyUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), proposes)
		b.see(backends(2))
		assigned := 0
		b.store.beforeAssign = func(director.Assignment) {
			b.store.mu.Lock()
			defer b.store.mu.Unlock()
			if assigned++; assigned == 130 {
				b.store.down = true
			}
		}
		b.reconciling(nil, &diary{})
		b.store.setDown(true)
		want := map[string]string{}
		for i := range 350 {
			user := fmt.Sprintf("u%03d", i)
			b.want(user, director.Serve, director.Provisional, "dovecot-backend-0")
			if i%7 == 0 {
				b.store.refused[user] = true
				continue
			}
			want[user] = "dovecot-backend-0"
		}
		b.store.setDown(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := len(b.store.rows); n == 0 || n == len(want) {
			t.Fatalf("%d rows when the store was down again", n)
		}
		if assigned > 300 {
			t.Errorf("%d rows were to be written while the store was down", assigned)
		}
		b.store.setDown(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		got := map[string]string{}
		for user, row := range b.store.rows {
			got[user] = row.backend
		}
		if !maps.Equal(got, want) {
			t.Errorf("%d rows, want %d", len(got), len(want))
		}
		before := assigned
		time.Sleep(time.Minute)
		synctest.Wait()
		if assigned != before {
			t.Errorf("%d users were reconciled again", assigned-before)
		}
	})
}

// TestRowsThatCannotBeRead holds that a table that cannot be read as a whole lets nobody new in.
func TestRowsThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), proposes)
		b.see(backends(2))
		b.reconcilingRows(tornRows{b.store}, nil, &diary{})
		b.store.setDown(true)
		b.want("new", director.Unavailable, director.StoreDown, "")
	})
}

// tornRows loses its connection in the middle.
type tornRows struct{ *memory }

func (tornRows) Each(_ context.Context, do func(director.Row) error) error {
	return errors.Join(do(director.Row{User: "ada"}), director.ErrUnavailable)
}

// TestRowsThatHang holds that the rows of who was let in are written also while it hangs to read who has one.
func TestRowsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), proposes)
		b.see(backends(2))
		b.reconcilingRows(&hangingRows{memory: b.store}, nil, &diary{})
		time.Sleep(6 * time.Minute)
		b.store.setDown(true)
		b.want("new", director.Serve, director.Provisional, "dovecot-backend-0")
		b.store.setDown(false)
		time.Sleep(2 * time.Second)
		if got := b.store.row("new"); got != "dovecot-backend-0" {
			t.Errorf("new is mapped to %q", got)
		}
	})
}

// hangingRows can be read once.
type hangingRows struct {
	*memory
	read bool
}

func (h *hangingRows) Each(ctx context.Context, do func(director.Row) error) error {
	if h.read {
		<-ctx.Done()
		return ctx.Err()
	}
	h.read = true
	return h.memory.Each(ctx, do)
}

// TestSessionsThatDoNotEndKeepNobodyWaiting holds that rows are written before sessions are ended, which may take long.
func TestSessionsThatDoNotEndKeepNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, journal := newBench(t, newMemory(), proposes), &diary{}
		b.see(backends(2))
		b.reconciling(&visits{open: map[string]int{"u000 dovecot-backend-0": 1}, deaf: true}, journal)
		b.store.setDown(true)
		for i := range 250 {
			b.want(fmt.Sprintf("u%03d", i), director.Serve, director.Provisional, "dovecot-backend-0")
		}
		b.store.put("u000", "dovecot-backend-1")
		b.store.setDown(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := len(b.store.rows); n != 250 {
			t.Errorf("%d rows, want 250", n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(journal.entries) != 1 {
			t.Errorf("journal: %+v", journal.entries)
		}
	})
}
