package director_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// scaled is a StatefulSet of that many pods, of which each may take 20 s to end.
func scaled(replicas int) []director.StatefulSet {
	return []director.StatefulSet{{Name: "dovecot-backend", Replicas: replicas, Termination: 20 * time.Second}}
}

// slow is a StatefulSet whose pods take 300 s to end.
func slow(replicas int) []director.StatefulSet {
	sets := scaled(replicas)
	sets[0].Termination = 300 * time.Second
	return sets
}

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
		alive   bool
		cause   director.Cause
		until   int
		panic   bool
		serving bool
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
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(with(all, 1, director.Stopping))},
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
		"an ordinal that the StatefulSet does not want is removed; its pod may take 20s to end unseen": {
			map[int]director.Snapshot{0: snapshot(all), 100: {Backends: without(all, 1, 2, 3, 4), StatefulSets: scaled(1)}},
			want{cause: director.Removed, until: 120},
		},
		"a removed backend is waited for while it terminates and serves": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: {Backends: with(all, 1, director.Terminating), StatefulSets: scaled(1)},
				900: {Backends: with(all, 1, director.Terminating), StatefulSets: scaled(1)},
			},
			want{cause: director.Removed, until: 120, serving: true},
		},
		"a removed backend that was seen terminating is waited for until it is gone": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: {Backends: with(all, 1, director.Terminating), StatefulSets: scaled(1), ListsTerminating: true},
				105: {Backends: without(all, 1), StatefulSets: scaled(1), ListsTerminating: true}, 200: {Backends: without(all, 1), StatefulSets: scaled(1)},
			},
			want{cause: director.Removed, until: 105},
		},
		"but not by a source that does not list what terminates": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: {Backends: with(all, 1, director.Terminating), StatefulSets: scaled(1), ListsTerminating: true},
				105: {Backends: without(all, 1), StatefulSets: scaled(1)}, 124: {Backends: with(all, 1, director.Terminating), StatefulSets: scaled(1), ListsTerminating: true},
			},
			want{cause: director.Removed, until: 120, serving: true},
		},
		"a removed backend whose end was not seen has not ended by then, with any source": {
			map[int]director.Snapshot{0: snapshot(all), 100: {Backends: without(all, 1), StatefulSets: scaled(1), ListsTerminating: true}},
			want{cause: director.Removed, until: 120},
		},
		"no wait goes on while the source is out of touch": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(without(all, 1)), 400: {Backends: without(all, 1), Blind: 290 * time.Second}},
			want{cause: director.Planned, until: 510},
		},
		"a wait that was over before stays so": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(without(all, 1)), 400: {Backends: without(all, 1), Blind: 100 * time.Second}},
			want{cause: director.Planned, until: 220},
		},
		"what was lost meanwhile has its whole wait before it": {
			map[int]director.Snapshot{0: snapshot(all), 400: {Backends: without(all, 1), Blind: 300 * time.Second}, 410: {Backends: without(all, 1), Blind: 300 * time.Second}},
			want{cause: director.Planned, until: 520},
		},
		"a removed backend that stops is waited for as long as its pod may take to end": {
			map[int]director.Snapshot{0: snapshot(all), 100: {Backends: with(all, 1, director.Stopping), StatefulSets: scaled(1)}},
			want{cause: director.Removed, until: 120},
		},
		"a failed backend that is scaled away and vanishes may take 20s to end from then on": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: snapshot(with(all, 1, director.NotReady)), 115: {Backends: without(all, 1), StatefulSets: scaled(1)},
			},
			want{cause: director.Removed, until: 135},
		},
		"a removed backend that is wanted again will come back": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: {Backends: without(all, 1), StatefulSets: scaled(1)}, 200: {Backends: without(all, 1), StatefulSets: scaled(5)},
			},
			want{cause: director.Planned, until: 320},
		},
		"a removed backend stays removed when the StatefulSet cannot be read any more": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: {Backends: with(all, 1, director.Stopping), StatefulSets: scaled(1)},
				110: snapshot(without(all, 1)), 200: snapshot(without(all, 1)),
			},
			want{cause: director.Removed, until: 130},
		},
		"scaled to nothing and back: everybody waits for their own": {
			map[int]director.Snapshot{
				0: {Backends: all, StatefulSets: scaled(5)}, 100: {StatefulSets: scaled(0)}, 500: {StatefulSets: scaled(5)},
				510: {Backends: backends(1), StatefulSets: scaled(5)},
			},
			want{cause: director.Planned, until: 810, panic: true},
		},
		"another StatefulSet's number is not ours": {
			map[int]director.Snapshot{0: snapshot(all), 100: {Backends: without(all, 1), StatefulSets: []director.StatefulSet{{Name: "dovecot", Replicas: 0}}}},
			want{cause: director.Planned, until: 220},
		},
		"ordinals may start elsewhere": {
			map[int]director.Snapshot{0: snapshot(all), 100: {Backends: without(all, 1), StatefulSets: []director.StatefulSet{{Name: "dovecot-backend", Start: 2, Replicas: 3}}}},
			want{cause: director.Removed, until: 100},
		},
		"a planned restart is waited for while the old pod serves": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(with(all, 1, director.Terminating)), 900: snapshot(with(all, 1, director.Terminating))},
			want{cause: director.Planned, until: 220, serving: true},
		},
		"and for its restart once it does not": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: snapshot(with(all, 1, director.Terminating)), 300: snapshot(with(all, 1, director.Stopping)), 305: snapshot(without(all, 1)),
			},
			want{cause: director.Planned, until: 425},
		},
		"an ordinal that the StatefulSet wants waits for its restart": {
			map[int]director.Snapshot{0: snapshot(all), 100: {Backends: without(all, 1), StatefulSets: scaled(5)}},
			want{cause: director.Planned, until: 220},
		},
		"a scale-down that is known later ends the wait then": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(without(all, 1)), 110: {Backends: without(all, 1), StatefulSets: scaled(1)}},
			want{cause: director.Removed, until: 120},
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
		"a panic ends when the others are back, and those that are not are waited for from then on": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: snapshot(with(with(with(all, 1, director.NotReady), 2, director.NotReady), 3, director.NotReady)),
				150: snapshot(with(all, 1, director.NotReady)), 151: snapshot(with(all, 1, director.NotReady)),
			},
			want{cause: director.Failed, until: 180},
		},
		"but not for longer than in panic": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: snapshot(with(with(with(all, 1, director.NotReady), 2, director.NotReady), 3, director.NotReady)),
				390: snapshot(with(all, 1, director.NotReady)),
			},
			want{cause: director.Failed, until: 400},
		},
		"one that fails was not told to end, whatever its StatefulSet wants": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: {Backends: with(all, 1, director.NotReady), StatefulSets: scaled(5)}, 105: {Backends: with(all, 1, director.NotReady), StatefulSets: scaled(1)},
			},
			want{cause: director.Failed, until: 130},
		},
		"and is waited for from when it is": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: {Backends: with(all, 1, director.NotReady), StatefulSets: scaled(1)}, 125: {Backends: with(all, 1, director.Stopping), StatefulSets: scaled(1)},
			},
			want{cause: director.Removed, until: 145},
		},
		"one that was given up and serves while it terminates is not": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(with(all, 1, director.NotReady)), 200: snapshot(with(all, 1, director.Terminating))},
			want{cause: director.Failed, until: 130, serving: true},
		},
		"but for as long as it does only": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: snapshot(with(all, 1, director.NotReady)), 200: snapshot(with(all, 1, director.Terminating)), 210: snapshot(without(all, 1)),
			},
			want{cause: director.Failed, until: 130},
		},
		"a pod that may terminate for longer than the grace is waited for until then": {
			map[int]director.Snapshot{0: snapshot(all), 100: {Backends: without(all, 1), StatefulSets: slow(5)}},
			want{cause: director.Planned, until: 400},
		},
		"but not when it was seen to have ended": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: {Backends: with(all, 1, director.Terminating), StatefulSets: slow(5), ListsTerminating: true},
				110: {Backends: without(all, 1), StatefulSets: slow(5), ListsTerminating: true},
			},
			want{cause: director.Planned, until: 230},
		},
		"a panic that ended counts no time without contact either": {
			map[int]director.Snapshot{
				0: snapshot(all), 100: snapshot(with(with(with(all, 1, director.NotReady), 2, director.NotReady), 3, director.NotReady)),
				150: snapshot(with(all, 1, director.NotReady)), 170: {Backends: with(all, 1, director.NotReady), Blind: 20 * time.Second},
			},
			want{cause: director.Failed, until: 200},
		},
		"a scale-down that is known later ends a panic": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(backends(1)), 110: {Backends: backends(1), StatefulSets: scaled(1)}},
			want{cause: director.Removed, until: 120},
		},
		"a removed backend ends without the source": {
			map[int]director.Snapshot{0: snapshot(all), 100: {Backends: without(all, 1), StatefulSets: scaled(1)}, 115: {Backends: without(all, 1), StatefulSets: scaled(1), Blind: 10 * time.Second}},
			want{cause: director.Removed, until: 120},
		},
		"a pod that fails was not told to end": {
			map[int]director.Snapshot{0: snapshot(all), 100: {Backends: with(all, 1, director.NotReady), StatefulSets: slow(5)}},
			want{cause: director.Failed, until: 130},
		},
		"what has stopped serving when it is first seen was lost before": {
			map[int]director.Snapshot{0: snapshot(without(all, 1)), 100: snapshot(with(all, 1, director.Stopping))},
			want{cause: director.Unseen, until: 120},
		},
		"what terminates when it is first seen may still serve": {
			map[int]director.Snapshot{0: snapshot(without(all, 1)), 100: snapshot(with(all, 1, director.Terminating)), 900: snapshot(with(all, 1, director.Terminating))},
			want{cause: director.Planned, until: 220, serving: true},
		},
		"a scale-down of most is no panic for a restart at the same time": {
			map[int]director.Snapshot{0: snapshot(all), 100: {Backends: backends(1), StatefulSets: scaled(2)}},
			want{cause: director.Planned, until: 220},
		},
		"all lost for long: the clocks start again with the first that returns": {
			map[int]director.Snapshot{0: snapshot(all), 100: snapshot(nil), 900: snapshot(backends(1))},
			want{cause: director.Planned, until: 1200, panic: true},
		},
		"not ready in the first snapshot is lost from then on": {
			map[int]director.Snapshot{0: snapshot(with(all, 1, director.NotReady))},
			want{cause: director.Failed, until: 120},
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
			if l.Serving && l.Final(at(100000)) {
				t.Error("final while it serves")
			}
			if got := (want{cause: l.Cause, until: int(l.Until.Sub(t0) / time.Second), panic: l.Panic, serving: l.Serving}); got != tc.want {
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
	another := director.NewTracker(graces)
	first = another.Observe(at(0), director.Snapshot{Backends: backends(3)})
	if longer := another.Observe(at(1), director.Snapshot{Backends: backends(3), Blind: time.Second}); longer.Generation != first.Generation+1 {
		t.Errorf("generation %d after the wait for unseen backends was made longer, was %d", longer.Generation, first.Generation)
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

func TestBackendsThatAreAboutToGoTakeNobody(t *testing.T) {
	all := backends(5)
	all[0].Weight = 0
	for replicas, want := range map[int]string{5: "1 2 3 4", 3: "1 2", 1: "1 2 3 4", 0: "1 2 3 4"} {
		view := observe(map[int]director.Snapshot{0: {Backends: all, StatefulSets: scaled(replicas)}})
		var names []string
		for _, m := range view.Members() {
			names = append(names, strings.TrimPrefix(m.Name, "dovecot-backend-"))
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("with %d wanted: %q take users, want %q", replicas, got, want)
		}
	}
}

func TestNewUsersWaitForTheBackendsOfAStart(t *testing.T) {
	all := backends(5)
	for name, tc := range map[string]struct {
		steps map[int]director.Snapshot
		until int // 0 for not at all
	}{
		"all are there":          {map[int]director.Snapshot{0: {Backends: all}}, 0},
		"some are not ready yet": {map[int]director.Snapshot{0: {Backends: with(all, 3, director.NotReady)}}, 30},
		"some are not listed yet, and nobody says that they will be": {map[int]director.Snapshot{0: {Backends: backends(2)}}, 0},
		"some are not listed yet, and their StatefulSet wants them":  {map[int]director.Snapshot{0: {Backends: backends(2), StatefulSets: scaled(5)}}, 30},
		"as many as the StatefulSet wants":                           {map[int]director.Snapshot{0: {Backends: backends(2), StatefulSets: scaled(2)}}, 0},
		"they came":                                                  {map[int]director.Snapshot{0: {Backends: backends(2), StatefulSets: scaled(5)}, 10: {Backends: all, StatefulSets: scaled(5)}}, 0},
		"one that is not wanted is not awaited":                      {map[int]director.Snapshot{0: {Backends: with(all, 4, director.NotReady), StatefulSets: scaled(4)}}, 0},
		"one of a scale-down is not awaited": {map[int]director.Snapshot{
			0: {Backends: all, StatefulSets: scaled(5)}, 10: {Backends: without(all, 4), StatefulSets: scaled(4)},
		}, 0},
		"one that was there is not awaited":       {map[int]director.Snapshot{0: {Backends: all, StatefulSets: scaled(5)}, 10: {Backends: without(all, 3), StatefulSets: scaled(5)}}, 0},
		"long after the start nobody waits":       {map[int]director.Snapshot{0: {Backends: all}, 30: {Backends: with(all, 3, director.NotReady)}}, 0},
		"all were lost, and come back one by one": {map[int]director.Snapshot{0: {Backends: all}, 100: {}, 200: {Backends: backends(2)}}, 230},
	} {
		t.Run(name, func(t *testing.T) {
			view := observe(tc.steps)
			for _, second := range []int{0, 10, 29, 30, 100, 229, 230} {
				d := director.Policy{}.Decide(director.Facts{Now: at(second), View: view, Ring: fixedRing(view.Members()), Row: director.RowAbsent})
				if waits := d.Reason == director.ViewPartial; waits != (second < tc.until) {
					t.Errorf("%d s after the start: %s, %s", second, d.Verb, d.Reason)
				}
			}
		})
	}
}

func TestUsersOfUnseenBackendsDoNotWaitWhileTheSourceIsOutOfTouch(t *testing.T) {
	for blind, want := range map[int]int{0: 120, 60: 180} {
		view := observe(map[int]director.Snapshot{0: {Backends: backends(2)}, 100: {Backends: backends(2), Blind: time.Duration(blind) * time.Second}})
		if got := int(view.Loss("dovecot-backend-9").Until.Sub(t0) / time.Second); got != want {
			t.Errorf("out of touch for %d s: they wait until %d, want %d", blind, got, want)
		}
	}
}

// TestTheGenerationGrowsWithTheContent holds that it does so with each change of a loss that can be seen, and with no other snapshot.
func TestTheGenerationGrowsWithTheContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newMemory())
		sets := []director.StatefulSet{{Name: "dovecot-backend", Replicas: 4, Termination: time.Minute}}
		var blind time.Duration
		observe := func(all []director.Backend) {
			b.Observe(director.Snapshot{Backends: all, StatefulSets: sets, ListsTerminating: true, CurrentAt: time.Now(), Blind: blind})
		}
		observe(backends(4))
		failed := with(backends(4), 3, director.NotReady)
		for _, step := range []struct {
			what  string
			all   []director.Backend
			blind time.Duration
			grows bool
		}{
			{"nothing", backends(4), 0, false},
			{"a failure", failed, 0, true},
			{"nothing", failed, 0, false},
			{"time without contact", failed, time.Second, true},
			{"it stops", with(backends(4), 3, director.Stopping), time.Second, true},
			{"nothing", with(backends(4), 3, director.Stopping), time.Second, false},
			{"another serves to its end", with(with(backends(4), 3, director.Stopping), 2, director.Terminating), time.Second, true},
			{"nothing", with(with(backends(4), 3, director.Stopping), 2, director.Terminating), time.Second, false},
			{"it serves no more", with(with(backends(4), 3, director.Stopping), 2, director.Stopping), time.Second, true},
			{"a panic", with(with(with(backends(4), 3, director.Stopping), 2, director.Stopping), 1, director.NotReady), time.Second, true},
			{"nothing", with(with(with(backends(4), 3, director.Stopping), 2, director.Stopping), 1, director.NotReady), time.Second, false},
		} {
			time.Sleep(time.Second)
			before := b.View().Generation
			blind = step.blind
			observe(step.all)
			if grown := b.View().Generation - before; grown > 1 || (grown == 1) != step.grows {
				t.Errorf("%s: the generation grew by %d", step.what, grown)
			}
		}
	})
}
