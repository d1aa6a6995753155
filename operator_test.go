package director_test

import (
	"context"
	"errors"
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
}

func (o *orderBook) Standings(context.Context) ([]director.Standing, error) { return o.standings, nil }

func (o *orderBook) Stand(_ context.Context, s director.Standing) error {
	o.standings = append(o.standings, s)
	return nil
}

func (o *orderBook) Replicas(context.Context) ([]director.Replica, error) {
	return []director.Replica{{Name: "living"}, {Name: "other", Silent: o.silent}}, nil
}

func (o *orderBook) Begin(_ context.Context, m director.Move, _ time.Duration) (director.Move, error) {
	o.moves = append(o.moves, m)
	return m, nil
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
