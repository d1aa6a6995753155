package director_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// orderBook is a ledger that keeps what operators order. What it does not override is not asked for.
type orderBook struct {
	director.Ledger
	silent    time.Duration // of another replica
	standings []director.Standing
	moves     []director.Move
	refuses   error // what Begin comes to
	pinned    map[string]bool
	notes     []director.Entry
	unwritten error // what Note comes to
	asked     string
	forgotten []string
	replicas  []director.Replica // if there are others than two
}

func (o *orderBook) Standings(context.Context) ([]director.Standing, error) { return o.standings, nil }

func (o *orderBook) Stand(_ context.Context, s director.Standing) error {
	o.standings = append(o.standings, s)
	return nil
}

func (o *orderBook) Replicas(context.Context) ([]director.Replica, error) {
	if o.replicas != nil {
		return o.replicas, nil
	}
	return []director.Replica{{Name: "living"}, {Name: "other", Silent: o.silent}}, nil
}

func (o *orderBook) Begin(_ context.Context, m director.Move, _ time.Duration) (director.Move, error) {
	if o.refuses != nil {
		return m, o.refuses
	}
	o.moves = append(o.moves, m)
	return m, nil
}

func (o *orderBook) MoveOf(_ context.Context, user string) (*director.Move, error) {
	if i := slices.IndexFunc(o.moves, func(m director.Move) bool { return m.User == user }); i >= 0 {
		return &o.moves[i], nil
	}
	return nil, nil
}

func (o *orderBook) Pin(_ context.Context, user, _, _ string) (bool, error) {
	changed := !o.pinned[user]
	o.pinned[user] = true
	return changed, nil
}

func (o *orderBook) Unpin(_ context.Context, user, _, _ string) (bool, error) {
	changed := o.pinned[user]
	delete(o.pinned, user)
	return changed, nil
}

func (o *orderBook) Pinned(_ context.Context, user string) (bool, error) { return o.pinned[user], nil }

func (o *orderBook) Note(_ context.Context, e director.Entry) error {
	o.notes = append(o.notes, e)
	return o.unwritten
}

func (o *orderBook) Journal(_ context.Context, user string, before int64, most int) ([]director.Entry, error) {
	o.asked = fmt.Sprintf("%d of %q before %d", most, user, before)
	return o.notes, nil
}

func (o *orderBook) ForgetReplica(_ context.Context, name, _ string) (bool, error) {
	o.forgotten = append(o.forgotten, name)
	return name == "other", nil
}

