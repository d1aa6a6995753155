package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/store"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// ledgers are the databases that keep a ledger.
var ledgers = map[string]func(t *testing.T) ledgerBench{
	"PostgreSQL": func(t *testing.T) ledgerBench {
		url := migrated(t, server)
		return ledgerBench{
			open: func(t *testing.T, replica string) *store.DB { return open(t, store.Config{URL: url, Replica: replica}) },
			exec: func(t *testing.T, statement string) { pgtest.Exec(t, url, statement) },
			past: "now() - interval '1 second'", soon: "now() + interval '2 seconds'", ahead: "now() + interval '30 seconds'", far: "now() + interval '7000 years'",
		}
	},
	"PgBouncer": func(t *testing.T) ledgerBench {
		url := migrated(t, server)
		through := server.Pooler(t).Through(url)
		return ledgerBench{
			open: func(t *testing.T, replica string) *store.DB {
				return open(t, store.Config{URL: through, Replica: replica})
			},
			exec: func(t *testing.T, statement string) { pgtest.Exec(t, url, statement) },
			past: "now() - interval '1 second'", soon: "now() + interval '2 seconds'", ahead: "now() + interval '30 seconds'", far: "now() + interval '7000 years'",
		}
	},
	"SQLite": func(t *testing.T) ledgerBench {
		path := filepath.Join(t.TempDir(), "director.db")
		migrate(t, "sqlite:"+path)
		return ledgerBench{
			open: func(t *testing.T, replica string) *store.DB {
				return open(t, store.Config{URL: "sqlite:" + path, Replica: replica})
			},
			exec: func(t *testing.T, statement string) {
				t.Helper()
				db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				if _, err := db.Exec(statement); err != nil {
					t.Fatalf("%s: %v", statement, err)
				}
			},
			past: "unixepoch('subsec') * 1000 - 1000", soon: "unixepoch('subsec') * 1000 + 2000", ahead: "unixepoch('subsec') * 1000 + 30000", far: "unixepoch('subsec') * 1000 + 220898664000000",
		}
	},
}

type ledgerBench struct {
	open func(t *testing.T, replica string) *store.DB
	exec func(t *testing.T, statement string)
	// past and soon are times that are over, and too near to switch a user; ahead is no more than clocks may differ by, and far is no time that
	// anybody will see.
	past, soon, ahead, far string
}

// overLedgers runs a test on each kind of ledger.
func overLedgers(t *testing.T, test func(t *testing.T, b ledgerBench)) {
	for name, bench := range ledgers {
		t.Run(name, func(t *testing.T) { test(t, bench(t)) })
	}
}

// follower is a replica that follows a ledger.
type follower struct {
	*store.Ledger
	db *store.DB

	mu     sync.Mutex
	orders director.Orders
	times  int
}

func (f *follower) heard() director.Orders {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.orders
}

// follow starts a replica that follows until the test ends, or stop is called.
func follow(t *testing.T, b ledgerBench, replica string) (f *follower, stop func()) {
	t.Helper()
	db := b.open(t, replica)
	f = &follower{Ledger: db.Ledger(replica, time.Hour), db: db}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- f.Follow(ctx, func() director.Replica {
			return director.Replica{Version: "v1", Fingerprint: "abc", Generation: 7, Alive: 3, Lost: 1}
		}, func(o director.Orders) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.orders = o
			f.times++
		})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	until(t, replica+" follows", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.times > 0
	})
	return f, stop
}

