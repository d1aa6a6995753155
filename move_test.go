package director_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

func TestNextStep(t *testing.T) {
	open := []director.Session{{User: "ada", Service: "imap"}}
	unreachable := fmt.Errorf("%w: b-0 does not answer", director.ErrUnreachable)
	holding := director.Move{User: "ada", From: "b-0", To: "b-1", Stage: director.MoveHolding, Held: 5 * time.Second, Left: 20 * time.Second}
	with := func(change func(*director.Move)) director.Move {
		m := holding
		change(&m)
		return m
	}
	able := director.Evidence{Able: true, Kicked: -1}
	asked := func(sessions []director.Session, err error, kicked time.Duration) director.Evidence {
		return director.Evidence{Able: true, Asked: true, Sessions: sessions, Err: err, Kicked: kicked}
	}
	forced := with(func(m *director.Move) { m.Force, m.Held = true, 10*time.Second })
	switched := with(func(m *director.Move) { m.Stage = director.MoveSwitched })
	for name, tc := range map[string]struct {
		move     director.Move
		evidence director.Evidence
		want     director.StepVerb
		note     string
	}{
		"begun":                                    {with(func(m *director.Move) { m.Stage = director.MoveBegun }), able, director.StepHold, ""},
		"lookups may be under way":                 {with(func(m *director.Move) { m.Held = time.Second }), able, director.StepWait, ""},
		"a replica has not heard":                  {with(func(m *director.Move) { m.Unheard = []string{"r"} }), able, director.StepWait, ""},
		"a replica has not heard, forced":          {with(func(m *director.Move) { m.Unheard, m.Force = []string{"r"}, true }), able, director.StepAsk, ""},
		"settled":                                  {holding, able, director.StepAsk, ""},
		"no session":                               {holding, asked(nil, nil, -1), director.StepSwitch, ""},
		"a session":                                {holding, asked(open, nil, -1), director.StepKick, ""},
		"a session, just kicked":                   {holding, asked(open, nil, 10*time.Millisecond), director.StepWait, ""},
		"a session, kicked a while ago":            {holding, asked(open, nil, time.Second), director.StepKick, ""},
		"a session, idle users only":               {with(func(m *director.Move) { m.IdleOnly = true }), asked(open, nil, -1), director.StepUndo, "the user has logged in"},
		"no answer":                                {holding, asked(nil, unreachable, -1), director.StepWait, ""},
		"no answer, forced":                        {forced, asked(nil, unreachable, -1), director.StepCut, ""},
		"no answer, forced, for the first time":    {with(func(m *director.Move) { m.Force = true }), asked(nil, unreachable, -1), director.StepWait, ""},
		"no answer, forced, cut":                   {forced, director.Evidence{Able: true, Asked: true, Err: unreachable, Cut: true, Cutting: "cut at 2 proxies"}, director.StepSwitch, "forced, it is not known that no session goes on: the backend's sessions cannot be asked for: b-0 does not answer; cut at 2 proxies"},
		"a name that is a pattern":                 {holding, asked(open, director.ErrPattern, 0), director.StepUndo, "doveadm takes this user name for a pattern"},
		"the new backend is gone":                  {holding, director.Evidence{Kicked: -1}, director.StepUndo, "backend b-1 cannot take the user: it is not ready, or switched off"},
		"no time is left":                          {with(func(m *director.Move) { m.Left = 5 * time.Second }), asked(open, nil, 0), director.StepUndo, "no time is left: 1 sessions on b-0 did not end"},
		"no time is left, no answer":               {with(func(m *director.Move) { m.Left = 0 }), asked(nil, unreachable, -1), director.StepUndo, "no time is left: the backend's sessions cannot be asked for: b-0 does not answer"},
		"no time is left, a replica has not heard": {with(func(m *director.Move) { m.Left, m.Unheard = 0, []string{"r-2", "r-1"} }), able, director.StepUndo, "no time is left: these replicas have not heard of the move: r-1, r-2"},
		"no time is left when it is taken over":    {with(func(m *director.Move) { m.Left = 0 }), able, director.StepUndo, "no time is left: it was begun too late, or taken over too late from a replica that ended"},
		"switched":                                 {with(func(m *director.Move) { m.Stage, m.Held = director.MoveSwitched, time.Second }), able, director.StepWait, ""},
		"switched, a while ago":                    {switched, able, director.StepAsk, ""},
		"switched, nobody there":                   {switched, asked(nil, nil, -1), director.StepFinish, ""},
		"switched, somebody came late":             {switched, asked(open, nil, -1), director.StepKick, ""},
		"switched, kicked":                         {switched, asked(open, nil, 0), director.StepWait, ""},
		"switched, no answer":                      {switched, asked(nil, unreachable, -1), director.StepFinish, ""},
		"switched, after the deadline":             {with(func(m *director.Move) { m.Stage, m.Left = director.MoveSwitched, -time.Second }), asked(open, nil, -1), director.StepKick, ""},
		"switched, long ago":                       {with(func(m *director.Move) { m.Stage, m.Held = director.MoveSwitched, 15*time.Second }), asked(open, nil, -1), director.StepFinish, ""},
	} {
		step := tc.move.Next(tc.evidence)
		if step.Verb != tc.want || step.Note != tc.note {
			t.Errorf("%s: %s, %q", name, step.Verb, step.Note)
		}
		if (step.Verb == director.StepWait) != (step.For > 0) {
			t.Errorf("%s: waits %s", name, step.For)
		}
		// It waits until what has to be over is, and no longer.
		switch until := tc.move.Held + step.For; {
		case name == "lookups may be under way" && until != 4*time.Second, name == "switched" && until != 2*time.Second:
			t.Errorf("%s: waits until %s", name, until)
		}
	}
}

