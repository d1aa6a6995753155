package sim

import (
	"errors"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

// TestBadScenarios holds that whoever wrote something wrong is told where, and what was expected.
func TestBadScenarios(t *testing.T) {
	const good = "duration: 1h\nusers: {count: 10}\n"
	for _, tc := range []struct{ text, want string }{
		{"", "test.yaml:1:1: the file is empty; expected is a map with duration, backends, users, timeline"},
		{"# nothing\n", "test.yaml:1:1: the file is empty; expected is a map with duration, backends, users, timeline"},
		{"7", `test.yaml:1:1: "7" where a map is expected, with name, seed, duration, from, backends, users, logins, directors, settings, timeline, expect`},
		{"duration: 1h\n  users: 3\n", "test.yaml:2:3: mapping values are not allowed in this context; expected is YAML"},
		{"duration: [1h\n", "test.yaml:1:1: did not find expected ',' or ']'; expected is YAML"},
		{good + "---\n" + good, "test.yaml:1:1: there is more than one document, or something is wrong after the first; write one scenario a file"},
		{"users: {count: 10}", "test.yaml:1:1: the duration is missing; expected is one from 1m to 45d"},
		{"duration: 1h", "test.yaml:1:1: users are missing; expected are users with a count or a file"},
		{good + "colour: red", `test.yaml:3:1: "colour" is not known here; expected is one of name, seed, duration, from, backends, users, logins, directors, settings, timeline, expect`},
		{good + "duration: 2h", `test.yaml:3:1: "duration" is here twice; the first time in line 1`},
		{"duration: soon\nusers: {count: 1}", `test.yaml:1:11: "soon" where a duration from 1m0s to 1080h0m0s is expected`},
		{"duration: 46d\nusers: {count: 1}", `test.yaml:1:11: "46d" where a duration from 1m0s to 1080h0m0s is expected`},
		{"duration: -1h\nusers: {count: 1}", `test.yaml:1:11: "-1h" where a duration from 1m0s to 1080h0m0s is expected`},
		{"duration:\nusers: {count: 1}", `test.yaml:1:10: nothing where a duration from 1m0s to 1080h0m0s is expected`},
		{"duration: {}\nusers: {count: 1}", `test.yaml:1:11: a map where a duration from 1m0s to 1080h0m0s is expected`},
		{good + "seed: -1", `test.yaml:3:7: "-1" where a whole number is expected`},
		{good + "from: noon", `test.yaml:3:7: "noon" where a time of day as 09:30 is expected`},
		{good + "backends: {count: 0}", `test.yaml:3:19: "0" where a whole number from 1 to 1000 is expected`},
		{good + "backends: {count: 2, names: [a]}", "test.yaml:3:11: both count and names are here; expected is one of them"},
		{good + "backends: {names: []}", "test.yaml:3:11: the list of names is empty"},
		{good + "backends: {names: [a, b, a]}", `test.yaml:3:26: "a" is here twice`},
		{good + `backends: {names: ["a\nb"]}`, `test.yaml:3:20: "a\nb" where a text of one line is expected`},
		{good + "logins: {gaps: []}", "test.yaml:3:16: the list of gaps is empty"},
		{good + "backends: {names: a}", `test.yaml:3:19: "a" where a list is expected`},
		{good + "backends: {weights: {x: 1}}", `test.yaml:3:22: "x" where a backend is expected, by its name or its number`},
		{good + "backends: {names: [a], weights: {1: 1}}", `test.yaml:3:34: "1" where a backend is expected, by its name or its number`},
		{good + "backends: {weights: {0: many}}", `test.yaml:3:25: "many" where a whole number from 0 to 100 is expected`},
		{good + "backends: {start: 9s..3s}", `test.yaml:3:19: "9s..3s" where a duration or a range as 30s..90s, from 0s to 24h0m0s is expected`},
		{"duration: 1h\nusers: {count: 10, at_start: 11}", "test.yaml:2:8: at_start is 11, which is more than the count, 10"},
		{"duration: 1h\nusers: {connected: 10%}", "test.yaml:2:8: the count is missing; expected is how many users there are"},
		{"duration: 1h\nusers: {count: 10, connected: 101%}", `test.yaml:2:31: "101%" where a number from 0 to 1, or a percentage is expected`},
		{"duration: 1h\nusers: {count: 10, connected: NaN}", `test.yaml:2:31: "NaN" where a number from 0 to 1, or a percentage is expected`},
		{"duration: 1h\nusers: {count: 10, growth: fast}", `test.yaml:2:28: "fast" where one of exponential, linear is expected`},
		{"duration: 1h\nusers: {count: 10, mapped: maybe}", `test.yaml:2:28: "maybe" where true or false is expected`},
		{"duration: 1h\nusers: {file: x.csv}", "test.yaml:2:15: the users cannot be read: there is no file x.csv"},
		{"duration: 1h\nusers: {file: x.csv, count: 3}", "test.yaml:2:8: a file is here, and count, at_start or mapped; expected is the file alone"},
		{good + "logins: {curve: busy}", `test.yaml:3:17: "busy" where office, flat or a list of 24 numbers is expected`},
		{good + "logins: {curve: [1, 2]}", "test.yaml:3:17: a list of 2 numbers where 24 are expected, one for each hour, not all of them 0"},
		{good + "logins: {gaps: [1s]}", `test.yaml:3:17: "1s" where a duration from 1m0s to 1080h0m0s is expected`},
		{good + "directors: {replicas: 0}", `test.yaml:3:23: "0" where a whole number from 1 to 20 is expected`},
		{good + "settings: {grace: 1s}", "test.yaml:3:12: no such setting -\"grace\""},
		{good + "settings: {restart-grace: [1s]}", "test.yaml:3:27: a list where the value of restart-grace is expected"},
		{good + "settings: {restart-grace: x}", `test.yaml:3:12: time: invalid duration "x"`},
		{good + "timeline: {}", "test.yaml:3:11: a map where a list is expected"},
		{good + "timeline:\n- at: 5m", "test.yaml:4:3: nothing happens here; expected is a phase or one of api_outage, crash, database_outage, director_restart, drain, not_ready, rebalance, restart, rolling_restart, scale, weight"},
		{good + "timeline:\n- {at: 2h, phase: x}", `test.yaml:4:8: "2h" where a duration from 0s to 1h0m0s is expected`},
		{good + "timeline:\n- {at: 5m, explode: {}}", `test.yaml:4:12: "explode" is not known here; expected is one of at, every, until, phase, expect, api_outage, crash, database_outage, director_restart, drain, not_ready, rebalance, restart, rolling_restart, scale, weight`},
		{good + "timeline:\n- {at: 5m, scale: {to: 1}, drain: {backends: 0}}", "test.yaml:4:35: scale and drain in one event; expected is one thing that happens"},
		{good + "timeline:\n- {at: 5m, scale: {}}", "test.yaml:4:19: to is missing; expected is the number of backends"},
		{good + "backends: {names: [a]}\ntimeline:\n- {at: 5m, scale: {to: 2}}", "test.yaml:5:19: backends with names of their own cannot be scaled; expected are backends with a count"},
		{good + "timeline:\n- {at: 5m, crash: {backends: 1}}", "test.yaml:4:19: down is missing; expected is a duration, or forever"},
		{good + "timeline:\n- {at: 5m, crash: {down: 5s}}", "test.yaml:4:19: backends is missing; expected is a backend, a list of them, or random"},
		{good + "timeline:\n- {at: 5m, drain: {backends: [1, 1]}}", "test.yaml:4:34: 1 is here twice"},
		{good + "timeline:\n- {at: 5m, drain: {backends: [x]}}", `test.yaml:4:31: "x" where a backend is expected, by its name or its number`},
		{good + "timeline:\n- {at: 5m, not_ready: {backends: 1}}", "test.yaml:4:23: for is missing; expected is a duration"},
		{good + "timeline:\n- {at: 5m, weight: {backends: 1}}", "test.yaml:4:20: to is missing; expected is the new weight"},
		{good + "timeline:\n- {at: 5m, api_outage: {}}", "test.yaml:4:24: for is missing; expected is a duration"},
		{good + "timeline:\n- {at: 5m, director_restart: {replicas: 2}}", `test.yaml:4:41: "2" where a whole number from 0 to 1 is expected`},
		{good + "timeline:\n- {at: 5m, rebalance: {rate: 5}}", `test.yaml:4:30: "5" where a rate as 50/s or 300/min is expected`},
		{good + "timeline:\n- {at: 5m, rebalance: {rate: -5/s}}", `test.yaml:4:30: "-5/s" where a rate as 50/s or 300/min is expected`},
		{good + "timeline:\n- {at: 5m, until: 6m, phase: x}", "test.yaml:4:3: until without every"},
		{good + "timeline:\n- {at: 5m, every: 6m, phase: x}", "test.yaml:4:3: a phase begins once; expected is no every beside it"},
		{good + "timeline:\n- {at: 5m, scale: {to: 2}, expect: {moves: 0}}", "test.yaml:4:3: expectations without a phase that they are about; expected is phase: NAME"},
		{good + "expect: {moves: few}", `test.yaml:3:17: "few" where a bound is expected: a number or a duration, with <=, <, >= or > before it if it is no exact one`},
		{good + "expect: {happiness: 1}", `test.yaml:3:10: "happiness" is no figure; expected is one of users, logins, refused, moves, moved_users, moves_per_user, least_moves, moves_beyond_least, moves_vs_least, kicked_users, kicks_per_user, waited_users, wait_mean, wait_max, unavailable_per_user, split_users, users_peak, users_peak_worst, sessions_peak, sessions_peak_worst`},
		{good + "backends: *b", `test.yaml:3:11: unknown anchor 'b' referenced; expected is YAML`},
	} {
		s, err := Load("test.yaml", []byte(tc.text), newKnobs(), noFile)
		if err == nil || s != nil {
			t.Errorf("%q is taken", tc.text)
			continue
		}
		if _, ok := errors.AsType[*Error](err); !ok || err.Error() != tc.want {
			t.Errorf("%q:\n got %v\nwant %s", tc.text, err, tc.want)
		}
	}
}

// TestScenariosAsWritten holds how values are read, and that users of a file must be on backends that there are.
func TestScenariosAsWritten(t *testing.T) {
	read := func(text string, rows ...row) (*Scenario, error) {
		return Load("test.yaml", []byte(text), newKnobs(), func(_ string, each func(user, backend string) error) error {
			for _, r := range rows {
				if err := each(r.user, r.backend); err != nil {
					return err
				}
			}
			return nil
		})
	}
	s, err := read(`
name: all
seed: 18446744073709551615
duration: 1d12h
from: "07:30"
backends: {name: mx, count: 3, weights: {0: 2, mx-1: 0}, start: 5s..1m, stop: 1s}
users: {count: 1_000, at_start: 10, growth: linear, mapped: false, connected: 25%, devices: 2, skew: 0, domain: example.net}
logins: {per_day: 0.5, session: 1m, curve: [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], reconnect: 1d, gaps: [1h], retry: 1s..2s}
directors: {replicas: 3, lag: 1s, even_above: 1.2}
settings: {restart-grace: 7s}
timeline:
- {at: 1d, every: 90m, until: 1d12h, restart: {backends: [mx-2, 0], down: 3s, stop: 4s..5s}}
- {at: 2h, phase: p, rebalance: {slack: 5%, rate: 90/min, of: sessions, first: heavy}, expect: {wait_max: <= 1m30s, moves: "> 1_000"}}
`)
	if err != nil {
		t.Fatal(err)
	}
	e, p := s.timeline[0], s.timeline[1]
	switch {
	case s.Name != "all" || s.Users != 1000 || s.Duration != 36*time.Hour || s.midnight != 7*hour+30*60*second || s.seed != 1<<64-1:
		t.Errorf("%+v", s)
	case s.backends.name(2) != "mx-2" || s.backends.weights[0] != 2 || s.backends.weights[1] != 0 || s.backends.start != span{5 * time.Second, time.Minute} || s.backends.stop != span{time.Second, time.Second}:
		t.Errorf("%+v", s.backends)
	case s.users.atStart != 10 || s.users.exponential || s.users.mapped || s.users.connected != 0.25 || s.users.devices != 2 || s.users.skew != 0 || s.users.domain != "example.net":
		t.Errorf("%+v", s.users)
	case s.logins.perDay != 0.5 || s.logins.session != time.Minute || len(s.logins.curve) != 24 || s.logins.reconnect != 24*time.Hour || !slices.Equal(s.logins.gaps, []time.Duration{time.Hour}) || s.logins.retry.most != 2*time.Second:
		t.Errorf("%+v", s.logins)
	case s.replicas.count != 3 || s.replicas.lag.least != time.Second || s.settings.Policy.EvenAbove != 1.2 || s.settings.Graces.Restart != 7*time.Second || s.settings.Graces.Failover != 30*time.Second:
		t.Errorf("%+v %+v", s.replicas, s.settings)
	case e.at != day || e.every != 90*60*second || e.until != 36*hour || !slices.Equal(e.action.targets, []int{2, 0}) || e.action.down.least != 3*time.Second || *e.action.stop != span{4 * time.Second, 5 * time.Second}:
		t.Errorf("%+v", e)
	case p.phase != "p" || p.action.planner.Slack != 0.05 || p.action.planner.IdleFirst || p.action.rate != 1.5 || !p.action.bySessions:
		t.Errorf("%+v", p)
	case len(p.expect) != 2 || p.expect[0].bound != 90 || p.expect[0].compare != "<=" || p.expect[1].bound != 1000 || p.expect[1].compare != ">":
		t.Errorf("%+v", p.expect)
	}
	const named = "duration: 1h\nbackends: {names: [a, b]}\nusers: {file: rows}"
	if s, err := read(named, row{"ada", "a"}, row{"bob", "b"}); err != nil || s.Users != 2 {
		t.Error(err)
	}
	if _, err := read(named, row{"ada", "a"}, row{"bob", "c"}); err == nil || !strings.Contains(err.Error(), `user "bob" is on "c" in the file of users; expected is one of the scenario's 2 backends, a to b`) {
		t.Error(err)
	}
	if _, err := read(named); err == nil || !strings.Contains(err.Error(), "test.yaml:3:15: rows has no users") {
		t.Error(err)
	}
}

// FuzzLoad holds that no scenario makes the reader panic, that each fault is named with its place, in one line; and that what it takes can
// be played, twice the same, if it is small enough to be played here.
func FuzzLoad(f *testing.F) {
	for _, text := range []string{
		"duration: 1h\nusers: {count: 10}\n", "a: &a [*a]", "duration: 1h\nusers: &u {count: 10}\nbackends: *u", "? {}\n: 1", "- 1\n- 2", "timeline: [{at: 1m, crash: {backends: [1, 2], down: 5s..1m}}]",
		"duration: 1h\nusers: {count: 10}\nexpect: {moves: <= 3}\ntimeline:\n- {at: 1m, every: 2m, rebalance: {rate: 3/h}}\n", "<<: {duration: 1h}", "duration: 9999999d", "\x00", "duration: 1h\nusers: {count: 10, connected: 1e-400}",
	} {
		f.Add(text)
	}
	for _, name := range []string{"crash-short", "failing-probe", "scale-up-5-8", "node-drain"} {
		text, err := os.ReadFile("../../testdata/scenarios/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(regexp.MustCompile(`count: [0-9_]{3,}`).ReplaceAllString(string(text), "count: 10"))
	}
	f.Fuzz(func(t *testing.T, text string) {
		oneUser := func(file string, each func(user, backend string) error) error { return each("a\n"+file, "b\n0") }
		s, err := Load("fuzz.yaml", []byte(text), newKnobs(), oneUser)
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Message == "" || e.File != "fuzz.yaml" || len(err.Error()) > 2000 || !utf8.ValidString(err.Error()) || strings.ContainsFunc(err.Error(), func(c rune) bool { return !unicode.IsPrint(c) }) {
				t.Errorf("%T: %.3000q", err, err)
			}
			return
		}
		if s.Users < 1 || s.Duration < time.Minute || s.Duration > longest || s.backends.count < 1 || s.backends.count > 1000 {
			t.Errorf("%d users on %d backends for %s", s.Users, s.backends.count, s.Duration)
		}
		for _, e := range s.timeline {
			if e.action.to > 10 {
				return
			}
		}
		if s.Users > 20 || s.Duration > 2*time.Hour || s.backends.count > 10 || s.replicas.count > 3 || s.logins.perDay > 100 || len(s.timeline) > 5 {
			return
		}
		first, err := Run(t.Context(), s, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range first.Phases {
			for _, figure := range figures {
				if v := figure.of(p); math.IsNaN(v) || v < 0 && figure.name != "moves_beyond_least" {
					t.Errorf("%s is %v", figure.name, v)
				}
			}
		}
		s, err = Load("fuzz.yaml", []byte(text), newKnobs(), oneUser)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Run(t.Context(), s, Options{}); err != nil || !reflect.DeepEqual(first, again) {
			t.Errorf("played again, it is %+v and not %+v, %v", again.Total(), first.Total(), err)
		}
	})
}