// TestOrdersThatAreRefused holds what needs force, and that nothing was changed without it.
func TestOrdersThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory(), obeys)
		b.see(backends(4))
		b.Obey(director.Orders{})
		b.see(with(backends(4), 3, director.Terminating))
		b.store.put("ada", backend(0).Name)
		book := &orderBook{}
		o := director.NewOperator(director.OperatorConfig{Director: b.Director, Ledger: book, Sessions: &errand{}})
		weight := func(n int) *int { return &n }
		stand := func(order director.StandOrder) error {
			_, err := o.Stand(t.Context(), order)
			return err
		}
		move := func(order director.MoveOrder) error {
			_, err := o.Move(t.Context(), order)
			return err
		}
		for name, tc := range map[string]struct {
			err  error
			want string
		}{
			"off while it is alive":     {stand(director.StandOrder{Backend: backend(1).Name, State: director.Off}), "is alive: switched off"},
			"off while it serves":       {stand(director.StandOrder{Backend: backend(3).Name, State: director.Off}), "sessions may go on there"},
			"a backend that is unknown": {stand(director.StandOrder{Backend: "b-9", State: director.Drain}), "no backend b-9 is known"},
			"no backend":                {stand(director.StandOrder{State: director.Drain}), "name of the backend is missing"},
			"a state that is none":      {stand(director.StandOrder{Backend: backend(1).Name, State: "down"}), "is not a state"},
			"too heavy":                 {stand(director.StandOrder{Backend: backend(1).Name, Weight: weight(101)}), "out of bounds"},
			"nothing":                   {stand(director.StandOrder{Backend: backend(1).Name}), "nothing is ordered"},
			"a user without a backend":  {move(director.MoveOrder{User: "bob", To: backend(1).Name}), "bob has no backend yet"},
			"where he is":               {move(director.MoveOrder{User: "ADA", To: backend(0).Name}), "ada is on dovecot-backend-0 already"},
			"to one that is lost":       {move(director.MoveOrder{User: "ada", To: backend(3).Name}), "it is not alive"},
		} {
			if refused, ok := errors.AsType[*director.RefusedError](tc.err); !ok || !strings.Contains(refused.Message, tc.want) {
				t.Errorf("%s: %v", name, tc.err)
			}
		}
		book.silent = time.Minute
		if err := move(director.MoveOrder{User: "ada"}); err == nil || !strings.Contains(err.Error(), "other (for 1m0s)") {
			t.Errorf("a director has died: %v", err)
		}
		if len(book.standings)+len(book.moves) > 0 {
			t.Errorf("%+v, %+v", book.standings, book.moves)
		}

		if err := move(director.MoveOrder{User: "ada", Force: true}); err != nil || len(book.moves) != 1 || book.moves[0].From != backend(0).Name || book.moves[0].To == backend(0).Name {
			t.Errorf("forced: %+v, %v", book.moves, err)
		}
		for _, name := range []string{backend(1).Name, backend(3).Name, "b-9"} {
			if err := stand(director.StandOrder{Backend: name, State: director.Off, Force: true}); err != nil {
				t.Error(err)
			}
		}
		if err := stand(director.StandOrder{Backend: backend(2).Name, Weight: weight(3), Actor: "ada"}); err != nil {
			t.Error(err)
		}
		if last := book.standings[3]; last != (director.Standing{Backend: backend(2).Name, State: director.Active, Weight: 3, Actor: "ada"}) {
			t.Errorf("%+v", last)
		}
	})
}

// TestEvacuationsOfBackendsThatEnd holds which backends may be evacuated that are not alive, and what is ordered then.
func TestEvacuationsOfBackendsThatEnd(t *testing.T) {
	const removed, planned, gone = 3, 2, 1
	sets := []director.StatefulSet{{Name: "dovecot-backend", Replicas: 3, Termination: time.Minute}}
	for name, tc := range map[string]struct {
		backend  int
		underWay bool
		order    director.TaskOrder
		drained  bool
		refused  string
	}{
		"it terminates and will be back":          {backend: planned, order: director.TaskOrder{Rate: 7}, drained: true},
		"it is scaled away and still serves":      {backend: removed, order: director.TaskOrder{Rate: 7}},
		"a pause when its users wait no more":     {backend: gone, underWay: true, order: director.TaskOrder{Rate: 7, Paused: true}, drained: true},
		"its users wait no more":                  {backend: gone, refused: "the users of one that is lost are moved by themselves"},
		"a name that no task can have":            {backend: -1, refused: "is too long for a task: 246 bytes are the most"},
		"nobody has seen it":                      {backend: 9, refused: "no backend dovecot-backend-9 is alive"},
		"another rate of one that was never seen": {backend: 9, underWay: true, order: director.TaskOrder{Rate: 9}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, newMemory(), obeys)
				b.Obey(director.Orders{})
				observe := func(list []director.Backend) {
					b.Observe(director.Snapshot{Backends: list, StatefulSets: sets, ListsTerminating: true, CurrentAt: time.Now()})
				}
				observe(backends(4))
				observe(with(backends(4), gone, director.Stopping))
				observe(without(backends(4), gone))
				time.Sleep(graces.Restart + time.Second)
				ending := without(backends(4), gone)
				ending[1].Condition, ending[2].Condition = director.Terminating, director.Terminating
				observe(ending)
				book, tasks := &orderBook{}, &errand{}
				if tc.underWay {
					tasks.tasks = []director.Task{{Kind: director.Evacuate, Backend: backend(tc.backend).Name}}
				}
				o := director.NewOperator(director.OperatorConfig{Director: b.Director, Ledger: book, Tasks: tasks, Sessions: tasks})
				name := strings.Repeat("b", 247)
				if tc.backend >= 0 {
					name = backend(tc.backend).Name
				} else {
					observe(append(ending, director.Backend{Name: name, Addr: backend(7).Addr}))
				}
				report, err := o.Evacuate(t.Context(), name, tc.order)
				if tc.refused != "" {
					if err == nil || !strings.Contains(err.Error(), tc.refused) || len(tasks.stood) > 0 || len(tasks.tasks) > 0 {
						t.Errorf("%v, %+v, %+v", err, tasks.stood, tasks.tasks)
					}
					return
				}
				if err != nil || report.Backend != backend(tc.backend).Name {
					t.Fatalf("%+v, %v", report, err)
				}
				if last := tasks.tasks[len(tasks.tasks)-1]; last.Rate != tc.order.Rate || last.Paused != tc.order.Paused {
					t.Errorf("%+v", last)
				}
				if drained := len(tasks.stood) > 0 && tasks.stood[0].State == director.Drain; drained != tc.drained {
					t.Errorf("%+v", tasks.stood)
				}
			})
		})
	}
}