// mailbox is a world of one user: where his row is, his sessions on both backends, and his move. It implements Moves and
// Sessions, and notes when two backends serve him.
type mailbox struct {
	t    *testing.T
	told tally

	mu        sync.Mutex
	mapped    string
	move      *director.Move
	holder    *mover
	until     time.Time // of the claim
	held      time.Time
	deadline  time.Time
	sessions  map[string]int
	stubborn  int // how many kicks the sessions survive
	answers   bool
	calls     []string
	undone    string
	switches  int
	cuts      int
	crashAt   int // the call at which the first mover dies, 0 for never
	crashLate bool
}

// mover is one replica's way to the mailbox.
type mover struct {
	*mailbox
	cancel context.CancelFunc
}

var errCrash = errors.New("the replica has died")

// call notes a call of a mover, and lets the first one die before or after it had an effect.
func (m *mover) call(name string, do func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, name)
	if m.cancel == nil || len(m.calls) != m.crashAt {
		return do()
	}
	m.cancel()
	if m.crashLate {
		_ = do()
	}
	return errCrash
}

func (m *mover) mine() bool { return m.move != nil && m.holder == m }

func (m *mover) state() director.Move {
	m.until = time.Now().Add(8 * time.Second)
	s := *m.move
	s.Left = time.Until(m.deadline)
	if !m.held.IsZero() {
		s.Held = time.Since(m.held)
	}
	return s
}

func (m *mover) Claim(_ context.Context, most int) (moves []director.Move, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.move != nil && most > 0 && !time.Now().Before(m.until) {
		m.holder = m
		moves = append(moves, m.state())
	}
	return moves, nil
}

func (m *mover) change(name string, move director.Move, do func() error) (director.Move, error) {
	err := m.call(name, func() error {
		if !m.mine() {
			return director.ErrMoveOver
		}
		if err := do(); err != nil {
			return err
		}
		move = m.state()
		return nil
	})
	return move, err
}

func (m *mover) Renew(_ context.Context, move director.Move) (director.Move, error) {
	return m.change("renew", move, func() error { return nil })
}

func (m *mover) Hold(_ context.Context, move director.Move) (director.Move, error) {
	return m.change("hold", move, func() error {
		m.move.Stage, m.held = director.MoveHolding, time.Now()
		return nil
	})
}

func (m *mover) Switch(_ context.Context, move director.Move, _ string) (director.Move, error) {
	return m.change("switch", move, func() error {
		if m.sessions[m.move.From] > 0 {
			m.t.Error("switched while a session was open")
		}
		if m.mapped != m.move.From {
			return director.ErrMovedMeanwhile
		}
		if time.Since(m.held) < 4*time.Second {
			m.t.Error("switched before lookups that had begun before the hold were over")
		}
		m.mapped, m.move.Stage, m.held = m.move.To, director.MoveSwitched, time.Now()
		m.switches++
		return nil
	})
}

func (m *mover) Undo(_ context.Context, _ director.Move, why string) error {
	return m.call("undo", func() error {
		if !m.mine() {
			return director.ErrMoveOver
		}
		m.move, m.undone = nil, why
		return nil
	})
}

