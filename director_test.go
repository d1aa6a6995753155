package director_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a complete store in memory. Its hooks let tests fail or change it at the right moment.
type memory struct {
	mu      sync.Mutex
	rows    map[string]memoryRow
	refused map[string]bool
	down    bool
	touched []string
	gets    int
	// beforeAssign runs without the lock.
	beforeAssign func(director.Assignment)
	counts       int
}

type memoryRow struct {
	backend string
	at      time.Time
	moving  *director.Moving
}

func newMemory() *memory { return &memory{rows: map[string]memoryRow{}, refused: map[string]bool{}} }

func (m *memory) Get(_ context.Context, user string) (director.Mapping, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	if m.down {
		return director.Mapping{}, fmt.Errorf("get %q: %w", user, director.ErrUnavailable)
	}
	row, ok := m.rows[user]
	if !ok {
		return director.Mapping{}, director.ErrNoMapping
	}
	return director.Mapping{Backend: row.backend, Age: time.Since(row.at), Moving: row.moving}, nil
}

func (m *memory) Assign(_ context.Context, a director.Assignment) (director.Mapping, error) {
	m.mu.Lock()
	before := m.beforeAssign
	m.mu.Unlock()
	if before != nil {
		before(a)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.down:
		return director.Mapping{}, fmt.Errorf("assign %q: %w", a.User, director.ErrUnavailable)
	case m.refused[a.User]:
		return director.Mapping{}, director.ErrUserRefused
	}
	row, ok := m.rows[a.User]
	if !ok || row.backend == a.Was && time.Since(row.at) >= a.Age {
		row = memoryRow{backend: a.Becomes, at: time.Now()}
		m.rows[a.User] = row
	}
	return director.Mapping{Backend: row.backend, Age: time.Since(row.at)}, nil
}

func (m *memory) Touch(user, backend string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.touched = append(m.touched, user+" "+backend)
}

func (m *memory) Counts(context.Context) (map[string]int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts++
	if m.down {
		return nil, director.ErrUnavailable
	}
	counts := map[string]int{}
	for _, row := range m.rows {
		counts[row.backend]++
	}
	return counts, nil
}

func (m *memory) put(user, backend string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows[user] = memoryRow{backend: backend, at: time.Now()}
}

// moving lets a user be moved.
func (m *memory) moving(user string, moving *director.Moving) {
	m.mu.Lock()
	defer m.mu.Unlock()
	row := m.rows[user]
	row.moving = moving
	m.rows[user] = row
}

func (m *memory) row(user string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rows[user].backend
}

// reset brings the store up and forgets how often it was counted.
func (m *memory) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down, m.counts = false, 0
}

func (m *memory) setDown(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
}

// bench is one director over a store, with a source that the test plays.
type bench struct {
	*director.Director
	t     *testing.T
	store *memory
	// confirmed counts requests for a proof; when prove is set, each is granted.
	confirmed atomic.Int32
	prove     bool

	mu   sync.Mutex
	last []director.Backend
}

func newBench(t *testing.T, store *memory, change ...func(*director.Config)) *bench {
	b := &bench{t: t, store: store}
	config := director.Config{
		Mappings: store, Counter: store, Graces: graces,
		Users:         director.UserFormat{Name: template(t, "%Lu"), Hash: template(t, "%Lu")},
		BuildRing:     func(members []director.Member) director.Ring { return fixedRing(members) },
		TouchInterval: 10 * time.Minute,
		Remember:      1000,
		Confirm: func() {
			b.confirmed.Add(1)
			if b.prove {
				go b.again()
			}
		},
	}
	for _, c := range change {
		c(&config)
	}
	b.Director = director.New(config)
	return b
}

// see shows the director these backends as the truth of now.
func (b *bench) see(backends []director.Backend) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = backends
	b.Observe(director.Snapshot{Backends: backends, CurrentAt: time.Now()})
}

// again says that what it was shown last is still the truth.
func (b *bench) again() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Observe(director.Snapshot{Backends: b.last, CurrentAt: time.Now()})
}