// guests are a house whose sessions can be ended.
type guests struct {
	*house
	kicked []string
}

func newGuests() *guests {
	g := &guests{house: newHouse()}
	g.finding = func(string, string) {}
	return g
}

func (g *guests) Find(ctx context.Context, b director.Backend, user string) ([]director.Session, error) {
	g.mu.Lock()
	down := g.down[b.Name]
	g.mu.Unlock()
	if down {
		return nil, fmt.Errorf("%w: %s", director.ErrUnreachable, b.Name)
	}
	return g.house.Find(ctx, b, user)
}

func (g *guests) Kick(_ context.Context, b director.Backend, sessions []director.Session) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.kicked = append(g.kicked, fmt.Sprintf("%d on %s", len(sessions), b.Name))
	return nil
}

// office is an operator with all that he needs, over backends whose first is the ring's proposal for everybody.
type office struct {
	*director.Operator
	*bench
	guests *guests
	book   *orderBook
	work   *errand
}

func (o *office) set(user string, n, sessions int) { o.guests.set(user, n, sessions) }

func newOffice(t *testing.T, backends []director.Backend, change ...func(*director.OperatorConfig)) *office {
	o := &office{bench: newBench(t, newMemory(), obeys), guests: newGuests(), book: &orderBook{pinned: map[string]bool{}}}
	o.work = &errand{store: o.store}
	o.Obey(director.Orders{})
	o.see(backends)
	config := director.OperatorConfig{Director: o.Director, Ledger: o.book, Tasks: o.work, Replica: "living", Sessions: o.guests}
	for _, c := range change {
		c(&config)
	}
	o.Operator = director.NewOperator(config)
	return o
}

func withoutDoveadm(c *director.OperatorConfig) { c.Sessions = nil }

// refused checks that an order was refused with that text, which is about something that does not exist or not.
func refused(t *testing.T, err error, text string, missing bool) {
	t.Helper()
	if r, ok := errors.AsType[*director.RefusedError](err); !ok || !strings.Contains(r.Message, text) || r.NotFound != missing {
		t.Errorf("%v, want %q", err, text)
	}
}

// TestWhereAUserGoesWhomNobodySendsAnywhere holds which backend is chosen for a move that names none.
func TestWhereAUserGoesWhomNobodySendsAnywhere(t *testing.T) {
	o := newOffice(t, backends(3))
	for i := range 9 {
		o.store.put(fmt.Sprintf("u%d", i), backend(1).Name)
	}
	o.store.put("ada", backend(1).Name)
	o.store.put("bob", backend(0).Name)
	o.store.put("cyd", backend(0).Addr.String()) // a row of old
	o.Recount(t.Context())
	for user, want := range map[string]string{
		"ada": backend(0).Name, // the ring's proposal
		"bob": backend(2).Name, // he is there, and the next one is full
		"cyd": backend(2).Name,
	} {
		state, err := o.Move(t.Context(), director.MoveOrder{User: user, Note: "disk", Actor: "ops"})
		if err != nil || state.To != want || state.From != o.store.row(user) || state.Note != "disk" || state.Actor != "ops" {
			t.Errorf("%s: %+v, %v", user, state, err)
		}
	}
	// Everybody is on one of two backends: the other is taken all the same.
	o.see(backends(2))
	for i := range 90 {
		o.store.put(fmt.Sprintf("v%d", i), backend(1).Name)
	}
	o.Recount(t.Context())
	if state, err := o.Move(t.Context(), director.MoveOrder{User: "bob"}); err != nil || state.To != backend(1).Name {
		t.Errorf("%+v, %v", state, err)
	}
	o.see(backends(1))
	_, err := o.Move(t.Context(), director.MoveOrder{User: "bob"})
	refused(t, err, "there is no other backend that takes users: alive are dovecot-backend-0", false)
}