func assign(t *testing.T, db *store.DB, user, was, becomes string, reason director.Reason) {
	t.Helper()
	if m, err := db.Assign(t.Context(), director.Assignment{User: user, Was: was, Becomes: becomes, Reason: reason}); err != nil || m.Backend != becomes {
		t.Fatalf("%s is on %+v, %v", user, m, err)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestStandings(t *testing.T) {
	overLedgers(t, func(t *testing.T, b ledgerBench) {
		one, _ := follow(t, b, "replica-1")
		two, stopTwo := follow(t, b, "replica-2")
		order := director.Standing{Backend: "b-0", State: director.Drain, Weight: 2, Actor: "ada", Note: "disk"}
		if err := one.Stand(t.Context(), order); err != nil {
			t.Fatal(err)
		}
		for _, f := range []*follower{one, two} {
			until(t, "the order is followed", func() bool { return len(f.heard().Standings) == 1 })
			got := f.heard().Standings[0]
			if got.Age < 0 || got.Age > time.Minute {
				t.Errorf("age %s", got.Age)
			}
			if got.Age = 0; got != order {
				t.Errorf("%+v", got)
			}
		}
		order.State, order.Weight = director.Active, 0
		if err := two.Stand(t.Context(), order); err != nil {
			t.Fatal(err)
		}
		until(t, "the change is followed", func() bool { return one.heard().Standings[0].State == director.Active })

		replicas := must[[]director.Replica](t)(one.Replicas(t.Context()))
		if len(replicas) != 2 || replicas[1].Silent > time.Minute {
			t.Fatalf("%+v", replicas)
		}
		if replicas[1].Silent = 0; replicas[1] != (director.Replica{Name: "replica-2", Version: "v1", Fingerprint: "abc", Generation: 7, Alive: 3, Lost: 1}) {
			t.Errorf("%+v", replicas[1])
		}
		stopTwo()
		if replicas = must[[]director.Replica](t)(one.Replicas(t.Context())); len(replicas) != 1 {
			t.Errorf("a replica that has ended is there: %+v", replicas)
		}
		var notes []string
		for _, e := range must[[]director.Entry](t)(one.Journal(t.Context(), "", 0, 10)) {
			notes = append(notes, fmt.Sprint(e.Subject, " ", e.To, " ", e.Actor, " ", e.Note, " by ", e.Replica))
		}
		if want := []string{"backend b-0 ada state active: disk by replica-2", "backend b-0 ada state drain, weight 2: disk by replica-1"}; !slices.Equal(notes, want) {
			t.Errorf("journal: %q", notes)
		}
	})
}

// begun begins a move of a new user and lets a replica claim it.
func begun(t *testing.T, f *follower, user string) director.Move {
	t.Helper()
	assign(t, f.db, user, "", "b-0", director.Proposed)
	must[director.Move](t)(f.Begin(t.Context(), director.Move{User: user, From: "b-0", To: "b-1", Reason: director.Moved, Actor: "ada", Note: "VIP"}, director.MoveDeadline))
	for _, m := range must[[]director.Move](t)(f.Claim(t.Context(), 10)) {
		if m.User == user {
			return m
		}
	}
	t.Fatal("the move was not claimed")
	return director.Move{}
}

func TestMove(t *testing.T) {
	overLedgers(t, func(t *testing.T, b ledgerBench) {
		one, _ := follow(t, b, "replica-1")
		two, _ := follow(t, b, "replica-2")
		m := begun(t, one, "ada")
		if m.From != "b-0" || m.To != "b-1" || m.Stage != director.MoveBegun || m.Actor != "ada" || m.Note != "VIP" || m.Reason != director.Moved || m.Left <= 0 || m.Left > director.MoveDeadline {
			t.Errorf("%+v", m)
		}
		if row := must[director.Mapping](t)(two.db.Get(t.Context(), "ada")); row.Moving == nil || row.Moving.To != "b-1" || row.Moving.Left <= 0 {
			t.Errorf("a lookup does not see the move: %+v", row)
		}
		if again := must[[]director.Move](t)(two.Claim(t.Context(), 10)); len(again) > 0 {
			t.Errorf("claimed twice: %+v", again)
		}
		if _, err := two.Renew(t.Context(), m); !errors.Is(err, director.ErrMoveOver) {
			t.Errorf("another's move was renewed: %v", err)
		}
		if _, err := two.Begin(t.Context(), m, time.Minute); !errors.Is(err, director.ErrMoving) {
			t.Errorf("begun twice: %v", err)
		}
		if _, err := one.Switch(t.Context(), m, ""); !errors.Is(err, director.ErrMoveOver) {
			t.Errorf("switched before it held: %v", err)
		}
		m = must[director.Move](t)(one.Hold(t.Context(), m))
		until(t, "all replicas have heard", func() bool {
			m = must[director.Move](t)(one.Renew(t.Context(), m))
			return len(m.Unheard) == 0
		})
		for _, f := range []*follower{one, two} {
			if !slices.Equal(f.heard().Moving, []string{"ada"}) {
				t.Errorf("moving: %v", f.heard().Moving)
			}
		}
		if m.Stage != director.MoveHolding || m.Held <= 0 {
			t.Errorf("%+v", m)
		}
		m = must[director.Move](t)(one.Switch(t.Context(), m, "forced"))
		if row := must[director.Mapping](t)(two.db.Get(t.Context(), "ada")); row.Moving != nil || row.Backend != "b-1" {
			t.Errorf("after the switch: %+v", row)
		}
		if err := one.Undo(t.Context(), m, ""); !errors.Is(err, director.ErrMoveOver) {
			t.Errorf("undone after the switch: %v", err)
		}
		if err := one.Finish(t.Context(), m); err != nil {
			t.Error(err)
		}
		until(t, "nobody is moving", func() bool { return len(two.heard().Moving) == 0 })
		if move, err := one.MoveOf(t.Context(), "ada"); move != nil || err != nil {
			t.Errorf("%+v, %v", move, err)
		}
		e := must[[]director.Entry](t)(one.Journal(t.Context(), "ada", 0, 10))
		if len(e) != 1 || e[0].Subject != director.AboutUser || e[0].From != "b-0" || e[0].To != "b-1" || e[0].Reason != director.Moved || e[0].Actor != "ada" || e[0].Replica != "replica-1" || e[0].Note != "VIP; forced" {
			t.Errorf("journal: %+v", e)
		}
	})
}

// TestMovesThatEnd holds what is refused, and what becomes of moves that nobody carries out.
func TestMovesThatEnd(t *testing.T) {
	overLedgers(t, func(t *testing.T, b ledgerBench) {
		one, _ := follow(t, b, "replica-1")
		two, _ := follow(t, b, "replica-2")
		if _, err := one.Begin(t.Context(), director.Move{User: "nobody", From: "b-0", To: "b-1"}, time.Minute); !errors.Is(err, director.ErrNoMapping) {
			t.Errorf("a user without a row: %v", err)
		}
		assign(t, one.db, "bob", "", "b-2", director.Proposed)
		if _, err := one.Begin(t.Context(), director.Move{User: "bob", From: "b-0", To: "b-1"}, time.Minute); !errors.Is(err, director.ErrMovedMeanwhile) || !strings.Contains(err.Error(), "b-2") {
			t.Errorf("a user who is elsewhere: %v", err)
		}

		m := begun(t, one, "cy")
		if err := one.Undo(t.Context(), m, "why not"); err != nil {
			t.Error(err)
		}
		if row := must[director.Mapping](t)(one.db.Get(t.Context(), "cy")); row.Moving != nil || row.Backend != "b-0" {
			t.Errorf("after the end: %+v", row)
		}
		if e := must[[]director.Entry](t)(one.Journal(t.Context(), "cy", 0, 10)); len(e) != 1 || e[0].Subject != director.AboutUndone || e[0].Note != "VIP; not moved, why not" {
			t.Errorf("journal: %+v", e)
		}

		m = begun(t, one, "dee")
		b.exec(t, `UPDATE director_move SET claimed_until = `+b.past)
		taken := must[[]director.Move](t)(two.Claim(t.Context(), 10))
		if len(taken) != 1 || taken[0].User != "dee" {
			t.Errorf("not taken over: %+v", taken)
		}
		if _, err := one.Hold(t.Context(), m); !errors.Is(err, director.ErrMoveOver) {
			t.Errorf("the one that slept goes on: %v", err)
		}
		m = must[director.Move](t)(two.Hold(t.Context(), m))
		assign(t, two.db, "dee", "b-0", "b-3", director.Placed)
		if _, err := two.Switch(t.Context(), m, ""); !errors.Is(err, director.ErrMovedMeanwhile) {
			t.Errorf("a user who was mapped elsewhere meanwhile: %v", err)
		}
		if row := must[director.Mapping](t)(one.db.Get(t.Context(), "dee")); row.Backend != "b-3" {
			t.Errorf("%+v", row)
		}
		if err := two.Undo(t.Context(), m, "moved meanwhile"); err != nil {
			t.Error(err)
		}

		m = must[director.Move](t)(one.Hold(t.Context(), begun(t, one, "eve")))
		b.exec(t, `UPDATE director_move SET deadline = `+b.soon)
		if _, err := one.Switch(t.Context(), m, ""); !errors.Is(err, director.ErrMoveOver) {
			t.Errorf("switched when its time was nearly over: %v", err)
		}
		b.exec(t, `UPDATE director_move SET deadline = `+b.past)
		if row := must[director.Mapping](t)(two.db.Get(t.Context(), "eve")); row.Moving != nil {
			t.Errorf("a move holds after its deadline: %+v", row)
		}
		b.exec(t, `UPDATE director_move SET claimed_until = `+b.past)
		if _, err := two.Begin(t.Context(), director.Move{User: "eve", From: "b-0", To: "b-1"}, time.Minute); err != nil {
			t.Errorf("what is left of a dead move is in the way: %v", err)
		}
	})
}

// TestWhoMayDoWhatToAMove holds that only the replica whose it is may end it, each step once, and that others get no more than they ask for.
func TestWhoMayDoWhatToAMove(t *testing.T) {
	overLedgers(t, func(t *testing.T, b ledgerBench) {
		one, _ := follow(t, b, "replica-1")
		two, _ := follow(t, b, "replica-2")
		over := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, director.ErrMoveOver) {
				t.Errorf("%s: %v", what, err)
			}
		}
		there := func(what string) {
			t.Helper()
			if m, err := one.MoveOf(t.Context(), "ada"); m == nil || err != nil {
				t.Errorf("%s: %+v, %v", what, m, err)
			}
		}
		m := begun(t, one, "ada")
		over("undone by another", two.Undo(t.Context(), m, ""))
		if err := one.Finish(t.Context(), m); err != nil {
			t.Error(err)
		}
		there("finished before it was switched")
		m = must[director.Move](t)(one.Hold(t.Context(), m))
		_, err := one.Hold(t.Context(), m)
		over("held twice", err)
		_, err = two.Switch(t.Context(), m, "")
		over("switched by another", err)
		m = must[director.Move](t)(one.Switch(t.Context(), m, ""))
		if err := two.Finish(t.Context(), m); err != nil {
			t.Error(err)
		}
		there("finished by another")
		if _, err := two.Begin(t.Context(), director.Move{User: "ada", From: "b-1", To: "b-0"}, time.Minute); !errors.Is(err, director.ErrMoving) {
			t.Errorf("begun while another works at it: %v", err)
		}
		b.exec(t, `UPDATE director_move SET claimed_until = `+b.past)
		must[director.Move](t)(two.Begin(t.Context(), director.Move{User: "ada", From: "b-1", To: "b-0"}, time.Minute))

		assign(t, one.db, "bob", "", "b-0", director.Proposed)
		must[director.Move](t)(two.Begin(t.Context(), director.Move{User: "bob", From: "b-0", To: "b-1"}, time.Minute))
		for _, want := range []int{1, 1, 0} {
			if moves := must[[]director.Move](t)(two.Claim(t.Context(), 1)); len(moves) != want {
				t.Errorf("%d moves were claimed, want %d", len(moves), want)
			}
		}
	})
}