func (m *mover) Finish(context.Context, director.Move) error {
	return m.call("finish", func() error {
		m.move = nil
		return nil
	})
}

func (m *mover) Who(context.Context, director.Backend) ([]director.Session, error) {
	return nil, errors.New("nobody asks for all")
}

func (m *mover) Find(_ context.Context, b director.Backend, user string) (found []director.Session, err error) {
	err = m.call("find", func() error {
		if !m.answers {
			return director.ErrUnreachable
		}
		for range m.sessions[b.Name] {
			found = append(found, director.Session{User: user, Service: "imap"})
		}
		return nil
	})
	return found, err
}

func (m *mover) Kick(_ context.Context, b director.Backend, _ []director.Session) error {
	return m.call("kick", func() error {
		if m.stubborn--; m.stubborn < 0 {
			m.sessions[b.Name] = 0
		}
		return nil
	})
}

func (m *mover) Cut(context.Context, netip.Addr, string) (int, error) {
	err := m.call("cut", func() error {
		m.cuts++
		return nil
	})
	return 1, err
}

// newMailbox makes a user who is being moved from b-0 to b-1.
func newMailbox(t *testing.T, sessions int) *mailbox {
	return &mailbox{
		t: t, mapped: "b-0", sessions: map[string]int{"b-0": sessions}, answers: true, deadline: time.Now().Add(director.MoveDeadline),
		move: &director.Move{ID: 1, User: "ada", From: "b-0", To: "b-1", Stage: director.MoveBegun, Reason: director.Evacuated},
	}
}

// seeing makes what sees these backends alive.
func seeing(names ...string) func() *director.View {
	d := director.New(director.Config{BuildRing: func(members []director.Member) director.Ring { return fixedRing(members) }})
	var all []director.Backend
	for i, name := range names {
		all = append(all, director.Backend{Name: name, Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), Weight: 1})
	}
	d.Observe(director.Snapshot{Backends: all})
	return d.View
}

// moveAll lets two replicas work at the mailbox's move until it has ended, or a minute is over. The first may die.
func moveAll(t *testing.T, box *mailbox) {
	t.Helper()
	view := seeing("b-0", "b-1")
	ctx, cancel := context.WithCancel(t.Context())
	first, crash := context.WithCancel(ctx)
	var running sync.WaitGroup
	for i, ctx := range []context.Context{first, ctx} {
		replica := &mover{mailbox: box}
		if i == 0 {
			replica.cancel = crash
		}
		m := director.NewMover(director.MoverConfig{Moves: replica, Sessions: replica, View: view, Tally: &box.told})
		running.Go(func() {
			if err := m.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait() // the first one claims the move
	}
	time.Sleep(time.Minute)
	cancel()
	crash()
	running.Wait()
}

func TestMoverMoves(t *testing.T) {
	for name, tc := range map[string]struct {
		sessions int
		change   func(*mailbox)
		mapped   string
		undone   string
		within   time.Duration
	}{
		"nobody logged in":             {0, nil, "b-1", "", 0},
		"two sessions":                 {2, nil, "b-1", "", 0},
		"sessions that need two kicks": {1, func(b *mailbox) { b.stubborn = 1 }, "b-1", "", 0},
		"sessions that never end":      {1, func(b *mailbox) { b.stubborn = 1000 }, "b-0", "1 sessions on b-0 did not end", 0},
		"no answer":                    {1, func(b *mailbox) { b.answers = false }, "b-0", "sessions cannot be asked for", 0},
		"no answer, forced":            {0, func(b *mailbox) { b.answers, b.move.Force = false, true }, "b-1", "", 0},
		"the new backend is unknown":   {0, func(b *mailbox) { b.move.To = "b-9" }, "b-0", "backend b-9 cannot take the user", 0},
		"mapped elsewhere meanwhile":   {0, func(b *mailbox) { b.mapped = "b-7" }, "b-7", "changed meanwhile", 0},
		"idle users only":              {1, func(b *mailbox) { b.move.IdleOnly = true }, "b-0", "logged in", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				box := newMailbox(t, tc.sessions)
				if tc.change != nil {
					tc.change(box)
				}
				moveAll(t, box)
				if box.mapped != tc.mapped || box.move != nil || !strings.Contains(box.undone, tc.undone) || (box.undone == "") != (tc.undone == "") {
					t.Errorf("mapped to %s, move %+v, undone %q", box.mapped, box.move, box.undone)
				}
				if tc.undone == "" {
					box.told.is(t, "moved evacuated")
				} else {
					box.told.is(t, "undone evacuated")
				}
				if force := name == "no answer, forced"; force != (box.cuts == 1) {
					t.Errorf("cut %d times", box.cuts)
				}
				if first := slices.Index(box.calls, "hold"); first < 0 || slices.Index(box.calls, "kick") >= 0 && slices.Index(box.calls, "kick") < first {
					t.Errorf("calls: %v", box.calls)
				}
			})
		})
	}
}