func (b *bench) lookup(user string) director.Answer {
	b.t.Helper()
	a, err := b.Resolve(b.t.Context(), director.Request{User: user, Protocol: "imap"})
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

func (b *bench) want(user string, verb director.Verb, reason director.Reason, backend string) director.Answer {
	b.t.Helper()
	a := b.lookup(user)
	if a.Verb != verb || a.Reason != reason || backend != "" && a.Backend != backend {
		b.t.Fatalf("%s: got %s %s %q, want %s %s %q", user, a.Verb, a.Reason, a.Backend, verb, reason, backend)
	}
	if (a.Verb == director.Serve) != a.Addr.IsValid() || (a.Verb == director.Serve) != (a.Detail() == "") {
		b.t.Fatalf("%s: address %s, detail %q", a.Verb, a.Addr, a.Detail())
	}
	return a
}

func TestANewUserIsMappedAndStays(t *testing.T) {
	b := newBench(t, newMemory())
	b.want("Ada@example.org", director.Unavailable, director.NoView, "")
	if b.store.gets != 0 {
		t.Error("the store was asked without a view")
	}
	all := backends(3)
	all[0].Ports = map[string]uint16{"imap": 31143}
	b.see(all)
	a := b.want("Ada@example.org", director.Serve, director.Proposed, "dovecot-backend-0")
	if a.Port != 31143 || a.User != "ada@example.org" {
		t.Errorf("got %+v", a)
	}
	b.want("ADA@example.org", director.Serve, director.Mapped, "dovecot-backend-0")
	if b.store.row("ada@example.org") != "dovecot-backend-0" {
		t.Error("the mapping was not stored under the canonical name")
	}
}

func TestTheAddressIsTheOneOfNow(t *testing.T) {
	b := newBench(t, newMemory())
	b.see(backends(2))
	before := b.want("ada", director.Serve, director.Proposed, "dovecot-backend-0")
	moved := backends(2)
	moved[0].Addr = before.Addr.Next().Next()
	b.see(moved)
	if after := b.want("ada", director.Serve, director.Mapped, "dovecot-backend-0"); after.Addr != moved[0].Addr {
		t.Errorf("address %s, want %s", after.Addr, moved[0].Addr)
	}
}

func TestReadOnlyLookupsWriteNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory())
		b.see(backends(3))
		userdb := func(user string) director.Answer {
			a, _ := b.Resolve(t.Context(), director.Request{User: user, ReadOnly: true})
			return a
		}
		if a := userdb("new"); a.Verb != director.Serve || a.Reason != director.Proposed || !a.Addr.IsValid() {
			t.Errorf("got %+v", a)
		}
		b.store.put("old", "192.0.2.11")
		b.store.put("mapped", "dovecot-backend-2")
		time.Sleep(time.Hour)
		if a := userdb("mapped"); a.Verb != director.Serve || a.Reason != director.Mapped {
			t.Errorf("got %+v", a)
		}
		if a := userdb("old"); a.Verb != director.Serve || a.Backend != "dovecot-backend-1" {
			t.Errorf("got %+v", a)
		}
		if b.store.row("new") != "" || b.store.row("old") != "192.0.2.11" || len(b.store.touched) != 0 {
			t.Errorf("rows %v, touched %v", b.store.rows, b.store.touched)
		}
	})
}

func TestTouchedAtMostOncePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory())
		b.see(backends(1))
		b.lookup("ada")
		time.Sleep(9 * time.Minute)
		b.lookup("ada")
		if len(b.store.touched) != 0 {
			t.Errorf("touched after 9m: %v", b.store.touched)
		}
		time.Sleep(2 * time.Minute)
		b.lookup("ada")
		if !slices.Equal(b.store.touched, []string{"ada dovecot-backend-0"}) {
			t.Errorf("touched after 11m: %v", b.store.touched)
		}
	})
}

func TestALostRaceEndsWithTheWinnersBackend(t *testing.T) {
	b := newBench(t, newMemory())
	b.see(backends(3))
	b.store.beforeAssign = func(a director.Assignment) { b.store.put(a.User, "dovecot-backend-2") }
	b.want("ada", director.Serve, director.Mapped, "dovecot-backend-2")
}