// TestReplicasThatAreSilent holds that moves wait for replicas that may serve users from memory, until they are forgotten.
func TestReplicasThatAreSilent(t *testing.T) {
	overLedgers(t, func(t *testing.T, b ledgerBench) {
		one, _ := follow(t, b, "replica-1")
		b.exec(t, `INSERT INTO director_replica SELECT 'dead', version, generation, fingerprint, alive, lost, seen_at, `+b.past+` FROM director_replica`)
		m := must[director.Move](t)(one.Hold(t.Context(), begun(t, one, "ada")))
		until(t, "the living has heard", func() bool {
			m = must[director.Move](t)(one.Renew(t.Context(), m))
			return len(m.Unheard) == 1
		})
		if m.Unheard[0] != "dead" {
			t.Errorf("unheard: %v", m.Unheard)
		}
		if forgotten := must[bool](t)(one.ForgetReplica(t.Context(), "dead", "ada")); !forgotten {
			t.Error("not forgotten")
		}
		if forgotten := must[bool](t)(one.ForgetReplica(t.Context(), "dead", "ada")); forgotten {
			t.Error("forgotten twice")
		}
		if m = must[director.Move](t)(one.Renew(t.Context(), m)); len(m.Unheard) > 0 {
			t.Errorf("unheard: %v", m.Unheard)
		}
	})
}