// TestMovesThatTheLedgerRefuses holds what operators are told of it, and that nobody is woken for nothing.
func TestMovesThatTheLedgerRefuses(t *testing.T) {
	begun := 0
	o := newOffice(t, backends(2), func(c *director.OperatorConfig) { c.Begun = func() { begun++ } })
	o.store.put("ada", backend(0).Name)
	move := func() error {
		_, err := o.Move(t.Context(), director.MoveOrder{User: "ada", To: backend(1).Name})
		return err
	}
	o.book.refuses = director.ErrNotQuiet
	refused(t, move(), "or use force", false)
	o.book.refuses = director.ErrMovedMeanwhile
	refused(t, move(), "the user's mapping was changed meanwhile; try again", false)
	o.book.refuses = director.ErrMoving
	if err := move(); !errors.Is(err, director.ErrMoving) {
		t.Error(err)
	}
	o.store.setDown(true)
	if err := move(); !errors.Is(err, director.ErrUnavailable) {
		t.Error(err)
	}
	o.store.setDown(false)
	if begun > 0 {
		t.Errorf("the mover was woken %d times", begun)
	}
	o.book.refuses = nil
	if err := move(); err != nil || begun != 1 {
		t.Errorf("%v, woken %d times", err, begun)
	}

	o = newOffice(t, backends(2), withoutDoveadm)
	o.store.put("ada", backend(0).Name)
	refused(t, move(), "no doveadm key is configured", false)
	if _, err := o.Move(t.Context(), director.MoveOrder{User: "ada", To: backend(1).Name, Force: true}); err != nil {
		t.Error(err)
	}

	blind := newBench(t, newMemory())
	_, err := director.NewOperator(director.OperatorConfig{Director: blind.Director}).Move(t.Context(), director.MoveOrder{User: "ada"})
	if !errors.Is(err, director.ErrUnavailable) {
		t.Errorf("without a view: %v", err)
	}
}

func TestPin(t *testing.T) {
	o := newOffice(t, backends(1))
	for i, step := range []struct{ pinned, changed bool }{{true, true}, {true, false}, {false, true}, {false, false}} {
		changed, err := o.Pin(t.Context(), "ADA", step.pinned, "ops", "")
		if err != nil || changed != step.changed || o.book.pinned["ada"] != step.pinned {
			t.Errorf("step %d: changed %t, pinned %v, %v", i, changed, o.book.pinned, err)
		}
	}
	if _, err := o.Pin(t.Context(), "", true, "ops", ""); !errors.As(err, new(*director.InvalidUserError)) || len(o.book.pinned) > 0 {
		t.Errorf("no name: %v, %v", err, o.book.pinned)
	}
}