// TestMoverCrashes lets a replica die at every call of a move, before or after it had an effect. Another one ends it: the user is
// never switched twice or with a session open, and nothing holds him any more.
func TestMoverCrashes(t *testing.T) {
	crashes := 0
	for at := 1; ; at++ {
		ended := false
		for _, late := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				box := newMailbox(t, 1)
				box.crashAt, box.crashLate = at, late
				moveAll(t, box)
				if box.move != nil || box.switches > 1 || (box.mapped == "b-1") != (box.switches == 1) {
					t.Errorf("crash at call %d (%s), late %t: move %+v, mapped to %s, %d switches", at, box.calls[at-1], late, box.move, box.mapped, box.switches)
				}
				if box.mapped != "b-1" {
					t.Errorf("crash at call %d, late %t: not moved, %s", at, late, box.undone)
				}
				ended = len(box.calls) < at
			})
		}
		if ended {
			break
		}
		crashes++
	}
	if crashes < 8 {
		t.Errorf("only %d calls", crashes)
	}
}

// TestMoverThatSlept has a replica wake up whose move another one has taken over: it does nothing to the user any more. A move that
// has only begun it may try to go on with, which the store refuses.
func TestMoverThatSlept(t *testing.T) {
	for stage, tries := range map[director.MoveStage]string{director.MoveBegun: "hold", director.MoveHolding: "renew", director.MoveSwitched: "renew"} {
		synctest.Test(t, func(t *testing.T) {
			box := newMailbox(t, 1)
			box.move.Stage, box.held = stage, time.Now().Add(-10*time.Second)
			box.until = time.Now().Add(time.Hour)
			box.holder = &mover{mailbox: box}
			slept := &mover{mailbox: box}
			m := director.NewMover(director.MoverConfig{Moves: claimsAnyway{slept}, Sessions: slept, View: seeing("b-0", "b-1")})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := m.Run(ctx); err != nil {
				t.Error(err)
			}
			if box.move == nil || box.move.Stage != stage || box.sessions["b-0"] != 1 || slices.ContainsFunc(box.calls, func(c string) bool { return c != tries }) {
				t.Errorf("%s: move %+v, sessions %v, calls %v", stage, box.move, box.sessions, box.calls)
			}
		})
	}
}

// claimsAnyway believes that the move is its own.
type claimsAnyway struct{ *mover }

func (c claimsAnyway) Claim(context.Context, int) ([]director.Move, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return []director.Move{*c.move}, nil
}

// TestMoverWithoutAView holds that a replica which has just started takes no moves over: it would give them up.
func TestMoverWithoutAView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newMailbox(t, 0)
		replica := &mover{mailbox: box}
		m := director.NewMover(director.MoverConfig{Moves: replica, Sessions: replica, View: func() *director.View { return nil }})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
		if box.move == nil || len(box.calls) > 0 {
			t.Errorf("move %+v, calls %v", box.move, box.calls)
		}
	})
}

// TestMoverWakes holds that a move that was begun here does not wait for the next look.
func TestMoverWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := newMailbox(t, 0)
		begun := box.move
		box.move = nil
		replica := &mover{mailbox: box}
		m := director.NewMover(director.MoverConfig{Moves: replica, Sessions: replica, View: seeing("b-0", "b-1")})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = m.Run(ctx) })
		synctest.Wait()
		box.mu.Lock()
		box.move = begun
		box.mu.Unlock()
		at := time.Now()
		m.Wake()
		m.Wake() // never blocks
		synctest.Wait()
		box.mu.Lock()
		held := box.held
		box.mu.Unlock()
		if !held.Equal(at) {
			t.Errorf("held at %s, woken at %s", held, at)
		}
		cancel()
		running.Wait()
	})
}