// TestOrdersAreWhole holds that a task and the standing that goes with it are ordered both or not at all.
func TestOrdersAreWhole(t *testing.T) {
	overLedgers(t, func(t *testing.T, b ledgerBench) {
		one, _ := follow(t, b, "replica-1")
		task, drain := director.Task{Kind: "dance", Backend: "b-0"}, director.Standing{Backend: "b-0", State: director.Drain}
		if err := one.Order(t.Context(), task, &drain); err == nil {
			t.Error("there is no such kind of task")
		}
		if standings := must[[]director.Standing](t)(one.Standings(t.Context())); len(standings) > 0 {
			t.Errorf("%+v", standings)
		}
		task.Kind = director.Evacuate
		if err := one.Order(t.Context(), task, &drain); err != nil {
			t.Fatal(err)
		}
		if standings := must[[]director.Standing](t)(one.Standings(t.Context())); len(standings) != 1 || standings[0].State != director.Drain {
			t.Errorf("%+v", standings)
		}
	})
}

// TestRowsOfTheFuture holds that they do not count as written a moment ago, for ever.
func TestRowsOfTheFuture(t *testing.T) {
	overLedgers(t, func(t *testing.T, b ledgerBench) {
		one, _ := follow(t, b, "replica-1")
		assign(t, one.db, "ada", "", "b-0", director.Proposed)
		b.exec(t, "UPDATE mailbox_username_backend SET last_ts = "+b.ahead)
		if m := must[director.Mapping](t)(one.db.Get(t.Context(), "ada")); m.Age != 0 {
			t.Errorf("clocks differ a little: age %s", m.Age)
		}
		b.exec(t, "UPDATE mailbox_username_backend SET last_ts = "+b.far)
		if m := must[director.Mapping](t)(one.db.Get(t.Context(), "ada")); m.Age < time.Hour {
			t.Errorf("age %s", m.Age)
		}
		must[director.Move](t)(one.Begin(t.Context(), director.Move{User: "ada", From: "b-0", To: "b-1", Reason: director.Moved, Quiet: time.Minute}, time.Minute))
	})
}