func TestKick(t *testing.T) {
	o := newOffice(t, backends(3))
	o.set("ada", 0, 2)
	o.set("ada", 2, 1)
	o.set("bob", 1, 1)
	sessions, err := o.Kick(t.Context(), "ADA", "ops", "her password is known")
	slices.Sort(o.guests.kicked)
	if err != nil || sessions != 3 || !slices.Equal(o.guests.kicked, []string{"1 on dovecot-backend-2", "2 on dovecot-backend-0"}) {
		t.Errorf("%d sessions, %v, %v", sessions, o.guests.kicked, err)
	}
	want := []director.Entry{{Subject: director.AboutKick, User: "ada", Actor: "ops", Note: "3 sessions ended: her password is known"}}
	if !reflect.DeepEqual(o.book.notes, want) {
		t.Errorf("%+v", o.book.notes)
	}

	if sessions, err := o.Kick(t.Context(), "nobody", "ops", ""); sessions != 0 || err != nil || len(o.book.notes) != 1 {
		t.Errorf("%d sessions, %v, %+v", sessions, err, o.book.notes)
	}
	// One backend that cannot be asked is told of, and saves nobody on the others.
	o.set("", 0, -1)
	sessions, err = o.Kick(t.Context(), "ada", "ops", "")
	if sessions != 1 || !errors.Is(err, director.ErrUnreachable) || !strings.Contains(err.Error(), backend(0).Name) || o.book.notes[1].Note != "1 sessions ended" {
		t.Errorf("%d sessions, %v, %+v", sessions, err, o.book.notes)
	}
	o.set("", 0, -2)
	o.book.unwritten = director.ErrUnavailable
	if sessions, err = o.Kick(t.Context(), "ada", "ops", ""); sessions != 3 || !errors.Is(err, director.ErrUnavailable) || !strings.Contains(err.Error(), "the sessions were ended") {
		t.Errorf("%d sessions, %v", sessions, err)
	}
	_, err = newOffice(t, backends(1), withoutDoveadm).Kick(t.Context(), "ada", "ops", "")
	refused(t, err, "no doveadm key is configured", false)
}

func TestTheJournalIsAskedByCanonicalName(t *testing.T) {
	o := newOffice(t, backends(1))
	for name, want := range map[string]string{"ADA": `5 of "ada" before 7`, "": `5 of "" before 7`} {
		if _, err := o.Journal(t.Context(), name, 7, 5); err != nil || o.book.asked != want {
			t.Errorf("%q: asked for %s, %v", name, o.book.asked, err)
		}
	}
	if _, err := o.Journal(t.Context(), "a\x00", 0, 5); !errors.As(err, new(*director.InvalidUserError)) {
		t.Error(err)
	}
}

func TestForgetReplica(t *testing.T) {
	o := newOffice(t, backends(1))
	o.book.silent = 10 * time.Second
	refused(t, o.ForgetReplica(t.Context(), "other", "ops"), "replica other is there: it was heard of 10s ago", false)
	if len(o.book.forgotten) > 0 {
		t.Errorf("forgotten: %v", o.book.forgotten)
	}
	o.book.silent = 11 * time.Second
	if err := o.ForgetReplica(t.Context(), "other", "ops"); err != nil {
		t.Error(err)
	}
	refused(t, o.ForgetReplica(t.Context(), "nobody", "ops"), `no replica "nobody" is known`, true)
}

// TestUserOf holds what operators see of a user, that it is what a lookup answers, and that looking changes nothing.
func TestUserOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, backends(3))
		o.Obey(director.Orders{Standings: []director.Standing{{Backend: backend(1).Name, State: director.Drain}}})
		o.store.put("ada", backend(1).Name)
		o.store.put("old", backend(1).Addr.String())
		o.store.put("cyd", backend(2).Name)
		o.set("ada", 1, 2)
		o.set("", 2, -1)
		o.book.pinned["ada"] = true
		o.book.moves = []director.Move{{User: "ada", From: backend(1).Name, To: backend(0).Name, Stage: director.MoveHolding, Left: 7 * time.Second, Unheard: []string{"other"}}}
		o.book.notes = []director.Entry{{ID: 3, User: "ada"}}
		time.Sleep(20 * time.Minute)
		o.again()
		of := func(name string) *director.UserReport {
			r, err := o.UserOf(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}

		r := of("Ada")
		if r.User != "ada" || !r.Pinned || r.Backend != backend(1).Name || r.SinceSeconds != 1200 || r.Condition != "alive, drain" || r.Proposal != backend(0).Name {
			t.Errorf("%+v", r)
		}
		if want := (director.NextAnswer{Verb: "serve", Reason: director.Mapped, Backend: backend(1).Name, Address: backend(1).Addr}); r.Next != want {
			t.Errorf("%+v", r.Next)
		}
		if len(r.Sessions) != 2 || r.Sessions[0].Backend != backend(1).Name || len(r.Unasked) != 1 || !strings.Contains(r.Unasked[backend(2).Name], "cannot be asked") {
			t.Errorf("%+v, %v", r.Sessions, r.Unasked)
		}
		if r.Move == nil || r.Move.LeftSeconds != 7 || !slices.Equal(r.Move.Waiting, []string{"other"}) || len(r.History) != 1 || o.book.asked != `10 of "ada" before 0` {
			t.Errorf("%+v, %+v, asked for %s", r.Move, r.History, o.book.asked)
		}
		if r = of("old"); r.Condition != "alive, drain, named by its address" || r.Move != nil {
			t.Errorf("%+v", r)
		}
		if r = of("new"); r.Backend != "" || r.Condition != "" || r.Next.Verb != "serve" || r.Next.Reason != director.Proposed || r.Next.Backend != backend(0).Name {
			t.Errorf("%+v", r)
		}
		if o.store.row("new") != "" || len(o.store.touched) > 0 {
			t.Errorf("looking at users has written %q, touched %v", o.store.row("new"), o.store.touched)
		}

		o.see(with(backends(3), 2, director.NotReady))
		if r = of("cyd"); r.Condition != "lost: failed, its users wait 30s more" || r.Next.Verb != "hold" || r.Next.Reason != director.InGrace || !strings.Contains(r.Next.Detail, "waiting up to 30s") {
			t.Errorf("%+v", r)
		}
		time.Sleep(graces.Failover)
		if r = of("cyd"); r.Condition != "lost: failed" {
			t.Errorf("%+v", r)
		}
		if _, err := o.UserOf(t.Context(), ""); !errors.As(err, new(*director.InvalidUserError)) {
			t.Error(err)
		}
	})
}