func TestARowThatNeverStandsStillIsHeld(t *testing.T) {
	b := newBench(t, newMemory())
	b.see(backends(3))
	n := 0
	b.store.beforeAssign = func(a director.Assignment) {
		n++
		b.store.put(a.User, fmt.Sprintf("192.0.2.%d", 10+n%2)) // always the address of a backend, to be renamed
	}
	b.want("ada", director.Hold, director.Contended, "")
}

// TestALookupEndsInTime has a store that is as slow as it may be and never the same twice. A proxy's auth worker waits for 3 s.
func TestALookupEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory())
		b.see(backends(3))
		n := 0
		b.store.beforeAssign = func(a director.Assignment) {
			n++
			time.Sleep(1200 * time.Millisecond)
			b.store.put(a.User, fmt.Sprintf("192.0.2.%d", 10+n%2))
		}
		begun := time.Now()
		b.want("ada", director.Hold, director.Contended, "")
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestOldRowsAreRewrittenToTheName(t *testing.T) {
	b := newBench(t, newMemory())
	b.see(backends(3))
	b.store.put("ada", "192.0.2.12")
	b.want("ada", director.Serve, director.Renamed, "dovecot-backend-2")
	if got := b.store.row("ada"); got != "dovecot-backend-2" {
		t.Errorf("row holds %q", got)
	}
	b.store.put("grace", "192.0.2.12")
	b.store.beforeAssign = func(director.Assignment) { b.store.down = true }
	b.want("grace", director.Serve, director.Renamed, "dovecot-backend-2")
}

func TestUnknownUsers(t *testing.T) {
	b := newBench(t, newMemory())
	b.see(backends(3))
	b.store.refused["nobody"] = true
	b.want("nobody", director.Serve, director.UnknownUser, "dovecot-backend-0")
	strict := newBench(t, b.store, func(c *director.Config) { c.Policy.RejectUnknown = true })
	strict.see(backends(3))
	strict.want("nobody", director.Reject, director.UnknownUser, "")
	if b.store.row("nobody") != "" {
		t.Error("stored")
	}
}

func TestStoreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory())
		b.prove = true
		b.see(backends(3))
		b.want("ada", director.Serve, director.Proposed, "dovecot-backend-0")
		time.Sleep(time.Minute)
		b.store.setDown(true)
		b.want("ada", director.Serve, director.LastKnown, "dovecot-backend-0")
		if a := b.want("new", director.Unavailable, director.StoreDown, ""); a.RetryAfter != time.Second {
			t.Errorf("retry after %s at the start of an outage", a.RetryAfter)
		}
		time.Sleep(time.Minute)
		if a := b.want("new", director.Unavailable, director.StoreDown, ""); a.RetryAfter != 0 {
			t.Errorf("retry after %s in a long outage", a.RetryAfter)
		}
		b.see(backends(3)[1:])
		b.want("ada", director.Unavailable, director.StoreDown, "")
		b.see(backends(3))
		b.want("ada", director.Unavailable, director.StoreDown, "") // it was away: others may have moved its users
		b.store.setDown(false)
		b.want("ada", director.Serve, director.Renewed, "dovecot-backend-0")
		b.store.setDown(true)
		b.want("ada", director.Serve, director.LastKnown, "dovecot-backend-0")
		if a := b.want("new", director.Unavailable, director.StoreDown, ""); a.RetryAfter != time.Second {
			t.Errorf("retry after %s at the start of the second outage", a.RetryAfter)
		}
		time.Sleep(time.Hour)
		b.want("ada", director.Serve, director.LastKnown, "dovecot-backend-0")
		time.Sleep(time.Second)
		b.want("ada", director.Unavailable, director.StoreDown, "") // remembered for too long
	})
}

func TestACallerThatLeavesIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		b := newBench(t, store, func(c *director.Config) { c.Mappings = cancelled{store} })
		b.see(backends(3))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _ = b.Resolve(ctx, director.Request{User: "ada"})
		time.Sleep(time.Hour)
		store.setDown(true)
		if a := b.want("ada", director.Unavailable, director.StoreDown, ""); a.RetryAfter == 0 {
			t.Error("the outage was counted from the caller that left")
		}
	})
}

// cancelled is a store that gives up with its caller.
type cancelled struct{ *memory }