// TestReplicasOfOneName holds that nobody is moved while two directors use one name: each would vouch for what the other has not heard.
func TestReplicasOfOneName(t *testing.T) {
	overLedgers(t, func(t *testing.T, b ledgerBench) {
		one, _ := follow(t, b, "replica-1")
		follow(t, b, "same")
		m := must[director.Move](t)(one.Hold(t.Context(), begun(t, one, "ada")))
		until(t, "all have heard", func() bool {
			m = must[director.Move](t)(one.Renew(t.Context(), m))
			return len(m.Unheard) == 0
		})
		follow(t, b, "same")
		until(t, "the two are noticed", func() bool {
			m = must[director.Move](t)(one.Renew(t.Context(), m))
			return slices.Equal(m.Unheard, []string{"same"})
		})
	})
}

// TestClaimsEndWithTheReplica holds that moves of a replica which ends by itself can be taken over at once.
func TestClaimsEndWithTheReplica(t *testing.T) {
	overLedgers(t, func(t *testing.T, b ledgerBench) {
		one, stop := follow(t, b, "replica-1")
		two, _ := follow(t, b, "replica-2")
		begun(t, one, "ada")
		if moves := must[[]director.Move](t)(two.Claim(t.Context(), 10)); len(moves) > 0 {
			t.Errorf("claimed from under its replica: %+v", moves)
		}
		stop()
		if moves := must[[]director.Move](t)(two.Claim(t.Context(), 10)); len(moves) != 1 || moves[0].User != "ada" {
			t.Errorf("claimed after its replica has ended: %+v", moves)
		}
	})
}

// TestFollowersDoNotWaitForMoves has every connection of the movers wait for a lock that somebody else has.
func TestFollowersDoNotWaitForMoves(t *testing.T) {
	url := migrated(t, server)
	b := ledgerBench{
		open: func(t *testing.T, replica string) *store.DB { return open(t, store.Config{URL: url, Replica: replica}) },
		exec: func(t *testing.T, statement string) { pgtest.Exec(t, url, statement) },
	}
	one, _ := follow(t, b, "replica-1")
	m := begun(t, one, "ada")
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`SELECT id FROM director_move FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var movers sync.WaitGroup
	defer movers.Wait()
	defer cancel()
	for range 200 {
		movers.Go(func() {
			for ctx.Err() == nil {
				_, _ = one.Renew(ctx, m)
			}
		})
	}
	waiting := func() (n int) {
		if err := db.QueryRow(`SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%director_move%'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	until(t, "all connections of the movers wait", func() bool { return waiting() == 4 })
	two, _ := follow(t, b, "replica-2")
	if err := two.Stand(t.Context(), director.Standing{Backend: "b-0", State: director.Drain}); err != nil {
		t.Fatal(err)
	}
	until(t, "the order is obeyed", func() bool { return len(one.heard().Standings) == 1 })
	until(t, "movers still wait", func() bool { return waiting() > 0 })
}

