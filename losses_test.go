package director_test

import (
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

func without(all []director.Backend, lost ...int) []director.Backend {
	var rest []director.Backend
next:
	for i, b := range all {
		for _, n := range lost {
			if i == n {
				continue next
			}
		}
		rest = append(rest, b)
	}
	return rest
}

// TestTracker follows one backend, dovecot-backend-1 of five, through a history.
func TestTracker(t *testing.T) {
	all := backends(5)
	snapshot := func(b []director.Backend) director.Snapshot { return director.Snapshot{Backends: b} }
	type want struct {
		alive bool
		cause director.Cause
		until int
		panic bool
	}
	for name, tc := range map[string]struct {
		steps map[int]director.Snapshot
		want  want
	}{
		"a backend that is not ready has failed": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(with(all, 1, director.NotReady))},
			want{cause: director.Failed, until: 130},
		},
		"a backend that vanished was deleted on purpose": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(without(all, 1))},
			want{cause: director.Planned, until: 220},
		},
		"a backend that terminates was deleted on purpose": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(with(all, 1, director.Terminating))},
			want{cause: director.Planned, until: 220},
		},
		"a planned restart stays planned while the new pod is starting": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(without(all, 1)), 110: snapshot(with(all, 1, director.NotReady))},
			want{cause: director.Planned, until: 220},
		},
		"a failed backend that is then deleted waits for its restart, counted from the first loss": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(with(all, 1, director.NotReady)), 120: snapshot(without(all, 1))},
			want{cause: director.Planned, until: 220},
		},
		"a wait that was over does not open again when the failed pod is deleted": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(with(all, 1, director.NotReady)), 140: snapshot(without(all, 1))},
			want{cause: director.Failed, until: 130},
		},
		"a second loss starts a new wait": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: snapshot(with(all, 1, director.NotReady)), 140: snapshot(all), 200: snapshot(with(all, 1, director.NotReady)),
			},
			want{cause: director.Failed, until: 230},
		},
		"a backend that came back is alive": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(without(all, 1)), 110: snapshot(all)},
			want{alive: true},
		},
		"an ordinal that the StatefulSet does not want is removed at once": {
			map[int]director.Snapshot{0: snapshot(all), 100: {Backends: without(all, 1, 2, 3, 4), Replicas: new(1)}},
			want{cause: director.Removed, until: 100},
		},
		"an ordinal that the StatefulSet wants waits for its restart": {
			map[int]director.Snapshot{0: snapshot(all), 100: {Backends: without(all, 1), Replicas: new(5)}},
			want{cause: director.Planned, until: 220},
		},
		"a scale-down that is known later ends the wait then": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(without(all, 1)), 110: {Backends: without(all, 1), Replicas: new(1)}},
			want{cause: director.Removed, until: 110},
		},
		"two of five at once is no panic": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(with(with(all, 1, director.NotReady), 2, director.NotReady))},
			want{cause: director.Failed, until: 130},
		},
		"three of five at once is a panic": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(with(with(with(all, 1, director.NotReady), 2, director.NotReady), 3, director.NotReady))},
			want{cause: director.Failed, until: 400, panic: true},
		},
		"three of five within one wait is a panic, for the first too": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: snapshot(with(all, 1, director.NotReady)), 110: snapshot(with(with(all, 1, director.NotReady), 2, director.NotReady)),
				120: snapshot(with(with(with(all, 1, director.NotReady), 2, director.NotReady), 3, director.NotReady)),
			},
			want{cause: director.Failed, until: 400, panic: true},
		},
		"three of five one after the other is no panic": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: snapshot(with(all, 2, director.NotReady)), 150: snapshot(with(with(all, 2, director.NotReady), 3, director.NotReady)),
				200: snapshot(with(with(with(all, 1, director.NotReady), 2, director.NotReady), 3, director.NotReady)),
			},
			want{cause: director.Failed, until: 230},
		},
		"a panic ends when the others are back": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: snapshot(with(with(with(all, 1, director.NotReady), 2, director.NotReady), 3, director.NotReady)),
				150: snapshot(with(all, 1, director.NotReady)),
			},
			want{cause: director.Failed, until: 130},
		},
		"a scale-down of most is no panic for a restart at the same time": {
			map[int]director.Snapshot{0: snapshot(all), 100: {Backends: backends(1), Replicas: new(2)}},
			want{cause: director.Planned, until: 220},
		},
		"all lost for long: the clocks start again with the first that returns": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(nil), 900: snapshot(backends(1))},
			want{cause: director.Planned, until: 1200, panic: true},
		},
		"not ready in the first snapshot is lost from then on": {
			map[int]director.Snapshot{0: snapshot(with(all, 1, director.NotReady))},
			want{cause: director.Failed, until: 30},
		},
		"first seen later and not ready is just starting": {
			map[int]director.Snapshot{0: snapshot(without(all, 1)), 100: snapshot(with(all, 1, director.NotReady))},
			want{cause: director.Unseen, until: 120},
		},
		"many that are just starting make no panic": {
			map[int]director.Snapshot{
				0: snapshot(backends(2)), 100: snapshot([]director.Backend{all[0], all[1], with(all, 2, director.NotReady)[2], with(all, 3, director.NotReady)[3], with(all, 4, director.NotReady)[4]}),
				110: snapshot(with(with(with(with(all, 1, director.NotReady), 2, director.NotReady), 3, director.NotReady), 4, director.NotReady)),
			},
			want{cause: director.Failed, until: 140},
		},
	} {
		t.Run(name, func(t *testing.T) {
			view := observe(tc.steps)
			_, _, alive := view.Backend("dovecot-backend-1")
			if alive != tc.want.alive {
				t.Fatalf("alive: %v", alive)
			}
			if alive {
				return
			}
			l := view.Loss("dovecot-backend-1")
			if got := (want{cause: l.Cause, until: int(l.Until.Sub(t0) / time.Second), panic: l.Panic}); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestViewKeepsTheGenerationWhenNothingChanged(t *testing.T) {
	tracker := director.NewTracker(graces)
	first := tracker.Observe(at(0), director.Snapshot{Backends: backends(3), CurrentAt: at(0)})
	reversed := []director.Backend{backend(2), backend(0), backend(1)}
	second := tracker.Observe(at(60), director.Snapshot{Backends: reversed, CurrentAt: at(60)})
	if second.Generation != first.Generation || !second.CurrentAt.Equal(at(60)) {
		t.Errorf("generation %d -> %d, current at %s", first.Generation, second.Generation, second.CurrentAt)
	}
	if older := tracker.Observe(at(61), director.Snapshot{Backends: reversed, CurrentAt: at(30)}); !older.CurrentAt.Equal(at(60)) {
		t.Errorf("an older proof took the place of a newer one: %s", older.CurrentAt)
	}
	if third := tracker.Observe(at(62), director.Snapshot{Backends: backends(2), CurrentAt: at(62)}); third.Generation != first.Generation+1 {
		t.Errorf("generation %d after a change, was %d", third.Generation, first.Generation)
	}
}

func TestAnotherInstanceOfTheSameNameWasAway(t *testing.T) {
	tracker := director.NewTracker(graces)
	tracker.Observe(at(0), director.Snapshot{Backends: backends(1)})
	same := tracker.Observe(at(10), director.Snapshot{Backends: backends(1)})
	if _, since, _ := same.Backend("dovecot-backend-0"); !since.Equal(at(0)) {
		t.Errorf("alive since %s, want the first snapshot", since)
	}
	other := backend(0)
	other.Instance = "uid-of-another-pod"
	restarted := tracker.Observe(at(20), director.Snapshot{Backends: []director.Backend{other}})
	if _, since, _ := restarted.Backend("dovecot-backend-0"); !since.Equal(at(20)) {
		t.Errorf("alive since %s, want the snapshot that shows another instance", since)
	}
}

func TestFinalLossesAreForgottenAfterADay(t *testing.T) {
	tracker := director.NewTracker(graces)
	tracker.Observe(at(0), director.Snapshot{Backends: backends(3)})
	lost := director.Snapshot{Backends: backends(2)}
	tracker.Observe(at(10), lost)
	if n := len(tracker.Observe(at(10).Add(24*time.Hour), lost).Losses()); n != 1 {
		t.Errorf("%d losses remembered within a day, want 1", n)
	}
	if n := len(tracker.Observe(at(200).Add(24*time.Hour), lost).Losses()); n != 0 {
		t.Errorf("%d losses remembered after a day, want 0", n)
	}
}

func TestAVanishedBackendWaitsForItsRestartEvenIfFailedOnesDoNotWait(t *testing.T) {
	tracker := director.NewTracker(director.Graces{Restart: time.Minute})
	tracker.Observe(at(0), director.Snapshot{Backends: backends(3)})
	view := tracker.Observe(at(10), director.Snapshot{Backends: backends(2)})
	if l := view.Loss("dovecot-backend-2"); l.Cause != director.Planned || !l.Until.Equal(at(70)) {
		t.Errorf("got %s until %s", l.Cause, l.Until)
	}
}