func (c cancelled) Get(ctx context.Context, user string) (director.Mapping, error) {
	if err := ctx.Err(); err != nil {
		return director.Mapping{}, err
	}
	return c.memory.Get(ctx, user)
}

func TestUsersAreCountedWhenABackendIsLostAndWhilePlacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := newBench(t, newMemory())
		b.prove = true
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		for i := range 30 {
			b.store.put(fmt.Sprintf("user-%d", i), fmt.Sprintf("dovecot-backend-%d", i%3))
		}
		b.store.setDown(true) // not reached yet: it is tried again
		b.see(backends(4))
		synctest.Wait()
		b.store.reset()
		time.Sleep(time.Hour)
		for i := range 30 {
			b.lookup(fmt.Sprintf("user-%d", i))
		}
		if b.store.counts != 1 {
			t.Errorf("counted %d times while all was well, want once at the start", b.store.counts)
		}
		b.see(backends(4)[1:])
		synctest.Wait()
		if b.store.counts != 2 {
			t.Errorf("counted %d times after a loss, want 2", b.store.counts)
		}
		time.Sleep(graces.Restart)
		// Backend 3 is empty and has the most room, but 1 and 2 have none: 30 users on three alive make 10 each.
		for i := 0; i < 30; i += 3 {
			b.want(fmt.Sprintf("user-%d", i), director.Serve, director.Placed, "dovecot-backend-3")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestReplicasOnOneStoreAgree(t *testing.T) {
	store := newMemory()
	var wg sync.WaitGroup
	answers := make([]map[string]string, 8)
	for n := range answers {
		// Every replica has a ring of its own mind.
		b := newBench(t, store, func(c *director.Config) {
			c.BuildRing = func(m []director.Member) director.Ring { return fixedRing(append(m[n%3:len(m):len(m)], m[:n%3]...)) }
		})
		b.see(backends(3))
		answers[n] = map[string]string{}
		wg.Go(func() {
			for i := range 500 {
				user := fmt.Sprintf("user-%d", i)
				a, err := b.Resolve(t.Context(), director.Request{User: user})
				if err != nil || a.Verb != director.Serve {
					t.Errorf("%s: %+v, %v", user, a, err)
				}
				answers[n][user] = a.Backend
			}
		})
	}
	wg.Wait()
	for n := range answers {
		for user, backend := range answers[n] {
			if backend != store.row(user) {
				t.Errorf("replica %d answered %s for %s, the row says %s", n, backend, user, store.row(user))
			}
		}
	}
}

func TestLookupsGoOnWhileTheViewChanges(t *testing.T) {
	b := newBench(t, newMemory())
	b.see(backends(3))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for n := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if a, err := b.Resolve(t.Context(), director.Request{User: fmt.Sprintf("user-%d-%d", n, i%100)}); err != nil || a.Verb == director.Serve && !a.Addr.IsValid() {
					t.Errorf("%+v, %v", a, err)
				}
			}
		})
	}
	for i := range 300 {
		b.see(backends(3 + i%3))
	}
	close(stop)
	wg.Wait()
}

func TestChangesAreLoggedAndLookupsAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		b := newBench(t, newMemory(), func(c *director.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		b.see(backends(3))
		b.see(backends(2))
		moved := backends(4)
		moved[0].Addr = moved[0].Addr.Prev()
		b.see(moved)
		for _, want := range []string{
			`first complete view`, `backend lost; its users get a temporary failure`, `backend=dovecot-backend-2`, `cause=planned`, `wait=2m0s`,
			`backend is back`, `backend joined`, `backend has a new address`,
		} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("%q is not in the log:\n%s", want, log.String())
			}
		}
		b.lookup("ada")
		log.Reset()
		for range 10 {
			b.lookup("ada")
			b.see(moved)
		}
		if log.Len() != 0 {
			t.Errorf("lookups or unchanged snapshots are logged:\n%s", log.String())
		}
	})
}

func TestInvalidNamesAreTheCallersFault(t *testing.T) {
	b := newBench(t, newMemory())
	b.see(backends(1))
	if _, err := b.Resolve(t.Context(), director.Request{User: "a\x00b"}); err == nil {
		t.Error("no error")
	}
	if b.store.gets != 0 {
		t.Error("the store was asked")
	}
}