// TestJournal holds that every change of a user's backend is there, and nothing else about users.
func TestJournal(t *testing.T) {
	overLedgers(t, func(t *testing.T, b ledgerBench) {
		one, _ := follow(t, b, "replica-1")
		assign(t, one.db, "ada", "", "192.0.2.1", director.Proposed)
		assign(t, one.db, "ada", "192.0.2.1", "b-0", director.Renamed)
		assign(t, one.db, "ada", "b-0", "b-0", director.Renewed)
		must[director.Mapping](t)(one.db.Assign(t.Context(), director.Assignment{User: "ada", Was: "b-0", Age: time.Hour, Becomes: "b-2", Reason: director.Placed}))
		assign(t, one.db, "ada", "b-0", "b-1", director.Placed)
		assign(t, one.db, "eve", "", "b-0", director.Provisional)
		// Who loses the race changes nothing, nor does who says again what has happened.
		assign(t, one.db, "ada", "b-0", "b-1", director.Placed)
		must[director.Mapping](t)(one.db.Assign(t.Context(), director.Assignment{User: "eve", Becomes: "b-2", Reason: director.Provisional}))
		must[director.Mapping](t)(one.db.Assign(t.Context(), director.Assignment{User: "ada", Was: "b-0", Becomes: "b-2", Reason: director.Placed}))
		for _, pinned := range []bool{true, false} {
			change := one.Pin
			if !pinned {
				change = one.Unpin
			}
			for _, want := range []bool{true, false} {
				if changed := must[bool](t)(change(t.Context(), "ada", "bob", "why")); changed != want {
					t.Errorf("pinned %t: changed %t", pinned, changed)
				}
			}
			if got := must[bool](t)(one.Pinned(t.Context(), "ada")); got != pinned {
				t.Errorf("pinned: %t", got)
			}
		}
		var got []string
		entries := must[[]director.Entry](t)(one.Journal(t.Context(), "ada", 0, 10))
		for _, e := range entries {
			if time.Since(e.At).Abs() > time.Minute {
				t.Errorf("at %s", e.At)
			}
			got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s>%s %s %s %s", e.Subject, e.From, e.To, e.Reason, e.Actor, e.Note)))
		}
		if want := []string{"pin >  bob unpinned: why", "pin >  bob pinned: why", "user b-0>b-1 placed"}; !slices.Equal(got, want) {
			t.Errorf("journal: %q", got)
		}
		if eve := must[[]director.Entry](t)(one.Journal(t.Context(), "eve", 0, 10)); len(eve) != 1 || eve[0].From != "" || eve[0].To != "b-0" || eve[0].Reason != director.Provisional {
			t.Errorf("journal of who was let in while the database was down: %+v", eve)
		}
		if page := must[[]director.Entry](t)(one.Journal(t.Context(), "", entries[0].ID, 1)); len(page) != 1 || page[0].ID != entries[1].ID {
			t.Errorf("the second page: %+v", page)
		}
	})
}

