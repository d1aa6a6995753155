package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"pgregory.net/rapid"
)

// knobs are some of serve's settings.
type knobs struct{ settings Settings }

func newKnobs() *knobs {
	format, err := director.ParseTemplate("%Lu")
	if err != nil {
		panic(err)
	}
	return &knobs{settings: Settings{
		Users: director.UserFormat{Name: format, Hash: format}, Graces: director.Graces{Restart: 2 * time.Minute, Failover: 30 * time.Second, Panic: 5 * time.Minute},
		TouchInterval: 10 * time.Minute, Remember: 1000,
	}}
}

func (k *knobs) Set(name, value string) error {
	d, err := time.ParseDuration(value)
	target := map[string]*time.Duration{"restart-grace": &k.settings.Graces.Restart, "failover-grace": &k.settings.Graces.Failover, "panic-grace": &k.settings.Graces.Panic}[name]
	if target == nil {
		return fmt.Errorf("no such setting -%.60q", name)
	}
	*target = d
	return err
}

func (k *knobs) Settings() Settings { return k.settings }

// noFile is for scenarios without a file of users.
func noFile(name string, _ func(user, backend string) error) error {
	return errors.New("there is no file " + name)
}

func load(t interface{ Fatal(...any) }, text string) *Scenario {
	s, err := Load("test.yaml", []byte(text), newKnobs(), noFile)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func play(t *testing.T, text, strategy string) *Result {
	t.Helper()
	r, err := Run(t.Context(), load(t, text), Options{Strategy: strategy})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestWhatHappens plays each thing that can happen, in scenarios that say themselves what should come of it.
func TestWhatHappens(t *testing.T) {
	const site = `
duration: 1h
backends: {count: 5, start: 40s, stop: 3s}
users: {count: 5000, connected: 100%, devices: 1}
logins: {gaps: [30m], curve: flat}
expect: {split_users: 0, unavailable_per_user: < 700}
timeline: `
	for name, timeline := range map[string]string{
		"nothing":          `[{at: 1m, phase: p, expect: {moves: 0, refused: 0, waited_users: 0, unavailable_per_user: 0, logins: "> 5000", users: 5000, users_peak: < 1.1}}]`,
		"scale up":         `[{at: 1m, phase: p, scale: {to: 7}, expect: {moves: 0, waited_users: 0, users_peak: "> 1.35"}}]`,
		"scale down":       `[{at: 1m, phase: p, scale: {to: 3}, expect: {moves_vs_least: 1, least_moves: "> 1900", moves_per_user: < 0.45, wait_max: <= 20, users_peak: < 1.1}}]`,
		"there and back":   `[{at: 1m, phase: p, scale: {to: 3}}, {at: 61s, scale: {to: 5}, expect: {}}, {at: 30m, phase: q, expect: {moves: 0, waited_users: 0}}]`,
		"crash":            `[{at: 1m, phase: p, crash: {backends: 1, down: 20s}, expect: {moves: 0, least_moves: 0, waited_users: "> 900", wait_max: <= 36, wait_mean: "> 15"}}]`,
		"crash for good":   `[{at: 1m, phase: p, crash: {backends: [1], down: forever}, expect: {moves_vs_least: 1, least_moves: "> 900", wait_max: <= 46, users_peak: < 1.27}}]`,
		"crash of anybody": `[{at: 1m, every: 5m, crash: {backends: random, down: 10s}}, {at: 2m, phase: p, expect: {moves: 0, waited_users: "> 2500"}}]`,
		"restart":          `[{at: 1m, phase: p, restart: {backends: dovecot-backend-2}, expect: {moves: 0, waited_users: "> 900", wait_max: <= 58}}]`,
		"slow restart":     `[{at: 1m, phase: p, restart: {backends: 2, stop: 1s, down: 5m}, expect: {moves: "> 900", least_moves: 0, wait_max: <= 137}}]`,
		"rolling restart":  `[{at: 1m, phase: p, rolling_restart: {}, expect: {moves: 0, waited_users: "> 4900", wait_max: <= 58}}]`,
		"not ready":        `[{at: 1m, phase: p, not_ready: {backends: 0, for: 10s}, expect: {moves: 0, waited_users: "> 0", refused: < 60}}]`,
		"long not ready":   `[{at: 1m, phase: p, not_ready: {backends: 0, for: 5m}, expect: {moves: "> 50", moves_per_user: < 0.05, least_moves: 0}}]`,
		"drain":            `[{at: 1m, phase: p, drain: {backends: [0, 1]}, expect: {moves: 0, waited_users: 0}}]`,
		"weight":           `[{at: 1m, phase: p, weight: {backends: 0, to: 3}, expect: {moves: 0, waited_users: 0, users_peak: "> 1.3"}}]`,
		"database outage":  `[{at: 1m, phase: p, database_outage: {for: 10m}, expect: {moves: 0, waited_users: "> 100", refused: "< 100_000", wait_max: <= 616}}]`,
		"API outage":       `[{at: 1m, phase: p, api_outage: {for: 10m}, expect: {moves: 0, wait_max: < 480}}, {at: 2m, restart: {backends: 1, down: 20s}}, {at: 10m, phase: q, expect: {moves: 0}}]`,
		"directors":        `[{at: 1m, phase: p, director_restart: {}, expect: {moves: 0, waited_users: 0}}, {at: 2m, phase: q, director_restart: {down: 10s}, expect: {moves: 0, waited_users: "> 0"}}, {at: 3m, phase: r, director_restart: {replicas: 1, down: 10m}, expect: {moves: 0, waited_users: 0}}]`,
		"rebalance":        `[{at: 1m, scale: {to: 10}}, {at: 10m, phase: p, rebalance: {slack: 10%, rate: 10/s}, expect: {users_peak: <= 1.1, moves: "> 2000", moves_per_user: < 0.46, kicked_users: "> 2000", waited_users: 0}}]`,
	} {
		t.Run(name, func(t *testing.T) {
			r := play(t, site+timeline, Ours)
			for _, failed := range r.Failed {
				t.Error(failed)
			}
			if r.Total().Logins+r.Total().Refused == 0 {
				t.Error("nobody came")
			}
		})
	}
}

// TestNewUsersGoByWeight holds that who drains gets nobody, and who weighs more gets more.
func TestNewUsersGoByWeight(t *testing.T) {
	for _, strategy := range []string{Ours, RingOnly, Rendezvous, Dovecot23} {
		r := play(t, `
duration: 2h
backends: {count: 4, weights: {1: 3}}
users: {count: 20_000, at_start: 4, growth: linear, connected: 100%, devices: 1}
logins: {gaps: [30d]}
timeline: [{at: 0s, drain: {backends: 0}}, {at: 1h, phase: second, weight: {backends: [2, 3], to: 4}}]`, strategy)
		half, end := r.Samples[len(r.Samples)/2].Users, r.Samples[len(r.Samples)-1].Users
		for i, want := range [][2]float64{{0, 0}, {0.6, 3.0 / 11}, {0.2, 4.0 / 11}, {0.2, 4.0 / 11}} {
			first, second := float64(half[i])/10_000, float64(end[i]-half[i])/10_000
			if math.Abs(first-want[0]) > 0.07 || math.Abs(second-want[1]) > 0.07 || i == 0 && first+second > 0.001 {
				t.Errorf("%s: backend %d gets %.3f and then %.3f of the new users, want %.3f", strategy, i, first, second, want)
			}
		}
	}
}

// TestPeers compares the peers with what theory says of a rolling restart of ten in which nobody waits: who is spread at random moves
// 0.9((10/9)^10-1) = 1.68 times, rings keep a part, and 1.1 is the least.
func TestPeers(t *testing.T) {
	const roll = `
duration: 25m
backends: {count: 10, start: 40s, stop: 0s}
users: {count: 20_000, connected: 100%, devices: 1}
settings: {restart-grace: 0s, failover-grace: 0s, panic-grace: 0s}
timeline: [{at: 1m, rolling_restart: {pause: 10s}}]`
	uniform := 0.9 * (math.Pow(10.0/9, 10) - 1)
	for strategy, want := range map[string][2]float64{
		RandomByIP: {uniform - 0.02, uniform + 0.02}, RingOnly: {1.4, 1.6}, Rendezvous: {1.4, 1.6}, Dovecot23: {1.4, 1.6}, Modulo: {1.4, 1.7}, Ours: {1.08, 1.12},
	} {
		total := play(t, roll, strategy).Total()
		if got := total.perUser(float64(total.Moves)); got < want[0] || got > want[1] || total.SplitUsers > 0 {
			t.Errorf("%s: %.3f moves for each user, %d split; want %v", strategy, got, total.SplitUsers, want)
		}
	}
	// A new backend takes its share from stateless strategies, while sessions are open on the old one.
	const grow = `
duration: 6h
backends: {count: 4}
users: {count: 20_000, connected: 100%, devices: 2}
logins: {gaps: [1h], reconnect: 1h}
timeline: [{at: 1h, phase: p, scale: {to: 5}}]`
	for strategy, moves := range map[string][2]float64{
		Modulo: {0.75, 0.8}, RingOnly: {0.17, 0.22}, Rendezvous: {0.17, 0.22}, RandomByIP: {0, 0}, Dovecot23: {0, 0}, Ours: {0, 0},
	} {
		total := play(t, grow, strategy).Total()
		got := total.perUser(float64(total.Moves))
		if stateless := strategy == Modulo || strategy == RingOnly || strategy == Rendezvous; got < moves[0] || got > moves[1] || (total.SplitUsers > 0) != stateless {
			t.Errorf("%s: %.3f moves for each user, %d split; want %v", strategy, got, total.SplitUsers, moves)
		}
	}
}

// TestTheSameAgain holds that equal scenarios give equal bytes, whatever else the machine does, and other seeds others.
func TestTheSameAgain(t *testing.T) {
	scenario := func(seed int) string {
		return fmt.Sprintf(`
seed: %d
duration: 12h
backends: {count: 6}
users: {count: 3000}
directors: {replicas: 3, even_above: 1.02}
timeline:
- {at: 1h, every: 47m, crash: {backends: random, down: 5s..3m}}
- {at: 2h, rolling_restart: {down: 10s..4m}}
- {at: 4h, phase: p, database_outage: {for: 2m..9m}}
- {at: 5h, scale: {to: 8}}
- {at: 6h, director_restart: {}}
- {at: 7h, rebalance: {slack: 2%%, rate: 1/s, of: sessions}}`, seed)
	}
	for _, strategy := range Strategies() {
		var first []byte
		for try, seed := range []int{1, 1, 2} {
			procs := runtime.GOMAXPROCS(1 + try)
			var out bytes.Buffer
			if err := WriteJSON(&out, []*Result{play(t, scenario(seed), strategy)}); err != nil {
				t.Fatal(err)
			}
			runtime.GOMAXPROCS(procs)
			switch {
			case try == 0:
				first = out.Bytes()
			case bytes.Equal(first, out.Bytes()) != (seed == 1):
				t.Errorf("%s: seeds 1 and %d, equal results: %t", strategy, seed, seed != 1)
			}
		}
	}
}

// drawScenario draws a small site and what happens to it.
func drawScenario(t *rapid.T) string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed: %d\nduration: 3h\nbackends: {count: %d, start: 1s..90s, stop: 0s..20s}\n", rapid.IntRange(1, 1000).Draw(t, "seed"), rapid.IntRange(1, 6).Draw(t, "backends"))
	fmt.Fprintf(&b, "users: {count: 300, at_start: %d, mapped: %t, connected: 60%%}\n", rapid.IntRange(0, 300).Draw(t, "at start"), rapid.Bool().Draw(t, "mapped"))
	fmt.Fprintf(&b, "logins: {per_day: 50, gaps: [20m, 1h, 2h], reconnect: 1h}\n")
	fmt.Fprintf(&b, "directors: {replicas: %d, lag: 0s..3s, even_above: %s}\n", rapid.IntRange(1, 3).Draw(t, "replicas"), rapid.SampledFrom([]string{"1", "1.1", "10"}).Draw(t, "even above"))
	fmt.Fprintf(&b, "settings: {restart-grace: %s, failover-grace: %s}\ntimeline:\n", rapid.SampledFrom([]string{"0s", "40s", "2m"}).Draw(t, "restart"), rapid.SampledFrom([]string{"0s", "30s"}).Draw(t, "failover"))
	for i := range rapid.IntRange(1, 8).Draw(t, "events") {
		fmt.Fprintf(&b, "- {at: %dm, phase: p%d, %s}\n", rapid.IntRange(1, 170).Draw(t, "at"), i, rapid.SampledFrom([]string{
			"scale: {to: 1}", "scale: {to: 4}", "scale: {to: 7}", "crash: {backends: random, down: 5s..10m}", "crash: {backends: 0, down: forever}",
			"restart: {backends: random, down: 5s..5m}", "rolling_restart: {}", "not_ready: {backends: random, for: 5s..10m}", "drain: {backends: 1}",
			"weight: {backends: 0, to: 3}", "database_outage: {for: 1m..10m}", "api_outage: {for: 1m..10m}", "director_restart: {down: 0s..1m}",
			"rebalance: {slack: 5%, rate: 1/s}", "rebalance: {slack: 5%, rate: 100/s, of: sessions, first: heavy}",
		}).Draw(t, "what"))
	}
	return b.String()
}

// TestTheBooksBalance holds, over drawn scenarios and under every strategy, that what is counted is what is there.
func TestTheBooksBalance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := load(t, drawScenario(t))
		strategy := rapid.SampledFrom(append(Strategies(), Ours, Ours, Ours)).Draw(t, "strategy")
		w := newWorld(s, Options{Strategy: strategy})
		for range 30 {
			if err := w.run(context.Background(), w.now+w.end/30, nil); err != nil {
				t.Fatal(err)
			}
			balance(t, w)
		}
		if err := w.run(context.Background(), w.end, nil); err != nil {
			t.Fatal(err)
		}
		r := w.book.result(w, strategy)
		total := r.Total()
		sum := &Phase{}
		for _, p := range r.Phases[:len(r.Phases)-1] {
			sum.Logins += p.Logins
			sum.Refused += p.Refused
			sum.Moves += p.Moves
			sum.LeastMoves += p.LeastMoves
			sum.Kicked += p.Kicked
			sum.Unavailable += p.Unavailable
			sum.StillWaiting += p.StillWaiting
			sum.WaitMax = max(sum.WaitMax, p.WaitMax)
			if p.MovedUsers > p.Moves || p.MovedUsers > total.MovedUsers || p.WaitedUsers > total.WaitedUsers || p.SplitUsers > total.SplitUsers {
				t.Fatalf("phase %+v is more than all, %+v", p, total)
			}
		}
		if sum.Logins != total.Logins || sum.Refused != total.Refused || sum.Moves != total.Moves || sum.LeastMoves != total.LeastMoves ||
			sum.Kicked != total.Kicked || math.Abs(sum.Unavailable-total.Unavailable) > 1e-3 || sum.StillWaiting != total.StillWaiting || sum.WaitMax != total.WaitMax {
			t.Fatalf("phases add up to %+v, all is %+v", sum, total)
		}
		moved, waited, split := 0, 0, 0
		for _, u := range w.users {
			moved += int(min(1, u.movedIn))
			waited += int(min(1, u.waitedIn))
			split += int(min(1, u.splitIn))
		}
		if moved != total.MovedUsers || waited != total.WaitedUsers || split != total.SplitUsers {
			t.Fatalf("%d users were moved, %d waited, %d were split, all is %+v", moved, waited, split, total)
		}
		moves := 0
		for _, sample := range r.Samples {
			for _, n := range sample.Moves {
				moves += n
			}
		}
		if moves != total.Moves {
			t.Fatalf("samples have %d moves, all is %d", moves, total.Moves)
		}
		// Nobody is split by us, unless a backend serves that is not ready any more, or memory is older than a move.
		if strategy == Ours && !happens(w, "not_ready") && !mayForget(w) && total.SplitUsers > 0 {
			t.Fatalf("%d users on two backends", total.SplitUsers)
		}
	})
}