// TestStatus holds what operators see of everything.
func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, backends(3))
		if _, err := director.NewOperator(director.OperatorConfig{Director: newBench(t, newMemory()).Director}).Status(t.Context(), false); !errors.Is(err, director.ErrUnavailable) {
			t.Errorf("without a view: %v", err)
		}
		o.Obey(director.Orders{Standings: []director.Standing{{Backend: backend(0).Name, State: director.Active, Weight: 6, Actor: "ops", Note: "new disks"}}})
		for i := range 6 {
			o.store.put(fmt.Sprintf("u%d", i), backend(i%2).Name)
		}
		o.store.put("old", backend(0).Addr.String())
		o.store.put("lost", "dovecot-backend-9")
		o.set("ada", 0, 2)
		o.set("", 1, -1)
		same := o.Self()
		same.Name, same.Version, same.Silent = "other", "1.2", 3*time.Second
		o.book.replicas = []director.Replica{{Name: "living", Version: "1.3", Generation: 1, Fingerprint: "of a second ago", Silent: time.Second}, same, {Name: "late", Fingerprint: "another"}}
		o.work.tasks = []director.Task{{Kind: director.Evacuate, Backend: backend(1).Name, Rate: 6, Total: 9, Age: time.Minute}, {Kind: director.Rebalance, Rate: 10, Total: 9}}

		r, err := o.Status(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		if r.Users != 8 || r.Elsewhere != 1 || r.PolledSeconds != nil || r.Doubled == nil || len(r.Backends) != 3 {
			t.Fatalf("%+v", r)
		}
		first, second, third := r.Backends[0], r.Backends[1], r.Backends[2]
		if first.Users != 4 || first.Share != 0.5 || first.Fair != 0.75 || first.Weight != 6 || first.Actor != "ops" || first.Note != "new disks" || *first.Sessions != 2 || *first.LoggedIn != 1 {
			t.Errorf("%+v", first)
		}
		if second.Users != 3 || second.Fair != 0.125 || second.Sessions != nil || !strings.Contains(second.Unasked, "cannot be asked") || second.Condition != "alive" || second.State != director.Active {
			t.Errorf("%+v", second)
		}
		if third.Users != 0 || third.Share != 0 || third.Address != backend(2).Addr || *third.Sessions != 0 {
			t.Errorf("%+v", third)
		}
		for i, agrees := range []bool{true, true, false} {
			if r.Replicas[i].Agrees != agrees {
				t.Errorf("%+v", r.Replicas[i])
			}
		}
		if self := r.Replicas[0]; self.Generation != r.Generation || self.SilentSeconds != 0 || self.Version != "1.3" || self.Alive != 3 || r.Replicas[1].SilentSeconds != 3 {
			t.Errorf("%+v", r.Replicas)
		}
		// The evacuation has all that are there before it; the rebalance what the second has above an eighth of seven.
		if e, b := r.Tasks[0], r.Tasks[1]; e.Left != 3 || e.LeftSeconds != 30 || e.RunningSeconds != 60 || b.Left != 3 || b.LeftSeconds != 18 {
			t.Errorf("%+v", r.Tasks)
		}

		// Without sessions, the backends are not asked. One that is lost is waited for, one that is scaled away is leaving.
		asked := len(o.guests.asked[backend(0).Name])
		list := with(backends(3), 2, director.Terminating)
		o.Observe(director.Snapshot{Backends: list, CurrentAt: time.Now(), ListsTerminating: true, StatefulSets: []director.StatefulSet{{Name: "dovecot-backend", Replicas: 2, Termination: time.Minute}}})
		r, err = o.Status(t.Context(), false)
		if err != nil || len(o.guests.asked[backend(0).Name]) != asked || r.Backends[0].Sessions != nil || r.Replicas[1].Agrees {
			t.Errorf("%+v, %v", r, err)
		}
		if b := r.Backends[2]; !b.Leaving || r.Backends[1].Leaving || b.GraceSeconds != 60 || r.Backends[1].GraceSeconds != 0 || !strings.HasPrefix(b.Condition, "lost: removed, its users wait 1m0s more") {
			t.Errorf("%+v", b)
		}
		time.Sleep(time.Hour)
		if r, err = o.Status(t.Context(), false); err != nil || r.Backends[2].GraceSeconds != 0 || r.Backends[2].Condition != "lost: removed, its users wait until it has ended" {
			t.Errorf("%+v, %v", r.Backends[2], err)
		}
		o.store.setDown(true)
		if _, err := o.Status(t.Context(), false); !errors.Is(err, director.ErrUnavailable) {
			t.Error(err)
		}

		o = newOffice(t, backends(1), withoutDoveadm)
		if r, err = o.Status(t.Context(), true); err != nil || !strings.Contains(r.Backends[0].Unasked, "no doveadm key") || r.Backends[0].Share != 0 {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// TestStatusShowsThePoll holds what is shown of the census, and that it gives way to what is asked for now.
func TestStatusShowsThePoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poll(t)
		p.set("bob", 0, 2)
		p.set("bob", 2, 1)
		p.set("", 1, -1)
		p.next()
		o := director.NewOperator(director.OperatorConfig{Director: p.Director, Ledger: &orderBook{}, Tasks: &errand{}, Sessions: p.house, Census: p.Census})
		time.Sleep(10 * time.Second)
		r, err := o.Status(t.Context(), false)
		if err != nil || r.PolledSeconds == nil || *r.PolledSeconds != 11 {
			t.Fatalf("%+v, %v", r, err)
		}
		if want := []director.DoubledReport{{User: "bob", Backends: []string{backend(0).Name, backend(2).Name}, SinceSeconds: 11}}; !reflect.DeepEqual(r.Doubled, want) {
			t.Errorf("%+v", r.Doubled)
		}
		if b := r.Backends; *b[0].Sessions != 2 || *b[0].LoggedIn != 1 || b[1].Sessions != nil || b[1].Unasked == "" || *b[2].Sessions != 1 {
			t.Errorf("%+v", b)
		}
		p.set("", 1, -2)
		p.set("bob", 0, 5)
		if r, err = o.Status(t.Context(), true); err != nil || *r.Backends[0].Sessions != 5 || r.Backends[1].Unasked != "" || *r.Backends[1].Sessions != 0 {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// TestTaskOrdersThatAreRefused holds the bounds of what tasks may be ordered, and that nothing is ordered beyond.
func TestTaskOrdersThatAreRefused(t *testing.T) {
	o := newOffice(t, backends(2))
	for want, order := range map[string]director.TaskOrder{
		"rate -1 is out of bounds":   {Rate: -1},
		"rate 6001 is out of bounds": {Rate: 6001},
		"ended is over":              {By: -time.Second},
		"both a rate and a time":     {By: time.Hour, Rate: 1},
		"slack -0.1 is out":          {Slack: -0.1},
		"slack 10.1 is out":          {Slack: 10.1},
		"slack NaN is out":           {Slack: math.NaN()},
	} {
		_, err := o.Rebalance(t.Context(), order)
		refused(t, err, want, false)
		_, err = o.Evacuate(t.Context(), backend(0).Name, order)
		refused(t, err, want, false)
	}
	_, err := o.Plan(t.Context(), 11)
	refused(t, err, "slack 11 is out", false)
	refused(t, o.Cancel(t.Context(), director.Evacuate, "b-9", "ops", ""), `no task "evacuate b-9"`, true)

	alone := newOffice(t, backends(1))
	_, err = alone.Evacuate(t.Context(), backend(0).Name, director.TaskOrder{})
	refused(t, err, "there is no other backend that takes users", false)

	keyless := newOffice(t, backends(2), withoutDoveadm)
	_, err = keyless.Evacuate(t.Context(), backend(0).Name, director.TaskOrder{})
	refused(t, err, "no doveadm key is configured", false)
	_, err = keyless.Rebalance(t.Context(), director.TaskOrder{})
	refused(t, err, "no doveadm key is configured", false)
	for _, o := range []*office{o, alone, keyless} {
		if len(o.work.tasks)+len(o.work.stood) > 0 {
			t.Errorf("ordered: %+v, %+v", o.work.tasks, o.work.stood)
		}
	}
}

func TestRebalanceOrder(t *testing.T) {
	o := newOffice(t, backends(2))
	for i := range 10 {
		o.store.put(fmt.Sprintf("u%d", i), backend(0).Name)
	}
	o.store.put("old", backend(0).Addr.String())
	o.store.put("other", backend(1).Name)
	o.set("u0", 0, 1)

	plan, err := o.Plan(t.Context(), 0)
	if err != nil || plan.Moves != 5 || plan.Least != 5 || *plan.Idle != 5 || plan.PeakBefore != 11.0/6 || plan.PeakAfter != 1 {
		t.Errorf("%+v, %v", plan, err)
	}
	want := []director.PlannedShare{
		{Backend: backend(0).Name, Before: 11, After: 6, Fair: 6, To: map[string]int{backend(1).Name: 5}},
		{Backend: backend(1).Name, Before: 1, After: 6, Fair: 6},
	}
	if !reflect.DeepEqual(plan.Backends, want) {
		t.Errorf("%+v", plan.Backends)
	}
	if len(o.work.tasks) > 0 {
		t.Errorf("a plan has ordered %+v", o.work.tasks)
	}
	if plan, err = o.Plan(t.Context(), 0.5); err != nil || plan.Moves != 2 {
		t.Errorf("with slack: %+v, %v", plan, err)
	}

	r, err := o.Rebalance(t.Context(), director.TaskOrder{Actor: "ops", Note: "new disks"})
	if err != nil || r.Name != "rebalance" || r.Total != 5 || r.Left != 5 || r.Rate != director.DefaultRate || r.Actor != "ops" || r.Note != "new disks" {
		t.Errorf("%+v, %v", r, err)
	}
	// It can be paused, and keeps its total, although a backend does not answer by now.
	o.set("", 0, -1)
	if _, err := o.Plan(t.Context(), 0); !errors.Is(err, director.ErrUnreachable) {
		t.Error(err)
	}
	if _, err := o.Rebalance(t.Context(), director.TaskOrder{Rate: 7, Paused: true}); err != nil {
		t.Fatal(err)
	}
	if last := o.work.tasks[len(o.work.tasks)-1]; !last.Paused || last.Rate != 7 || last.Total != 5 {
		t.Errorf("%+v", last)
	}
	if err := o.Cancel(t.Context(), director.Rebalance, "", "ops", "enough"); err != nil || len(o.work.tasks) > 0 || o.work.why != "cancelled: enough" {
		t.Errorf("%v, %+v, %q", err, o.work.tasks, o.work.why)
	}

	keyless := newOffice(t, backends(2), withoutDoveadm)
	if plan, err = keyless.Plan(t.Context(), 0); err != nil || plan.Idle != nil || plan.Moves != 0 || plan.PeakBefore != 0 {
		t.Errorf("without doveadm: %+v, %v", plan, err)
	}
}