// TestLedgerOfALivingSite holds that lookups work without the ledger's tables, that its users are told what to run, and that directors
// which run take the tables up when they are made, by several at once.
func TestLedgerOfALivingSite(t *testing.T) {
	url := tableAlone(t, server)
	b := ledgerBench{open: func(t *testing.T, replica string) *store.DB { return open(t, store.Config{URL: url, Replica: replica}) }}
	one, _ := follow(t, b, "replica-1")
	assign(t, one.db, "ada", "", "b-0", director.Proposed)
	if _, err := one.Begin(t.Context(), director.Move{User: "ada", From: "b-0", To: "b-1"}, time.Minute); !errors.Is(err, director.ErrUnavailable) || !strings.Contains(err.Error(), "run 'go-dovecot-director migrate'") {
		t.Errorf("without its tables: %v", err)
	}
	if moves, err := one.Claim(t.Context(), 1); len(moves) > 0 || err != nil {
		t.Errorf("%v, %v", moves, err)
	}
	var migrating sync.WaitGroup
	for range 4 {
		migrating.Go(func() { migrate(t, url) })
	}
	migrating.Wait()
	if report := migrate(t, url); len(report) != 2 || !strings.Contains(report[1], "are there, version ") {
		t.Errorf("%q", report)
	}
	until(t, "the tables are taken up", func() bool {
		replicas, err := one.Replicas(t.Context())
		return err == nil && len(replicas) == 1
	})
	begun(t, one, "bob")
	if row := must[director.Mapping](t)(one.db.Get(t.Context(), "bob")); row.Moving == nil {
		t.Errorf("%+v", row)
	}
	pgtest.Exec(t, url, `INSERT INTO director_schema VALUES (999, now())`)
	db, err := store.Open(store.Config{URL: url}.Patient())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "the tables have version 999") {
		t.Errorf("a newer version: %v", err)
	}
}

func TestTasks(t *testing.T) {
	overLedgers(t, func(t *testing.T, b ledgerBench) {
		one, _ := follow(t, b, "replica-1")
		two, _ := follow(t, b, "replica-2")
		// Whoever sleeps over the end of a lease, which is short, has lost it. He gets it back once the other one's has ended.
		until(t, "the first that asks leads, and goes on to", func() bool {
			return must[bool](t)(one.Lead(t.Context())) && !must[bool](t)(two.Lead(t.Context())) && must[bool](t)(one.Lead(t.Context()))
		})
		b.exec(t, `UPDATE director_lease SET until = `+b.past)
		if !must[bool](t)(two.Lead(t.Context())) {
			t.Error("nobody leads after the leader has died")
		}

		orders := []director.Task{
			{Kind: director.Evacuate, Backend: "b-0", Rate: 50, Total: 7, Actor: "ada", Note: "disk"},
			{Kind: director.Rebalance, By: time.Hour, Slack: 0.05, Total: 3, Actor: "bob"},
		}
		for _, order := range orders {
			if err := one.Order(t.Context(), order, nil); err != nil {
				t.Fatal(err)
			}
		}
		orders[0].Paused = true
		if err := two.Order(t.Context(), orders[0], nil); err != nil {
			t.Fatal(err)
		}
		tasks := must[[]director.Task](t)(two.Tasks(t.Context()))
		for i := range tasks {
			if tasks[i].Age < 0 || tasks[i].Age > time.Minute {
				t.Errorf("age %s", tasks[i].Age)
			}
			tasks[i].Age = 0
			tasks[i].By = tasks[i].By.Round(time.Minute)
		}
		if !slices.Equal(tasks, orders) {
			t.Errorf("%+v", tasks)
		}
		for _, want := range []bool{true, false} {
			if ended := must[bool](t)(one.End(t.Context(), "evacuate b-0", "ada", "done")); ended != want {
				t.Errorf("ended: %t", ended)
			}
		}
		if tasks := must[[]director.Task](t)(one.Tasks(t.Context())); len(tasks) != 1 || tasks[0].Kind != director.Rebalance {
			t.Errorf("%+v", tasks)
		}
		var notes []string
		for _, e := range must[[]director.Entry](t)(one.Journal(t.Context(), "", 0, 10)) {
			notes = append(notes, strings.Join([]string{string(e.Subject), e.From, e.Actor, e.Note}, "|"))
		}
		if want := []string{"task|b-0|ada|evacuate ended: done", "task|b-0|ada|evacuate paused; disk", "task||bob|rebalance of 3 users within 1h0m0s", "task|b-0|ada|evacuate of 7 users, 50 a minute; disk"}; !slices.Equal(notes, want) {
			t.Errorf("journal: %q", notes)
		}
	})
}