func happens(w *world, action string) bool {
	return slices.ContainsFunc(w.scenario.timeline, func(e event) bool { return e.action.name == action })
}

// mayForget reports whether users may be served from the memory of a replica that does not know of a move: one that was made for
// evening out, while the backend was alive, and by somebody else. Serve makes no such moves.
func mayForget(w *world) bool { return happens(w, "database_outage") }

// balance compares what is counted with what is there.
func balance(t *rapid.T, w *world) {
	users, sessions := make([]int, len(w.cluster.pods)), make([]int, len(w.cluster.pods))
	all, waiting := 0, 0
	for i := range w.users {
		u := &w.users[i]
		open := 0
		for k := range uint32(u.clients) {
			c := &w.clients[u.first+k]
			if c.on >= 0 {
				sessions[c.on]++
				open++
				if !w.cluster.pods[c.on].serves() {
					t.Fatalf("%s has a session on %s, which does not serve", u.name, w.cluster.pods[c.on].name)
				}
			}
			if moment(c.at) < w.now {
				t.Fatalf("a client of %s should have done something at %d, it is %d", u.name, c.at, w.now)
			}
		}
		if open != int(u.open) || u.away > 0 && open > 0 {
			t.Fatalf("%s has %d sessions, counted are %d, away since %d", u.name, open, u.open, u.away)
		}
		if u.away > 0 {
			waiting++
		}
		all += open
		if u.home >= 0 {
			users[u.home]++
		}
		if d, ours := w.strategy.(*directors); ours && u.home >= 0 && !mayForget(w) {
			if row := d.store.find(u.hash); row.hash == 0 || d.store.backends[row.backend()] != w.cluster.pods[u.home].name {
				t.Fatalf("%s was last on %s, the store says something else", u.name, w.cluster.pods[u.home].name)
			}
		}
	}
	for i, p := range w.cluster.pods {
		if p.users != users[i] || p.sessions != sessions[i] {
			t.Fatalf("%s has %d users and %d sessions, counted are %d and %d", p.name, users[i], sessions[i], p.users, p.sessions)
		}
	}
	if all != w.sessions || waiting != w.book.waiting {
		t.Fatalf("%d sessions and %d waiting, counted are %d and %d", all, waiting, w.sessions, w.book.waiting)
	}
}

// TestStopping holds that a simulation ends with its context, and tells its progress.
func TestStopping(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := load(t, "duration: 24h\nusers: {count: 20_000}")
	var seen []float64
	_, err := Run(ctx, s, Options{Progress: func(done float64) {
		if seen = append(seen, done); done > 0.3 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || !slices.IsSorted(seen) || len(seen) < 3 || seen[len(seen)-1] > 0.5 {
		t.Errorf("%v after %v", err, seen)
	}
}