// TestMovesOfWhoWasJustSeen holds that a move does not begin while a login may be waiting that was answered before it.
func TestMovesOfWhoWasJustSeen(t *testing.T) {
	overLedgers(t, func(t *testing.T, b ledgerBench) {
		one, _ := follow(t, b, "replica-1")
		assign(t, one.db, "ada", "", "b-0", director.Proposed)
		m := director.Move{User: "ada", From: "b-0", To: "b-1", Reason: director.Moved, Quiet: time.Hour}
		if _, err := one.Begin(t.Context(), m, time.Minute); !errors.Is(err, director.ErrNotQuiet) {
			t.Errorf("ada was seen just now: %v", err)
		}
		m.Quiet = 500 * time.Millisecond
		b.exec(t, "UPDATE mailbox_username_backend SET last_ts = "+b.past)
		must[director.Move](t)(one.Begin(t.Context(), m, time.Minute))
		assign(t, one.db, "bob", "", "b-0", director.Proposed)
		must[director.Move](t)(one.Begin(t.Context(), director.Move{User: "bob", From: "b-0", To: "b-1", Reason: director.Evened}, time.Minute))
		if n := must[int](t)(one.Balanced(t.Context(), time.Hour)); n != 1 {
			t.Errorf("%d users are being moved for balance, want bob alone", n)
		}
	})
}

func TestResidents(t *testing.T) {
	overLedgers(t, func(t *testing.T, b ledgerBench) {
		one, _ := follow(t, b, "replica-1")
		for _, user := range []string{"stays", "pinned", "lost"} {
			assign(t, one.db, user, "", "b-0", director.Proposed)
		}
		assign(t, one.db, "elsewhere", "", "b-9", director.Proposed)
		assign(t, one.db, "lost", "b-0", "b-1", director.Placed)
		begun(t, one, "moving")
		if err := one.Undo(t.Context(), begun(t, one, "undone"), "he has logged in"); err != nil {
			t.Fatal(err)
		}
		must[bool](t)(one.Pin(t.Context(), "pinned", "ada", ""))
		m := must[director.Move](t)(one.Hold(t.Context(), begun(t, one, "moved")))
		must[director.Move](t)(one.Switch(t.Context(), m, ""))

		var got []string
		for _, r := range must[[]director.Resident](t)(one.Residents(t.Context(), []string{"b-0", "b-1"})) {
			got = append(got, strings.TrimSpace(fmt.Sprint(r.User, " ", r.Backend, " ", r.Stays, " ", r.Moving)))
		}
		want := []string{"lost b-1 false", "moved b-1 false", "moving b-1 true moved", "pinned b-0 false", "stays b-0 false", "undone b-0 true"}
		if !slices.Equal(got, want) {
			t.Errorf("residents %q", got)
		}
		settled := must[map[string]bool](t)(one.Settled(t.Context(), time.Hour))
		if len(settled) != 3 || !settled["pinned"] || !settled["moved"] || !settled["undone"] {
			t.Errorf("settled: %v", settled)
		}
		if residents, err := one.Residents(t.Context(), nil); len(residents) > 0 || err != nil {
			t.Errorf("%v, %v", residents, err)
		}
	})
}

// TestLedgerWithoutRights holds that lookups go on where the tables are there and may not be used, and that the log says what to grant.
func TestLedgerWithoutRights(t *testing.T) {
	admin := migrated(t, server)
	role := fmt.Sprintf("director%d", rand.Uint32())
	pgtest.Exec(t, admin, `CREATE ROLE `+role+` LOGIN`)
	pgtest.Exec(t, admin, `GRANT SELECT, INSERT, UPDATE ON mailbox_username_backend TO `+role)
	var log lockedBuffer
	url := strings.Replace(admin, "postgres@", role+"@", 1)
	b := ledgerBench{open: func(t *testing.T, replica string) *store.DB {
		return open(t, store.Config{URL: url, Replica: replica, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	}}
	one, _ := follow(t, b, "replica-1")
	assign(t, one.db, "ada", "", "b-0", director.Proposed)
	if _, err := one.Standings(t.Context()); !errors.Is(err, director.ErrUnavailable) {
		t.Error(err)
	}
	for _, want := range []string{"GRANT SELECT ON director_schema", "GRANT SELECT, INSERT, UPDATE, DELETE ON director_backend, director_move, "} {
		until(t, "the log says "+want, func() bool { return strings.Contains(log.String(), want) })
		pgtest.Exec(t, admin, `GRANT SELECT ON director_schema TO `+role)
	}
	pgtest.Exec(t, admin, `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO `+role)
	until(t, "the tables are taken up", func() bool {
		_, err := one.Standings(t.Context())
		return err == nil
	})
}

// lockedBuffer is a buffer for several writers.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
