package http

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// operator answers as a test wants, and notes what it was asked.
type operator struct {
	calls []string
	err   error
	users director.UserFormat
	most  int // sessions that a kick ends
}

func newOperator(t testing.TB) *operator {
	t.Helper()
	name, err := director.ParseTemplate("%Lu")
	if err != nil {
		t.Fatal(err)
	}
	return &operator{users: director.UserFormat{Name: name, Hash: name}, most: 3}
}

// called notes a call that is not refused for the user's name.
func (o *operator) called(user, format string, args ...any) error {
	if user != "" {
		if _, err := o.users.Canonical(user); err != nil {
			return err
		}
	}
	o.calls = append(o.calls, fmt.Sprintf(format, args...))
	return o.err
}

var (
	someMove  = director.MoveState{User: "ada", From: "b0", To: "b1", Stage: director.MoveBegun, LeftSeconds: 29.5, Waiting: []string{"r2"}, Actor: "eve@desk", Note: "why"}
	someEntry = director.Entry{ID: 7, At: time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC), Subject: director.AboutUser, User: "ada", From: "b0", To: "b1", Reason: director.Moved, Actor: "eve@desk", Replica: "r1", Note: "why"}
	someTask  = director.TaskReport{Name: "evacuate b0", Kind: director.Evacuate, Backend: "b0", Paused: true, Rate: 50, Left: 5, Total: 10, Slack: 0.1, RunningSeconds: 1.5, LeftSeconds: 6, Actor: "eve@desk", Note: "why"}
)

func (o *operator) Status(_ context.Context, sessions bool) (*director.StatusReport, error) {
	n := 4
	return &director.StatusReport{
		Generation: 3, Users: 10, Elsewhere: 1, PolledSeconds: new(12.5), Doubled: []director.DoubledReport{{User: "ada", Backends: []string{"b0", "b1"}, SinceSeconds: 60}},
		Backends: []director.BackendReport{
			{Name: "b0", Address: netip.MustParseAddr("192.0.2.1"), Zone: "z", Condition: "alive", State: director.Drain, Users: 5, Share: 0.5, Fair: 0.25, Sessions: &n, LoggedIn: &n, Actor: "eve@desk", Note: "why"},
			{Name: "b1", Condition: "lost", State: director.Active, Weight: 1, Leaving: true, GraceSeconds: 1.5, Unasked: "it is away"},
		},
		Replicas: []director.ReplicaReport{{Name: "r1", Version: "v1", Generation: 3, Fingerprint: "f", Alive: 1, Lost: 1, SilentSeconds: 0.2, Agrees: true}},
		Tasks:    []director.TaskReport{someTask},
	}, o.called("", "status %v", sessions)
}

func (o *operator) UserOf(_ context.Context, name string) (*director.UserReport, error) {
	return &director.UserReport{
		User: strings.ToLower(name), Pinned: true, Backend: "b0", SinceSeconds: 3, Condition: "alive", Proposal: "b1",
		Next:     director.NextAnswer{Verb: "serve", Reason: director.Mapped, Backend: "b0", Address: netip.MustParseAddr("192.0.2.1"), Detail: "mapped"},
		Sessions: []director.LiveSession{{Backend: "b0", Name: name, Service: "imap", Client: netip.MustParseAddr("2001:db8::1")}},
		Unasked:  map[string]string{"b1": "it is away"}, Move: &someMove, History: []director.Entry{someEntry},
	}, o.called(name, "user %q", name)
}

func (o *operator) Move(_ context.Context, m director.MoveOrder) (*director.MoveState, error) {
	return &someMove, o.called(m.User, "move %+v", m)
}

func (o *operator) Pin(_ context.Context, name string, pinned bool, actor, note string) (bool, error) {
	return true, o.called(name, "pin %q %v %q %q", name, pinned, actor, note)
}

func (o *operator) Kick(_ context.Context, name, actor, note string) (int, error) {
	return o.most, o.called(name, "kick %q %q %q", name, actor, note)
}

func (o *operator) Stand(_ context.Context, s director.StandOrder) (director.Standing, error) {
	weight := -1
	if s.Weight != nil {
		weight = *s.Weight
	}
	return director.Standing{Backend: s.Backend, State: director.Drain, Weight: 5, Actor: s.Actor, Note: s.Note},
		o.called("", "stand %q %q %d %v %q %q", s.Backend, s.State, weight, s.Force, s.Actor, s.Note)
}

func (o *operator) Journal(_ context.Context, name string, before int64, most int) ([]director.Entry, error) {
	return []director.Entry{someEntry}, o.called(name, "journal %q %d %d", name, before, most)
}

func (o *operator) ForgetReplica(_ context.Context, name, actor string) error {
	return o.called("", "forget %q %q", name, actor)
}

func (o *operator) Evacuate(_ context.Context, backend string, t director.TaskOrder) (*director.TaskReport, error) {
	return &someTask, o.called("", "evacuate %q %s", backend, described(t))
}

func (o *operator) Rebalance(_ context.Context, t director.TaskOrder) (*director.TaskReport, error) {
	return &someTask, o.called("", "rebalance %s", described(t))
}

// described leaves out by how much a time is off by now.
func described(t director.TaskOrder) string {
	return fmt.Sprintf("%d %v %v %v %q %q", t.Rate, t.By.Round(time.Minute), t.Slack, t.Paused, t.Actor, t.Note)
}

func (o *operator) Plan(_ context.Context, slack float64) (*director.PlanReport, error) {
	idle := 1
	return &director.PlanReport{
		Moves: 2, Least: 2, Idle: &idle, PeakBefore: 1.5, PeakAfter: 1,
		Backends: []director.PlannedShare{{Backend: "b0", Before: 6, After: 4, Fair: 4, To: map[string]int{"b1": 2}}, {Backend: "b1", Before: 2, After: 4, Fair: 4}},
	}, o.called("", "plan %v", slack)
}

func (o *operator) Cancel(_ context.Context, kind director.TaskKind, backend, actor, note string) error {
	return o.called("", "cancel %s %q %q %q", kind, backend, actor, note)
}

// soon stands in bodies for a time in two hours; dated has it as orders hold it.
const soon = "IN TWO HOURS"

func dated(body string) string {
	return strings.ReplaceAll(body, soon, time.Now().Add(2*time.Hour).UTC().Format(time.RFC3339))
}

// adminRequest makes a request as a local client does.
func adminRequest(method, path, body string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, "http://127.0.0.1:8082"+adminRoot+path, strings.NewReader(dated(body)))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func answerTo(a *Admin, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	a.ServeHTTP(w, r)
	return w
}

// adminVerbs are all requests that make sense, and what the operator is asked.
var adminVerbs = []struct{ method, route, path, body, call string }{
	{"GET", "/status", "/status", "", "status false"},
	{"GET", "/status", "/status?sessions=true", "", "status true"},
	{"GET", "/users/{user}", "/users/Ada%40example.org", "", `user "Ada@example.org"`},
	{"GET", "/users/{user}", "/users/a%2Fb", "", `user "a/b"`},
	{"GET", "/users/{user}", "/users/a%2F%2Fb%2f", "", `user "a//b/"`},
	{"GET", "/users/{user}", "/users/%2E%2E", "", `user ".."`},
	{"GET", "/users/{user}", "/users/%2E%2E%2F%2E%2E%2Fstatus", "", `user "../../status"`},
	{"GET", "/users/{user}", "/users/zo%C3%AB%20%25%3F%23", "", `user "zoë %?#"`},
	{"GET", "/users/{user}", "/users/zoë", "", `user "zoë"`},
	{"GET", "/users/{user}", "/users/move", "", `user "move"`},
	{"GET", "/users/{user}", "/users/" + strings.Repeat("ë", 255), "", fmt.Sprintf("user %q", strings.Repeat("ë", 255))},
	{"POST", "/users/{user}/move", "/users/a%2Fb/move", `{"to":"b1","force":true,"note":"why"}`, `move {User:a/b To:b1 Force:true Actor:eve@desk Note:why}`},
	{"POST", "/users/{user}/move", "/users/ada/move", ``, `move {User:ada To: Force:false Actor:eve@desk Note:}`},
	{"PUT", "/users/{user}/pin", "/users/ada/pin", `{"note":"why"}`, `pin "ada" true "eve@desk" "why"`},
	{"DELETE", "/users/{user}/pin", "/users/ada/pin", `{"note":"why"}`, `pin "ada" false "eve@desk" "why"`},
	{"POST", "/users/{user}/kick", "/users/ada/kick", `{}`, `kick "ada" "eve@desk" ""`},
	{"PATCH", "/backends/{backend}", "/backends/b0", `{"state":"drain"}`, `stand "b0" "drain" -1 false "eve@desk" ""`},
	{"PATCH", "/backends/{backend}", "/backends/b0", `{"weight":0,"force":true,"note":"why"}`, `stand "b0" "" 0 true "eve@desk" "why"`},
	{"PUT", "/backends/{backend}/evacuation", "/backends/b%2F0/evacuation", `{"rate":6000,"paused":true,"note":"why"}`, `evacuate "b/0" 6000 0s 0 true "eve@desk" "why"`},
	{"PUT", "/backends/{backend}/evacuation", "/backends/b0/evacuation", `{"by":"` + soon + `"}`, `evacuate "b0" 0 2h0m0s 0 false "eve@desk" ""`},
	{"PUT", "/backends/{backend}/evacuation", "/backends/b0/evacuation", ``, `evacuate "b0" 0 0s 0 false "eve@desk" ""`},
	{"DELETE", "/backends/{backend}/evacuation", "/backends/b%2F0/evacuation", `{"note":"why"}`, `cancel evacuate "b/0" "eve@desk" "why"`},
	{"GET", "/rebalance", "/rebalance", "", "plan 0.05"},
	{"GET", "/rebalance", "/rebalance?slack=", "", "plan 0.05"},
	{"GET", "/rebalance", "/rebalance?slack=0", "", "plan 0"},
	{"PUT", "/rebalance", "/rebalance", `{"rate":1,"slack":0,"paused":true,"note":"why"}`, `rebalance 1 0s 0 true "eve@desk" "why"`},
	{"PUT", "/rebalance", "/rebalance", `{"by":"` + soon + `","slack":10}`, `rebalance 0 2h0m0s 10 false "eve@desk" ""`},
	{"PUT", "/rebalance", "/rebalance", ``, `rebalance 0 0s 0.05 false "eve@desk" ""`},
	{"DELETE", "/rebalance", "/rebalance", `{"note":"why"}`, `cancel rebalance "" "eve@desk" "why"`},
	{"GET", "/journal", "/journal", "", `journal "" 0 100`},
	{"GET", "/journal", "/journal?user=&before=&limit=", "", `journal "" 0 100`},
	{"GET", "/journal", "/journal?user=a%2Fb%26c&before=9&limit=1000", "", `journal "a/b&c" 9 1000`},
	{"DELETE", "/replicas/{replica}", "/replicas/r%2F1", ``, `forget "r/1" "eve@desk"`},
	{"GET", "/openapi.json", "/openapi.json", "", ""},
}

func TestAdminAsksTheOperatorAndAnswersAsTheDocumentSays(t *testing.T) {
	d := readDocument(t)
	for _, verb := range adminVerbs {
		o := newOperator(t)
		w := answerTo(NewAdmin(AdminConfig{Operator: o}), adminRequest(verb.method, verb.path, verb.body, "X-Actor", "eve@desk"))
		if calls := strings.Join(o.calls, "; "); w.Code/100 != 2 || calls != verb.call {
			t.Errorf("%s %s: %d %s, asked %s; want %s", verb.method, verb.path, w.Code, w.Body, calls, verb.call)
		}
		if err := d.check(verb.method, adminRoot+verb.route, w.Code, w.Body.Bytes()); err != nil {
			t.Error(err)
		}
		if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: headers %v", verb.method, verb.path, w.Header())
		}
	}
}

func TestAdminErrorsHaveTheirStatus(t *testing.T) {
	d := readDocument(t)
	for _, tc := range []struct {
		err  error
		want int
		text string
	}{
		{&director.RefusedError{Message: "no way"}, 409, "no way"},
		{&director.RefusedError{NotFound: true, Message: "no such"}, 404, "no such"},
		{&director.InvalidUserError{Detail: "odd"}, 400, "invalid user name: odd"},
		{fmt.Errorf("%w: to b1", director.ErrMoving), 409, "moved already: to b1"},
		{director.ErrUserRefused, 404, "refuses"},
		{fmt.Errorf("%w: db", director.ErrUnavailable), 503, "unavailable: db"},
		{fmt.Errorf("a\nb: %w", director.ErrUnavailable), 503, "a; b: "},
		{errors.New("secret"), 500, "internal error"},
	} {
		for _, verb := range adminVerbs {
			if verb.call == "" {
				continue
			}
			o := newOperator(t)
			o.err = tc.err
			w := answerTo(NewAdmin(AdminConfig{Operator: o}), adminRequest(verb.method, verb.path, verb.body))
			if w.Code != tc.want || !strings.Contains(w.Body.String(), tc.text) || strings.Contains(w.Body.String(), "secret") {
				t.Errorf("%s %s: %d %s; want %d with %q", verb.method, verb.path, w.Code, w.Body, tc.want, tc.text)
			}
			// Looking at the whole has no errors about one thing.
			if tc.want == 404 && (verb.route == "/status" || verb.method+verb.route == "GET/rebalance") || tc.want == 409 && verb.route == "/journal" {
				continue
			}
			if err := d.check(verb.method, adminRoot+verb.route, w.Code, w.Body.Bytes()); err != nil {
				t.Error(err)
			}
		}
	}
	o := newOperator(t)
	o.err = fmt.Errorf("%w: b1", director.ErrUnreachable)
	w := answerTo(NewAdmin(AdminConfig{Operator: o}), adminRequest("POST", "/users/ada/kick", ""))
	if w.Code != 502 || !strings.Contains(w.Body.String(), "3 sessions were told to end; ") {
		t.Errorf("half a kick: %d %s", w.Code, w.Body)
	}
	if err := d.check("POST", adminRoot+"/users/{user}/kick", w.Code, w.Body.Bytes()); err != nil {
		t.Error(err)
	}
}

// TestAdminTakesNoHostileInput holds that what makes no sense gets a clear error, and reaches no operator.
func TestAdminTakesNoHostileInput(t *testing.T) {
	d := readDocument(t)
	type hostile struct {
		path, body string
		headers    []string
		want       int
		text       string
	}
	for _, verb := range adminVerbs {
		cases := map[string]hostile{
			"an unknown value in the query": {path: addQuery(verb.path, "colour=red"), body: verb.body, want: 400, text: "colour"},
			"a broken query":                {path: addQuery(verb.path, "a=%zz"), body: verb.body, want: 400, text: "the query cannot be read"},
		}
		if verb.method != http.MethodGet {
			for name, body := range map[string]string{
				"bad JSON": `{"note":`, "no JSON": `note`, "an array": `[]`, "null": `null`, "a string": `"x"`, "an unknown field": `{"colour":1}`, "two objects": `{} {}`,
				"a field twice": `{"note":"a","note":"b"}`, "a field in another case": `{"Note":"a"}`, "a field in another alphabet": `{"note":"a","n\u2092te":"b"}`, "a long s": `{"\u017ftate":"off"}`, "no UTF-8": "{\"note\":\"\xff\"}", "half a character": `{"note":"\ud800"}`,
				"an object and more": `{}]`, "a deep one": strings.Repeat(`{"a":`, 2000),
			} {
				cases[name] = hostile{path: verb.path, body: body, want: 400, text: "body"}
			}
			cases["a huge body"] = hostile{path: verb.path, body: `{"note":"` + strings.Repeat("x", maxOrder) + `"}`, want: 413, text: "longer than 16 KiB"}
			cases["an actor that is too long"] = hostile{path: verb.path, body: verb.body, headers: []string{"X-Actor", strings.Repeat("x", 256)}, want: 400, text: "X-Actor"}
			cases["an actor that cannot be printed"] = hostile{path: verb.path, body: verb.body, headers: []string{"X-Actor", "a\x1b[2J"}, want: 400, text: "X-Actor"}
			cases["an actor that is no text"] = hostile{path: verb.path, body: verb.body, headers: []string{"X-Actor", "a\xff"}, want: 400, text: "X-Actor"}
			cases["two actors"] = hostile{path: verb.path, body: verb.body, headers: []string{"X-Actor", "a", "X-Actor", "b"}, want: 400, text: "X-Actor"}
			cases["a form"] = hostile{path: verb.path, body: `{}`, headers: []string{"Content-Type", "text/plain"}, want: 415, text: "application/json"}
		}
		if strings.Contains(verb.body, "note") {
			cases["a note of another type"] = hostile{path: verb.path, body: `{"note":1}`, want: 400, text: `"note"`}
			for name, note := range map[string]string{"long": strings.Repeat("x", maxNote+1), "two-line": `a\nb`, "colourful": `\u001b[2J`, "NUL": `\u0000`} {
				cases["a "+name+" note"] = hostile{path: verb.path, body: strings.Replace(verb.body, "why", note, 1), want: 400, text: "note: "}
			}
		}
		if strings.HasSuffix(verb.route, "/move") {
			cases["to a backend without a name"] = hostile{path: verb.path, body: `{"to":""}`, want: 400, text: "to: "}
		}
		if strings.Contains(verb.route, "{user}") {
			for name, user := range map[string]string{"NUL": "%00", "NUL within": "a%00b", "no UTF-8": "%ff", "256 characters": strings.Repeat("x", 256), "half a rune": "%C3"} {
				cases["a user: "+name] = hostile{path: strings.Replace(verb.route, "{user}", user, 1), body: verb.body, want: 400, text: "invalid user name"}
			}
			for name, user := range map[string]string{"nobody": "", "traversal": "..", "more traversal": "../../v1/status", "a dot": ".", "a slash": "a//b"} {
				cases["a user: "+name] = hostile{path: strings.Replace(verb.route, "{user}", user, 1), body: verb.body, want: 404, text: "no such path"}
			}
		}
		for _, what := range []string{"{backend}", "{replica}"} {
			if strings.Contains(verb.route, what) {
				for name, odd := range map[string]string{"NUL": "%00", "no UTF-8": "%ff", "254 characters": strings.Repeat("x", 254), "escapes": "%1b", "a newline": "a%0a"} {
					cases[what+": "+name] = hostile{path: strings.Replace(verb.route, what, odd, 1), body: verb.body, want: 400, text: "is not a name"}
				}
				cases[what+": nothing"] = hostile{path: strings.Replace(verb.route, what, "", 1), body: verb.body, want: 404, text: "no such path"}
			}
		}
		switch verb.route {
		case "/status":
			cases["sessions"] = hostile{path: "/status?sessions=1", want: 400, text: "sessions: "}
			cases["sessions twice"] = hostile{path: "/status?sessions=true&sessions=false", want: 400, text: "more than once"}
		case "/journal":
			for _, value := range []string{"limit=0", "limit=1001", "limit=-1", "limit=ten", "limit=1e2", "limit=99999999999999999999", "before=0", "before=-1", "before=x"} {
				name, _, _ := strings.Cut(value, "=")
				cases[value] = hostile{path: "/journal?" + value, want: 400, text: name + ": "}
			}
			for _, user := range []string{"%00", "%ff", strings.Repeat("x", 256)} {
				cases["user="+user] = hostile{path: "/journal?user=" + user, want: 400, text: "invalid user name"}
			}
		case "/users/{user}/move":
			cases["force of another type"] = hostile{path: verb.path, body: `{"force":"yes"}`, want: 400, text: `"force"`}
			cases["a backend that is none"] = hostile{path: verb.path, body: `{"to":"a\u0000"}`, want: 400, text: "to: "}
		case "/backends/{backend}":
			for name, body := range map[string]string{"nothing ordered": `{}`, "only force": `{"force":true}`} {
				cases[name] = hostile{path: verb.path, body: body, want: 400, text: "nothing is ordered"}
			}
			cases["no body"] = hostile{path: verb.path, want: 400, text: "nothing is ordered"}
			cases["a state that is none"] = hostile{path: verb.path, body: `{"state":"asleep"}`, want: 400, text: `"asleep" is not a state`}
			for _, weight := range []string{"-1", "101", "1e9", "1.5", `"1"`, "1e400"} {
				cases["weight "+weight] = hostile{path: verb.path, body: `{"weight":` + weight + `}`, want: 400, text: "weight"}
			}
		}
		switch verb.method + verb.route {
		case "GET/rebalance":
			for _, slack := range []string{"-0.1", "10.5", "NaN", "Inf", "-inf", "x", "1e400", "5%25"} {
				cases["slack="+slack] = hostile{path: "/rebalance?slack=" + slack, want: 400, text: "slack: "}
			}
		case "PUT/rebalance":
			for _, slack := range []string{"NaN", `"0.1"`, "1e400"} {
				cases["slack "+slack] = hostile{path: verb.path, body: `{"slack":` + slack + `}`, want: 400, text: "body"}
			}
			for _, slack := range []string{"-0.1", "10.5"} {
				cases["slack "+slack] = hostile{path: verb.path, body: `{"slack":` + slack + `}`, want: 400, text: "slack: "}
			}
			fallthrough
		case "PUT/backends/{backend}/evacuation":
			for _, rate := range []string{"0", "-1", "6001", "9999999", "1.5", `"50"`, "1e400"} {
				cases["rate "+rate] = hostile{path: verb.path, body: `{"rate":` + rate + `}`, want: 400, text: "rate"}
			}
			for by, text := range map[string]string{
				`"2020-01-01T00:00:00Z"`: "is over", `"2999-01-01T00:00:00Z"`: "more than a year", `"99999-01-01T00:00:00Z"`: "is not a time", `"04:00"`: "is not a time",
				`"2h"`: "is not a time", `""`: "is not a time", "3600": `"by"`,
			} {
				cases["by "+by] = hostile{path: verb.path, body: `{"by":` + by + `}`, want: 400, text: text}
			}
			cases["a rate and a time"] = hostile{path: verb.path, body: `{"rate":50,"by":"` + soon + `"}`, want: 400, text: "write one of them"}
			cases["paused of another type"] = hostile{path: verb.path, body: `{"paused":1}`, want: 400, text: `"paused"`}
		}
		if verb.route == "/backends/{backend}/evacuation" {
			cases["a slack"] = hostile{path: verb.path, body: `{"slack":0.1}`, want: 400, text: "slack"}
		}
		for name, tc := range cases {
			o := newOperator(t)
			r := adminRequest(verb.method, tc.path, tc.body)
			for i := 0; i < len(tc.headers); i += 2 {
				if tc.headers[i] == "Content-Type" {
					r.Header.Del("Content-Type")
				}
				r.Header.Add(tc.headers[i], tc.headers[i+1])
			}
			w := answerTo(NewAdmin(AdminConfig{Operator: o}), r)
			if w.Code != tc.want || !strings.Contains(strings.ReplaceAll(w.Body.String(), `\"`, `"`), tc.text) || len(o.calls) != 0 {
				t.Errorf("%s %s, %s: %d %s, asked %v; want %d with %q", verb.method, verb.path, name, w.Code, w.Body, o.calls, tc.want, tc.text)
			}
			if w.Code == http.StatusNotFound {
				continue // no path of the document
			}
			if err := d.check(verb.method, adminRoot+verb.route, w.Code, w.Body.Bytes()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func addQuery(path, query string) string {
	if strings.Contains(path, "?") {
		return path + "&" + query
	}
	return path + "?" + query
}

func TestAdminRefusesOtherMethodsAndPaths(t *testing.T) {
	o := newOperator(t)
	a := NewAdmin(AdminConfig{Operator: o})
	allowed := map[string]string{}
	for _, verb := range adminVerbs {
		allowed[verb.route] += verb.method + " "
	}
	for route, methods := range allowed {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "SING"} {
			if strings.Contains(methods, method) {
				continue
			}
			w := answerTo(a, adminRequest(method, strings.NewReplacer("{", "", "}", "").Replace(route), ""))
			if allow := w.Header().Get("Allow"); w.Code != 405 || !strings.Contains(w.Body.String(), "this path takes "+strings.ReplaceAll(allow, ", ", " or ")) || allow == "" {
				t.Errorf("%s %s: %d %s, Allow %q", method, route, w.Code, w.Body, allow)
			}
		}
	}
	for _, path := range []string{"", "/", "/users", "/users/", "/status/", "/users/ada/sing", "/users/ada/move/", "/../v1/status", "//status"} {
		if w := answerTo(a, adminRequest("GET", path, "")); w.Code != 404 || !strings.Contains(w.Body.String(), "no such path") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if len(o.calls) != 0 {
		t.Errorf("asked %v", o.calls)
	}
}

func TestTokensAndWhatTheyMay(t *testing.T) {
	const writer, reader = "write-token", "read-token"
	bearer := func(token string) []string { return []string{"Authorization", "Bearer " + token} }
	for name, tc := range map[string]struct {
		headers     []string
		read, write int
	}{
		"none":                     {nil, 401, 401},
		"a token that is unknown":  {bearer("x"), 401, 401},
		"an empty one":             {bearer(""), 401, 401},
		"half of one":              {bearer(writer[:5]), 401, 401},
		"one and more":             {bearer(writer + "x"), 401, 401},
		"of another kind":          {[]string{"Authorization", "Basic " + writer}, 401, 401},
		"without a kind":           {[]string{"Authorization", writer}, 401, 401},
		"for reading":              {bearer(reader), 200, 403},
		"for all":                  {bearer(writer), 200, 200},
		"for all, in small":        {[]string{"authorization", "bearer " + writer}, 200, 200},
		"for all, from a page":     {append(bearer(writer), "Sec-Fetch-Site", "cross-site"), 403, 403},
		"for all, by another name": {append(bearer(writer), "Host", "director.mail.svc"), 200, 200},
	} {
		for _, verb := range adminVerbs {
			o := newOperator(t)
			a := NewAdmin(AdminConfig{Operator: o, Writes: only("other", writer), Reads: only(reader)})
			r := adminRequest(verb.method, verb.path, verb.body, tc.headers...)
			if host := r.Header.Get("Host"); host != "" {
				r.Host = host
			}
			want := tc.read
			if verb.method != http.MethodGet {
				want = tc.write
			}
			w := answerTo(a, r)
			if w.Code != want && (want != 200 || w.Code != 202) {
				t.Errorf("%s: %s %s: %d %s, want %d", name, verb.method, verb.path, w.Code, w.Body, want)
			}
			if w.Code >= 400 && len(o.calls) != 0 || (w.Header().Get("WWW-Authenticate") != "") != (w.Code == 401) {
				t.Errorf("%s: %s %s: asked %v, headers %v", name, verb.method, verb.path, o.calls, w.Header())
			}
		}
	}
}

// only knows these tokens.
func only(tokens ...string) func(token string) bool {
	return func(token string) bool { return slices.Contains(tokens, token) }
}

func TestWithoutTokensOnlyThisMachineIsAnswered(t *testing.T) {
	for host, want := range map[string]int{
		"127.0.0.1:8082": 200, "127.0.0.1": 200, "localhost:8082": 200, "LOCALHOST": 200, "[::1]:8082": 200, "[::1]": 200, "127.9.9.9:1": 200, "[::ffff:127.0.0.1]:80": 200,
		"director.evil.example:8082": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example:8082": 403, "192.0.2.1:8082": 403, "": 403, "0.0.0.0:8082": 403, "[::]:80": 403,
	} {
		o := newOperator(t)
		r := adminRequest("GET", "/status", "")
		r.Host = host
		if w := answerTo(NewAdmin(AdminConfig{Operator: o}), r); w.Code != want || len(o.calls) != 0 != (want == 200) {
			t.Errorf("%q: %d %s, asked %v; want %d", host, w.Code, w.Body, o.calls, want)
		}
	}
	for _, site := range []string{"cross-site", "same-site"} {
		o := newOperator(t)
		if w := answerTo(NewAdmin(AdminConfig{Operator: o}), adminRequest("GET", "/status?sessions=true", "", "Sec-Fetch-Site", site)); w.Code != 403 || len(o.calls) != 0 {
			t.Errorf("a page's look, %s: %d %s, asked %v", site, w.Code, w.Body, o.calls)
		}
	}
	for _, headers := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "http://evil.example"}, {"Origin", "null"}} {
		o := newOperator(t)
		if w := answerTo(NewAdmin(AdminConfig{Operator: o}), adminRequest("POST", "/users/ada/kick", "", headers...)); w.Code != 403 || len(o.calls) != 0 {
			t.Errorf("%v: %d %s, asked %v", headers, w.Code, w.Body, o.calls)
		}
	}
}

func TestAnAdminPanicCostsItsRequestOnlyAndOrdersAreLogged(t *testing.T) {
	var log bytes.Buffer
	a := NewAdmin(AdminConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))}) // no operator at all
	if w := answerTo(a, adminRequest("GET", "/status", "")); w.Code != 500 || !strings.Contains(w.Body.String(), "internal error") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	a.operator = newOperator(t)
	answerTo(a, adminRequest("POST", "/users/a%0Ab/kick", "", "X-Actor", "eve@desk"))
	for _, want := range []string{"ended in a panic", `path="/api/v1/users/a\nb/kick"`, "actor=eve@desk", "status=200"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, log.String())
		}
	}
}

// TestTheClientIsAnOperator holds that nothing changes on the way to an operator who is far away.
func TestTheClientIsAnOperator(t *testing.T) {
	near := newOperator(t)
	server := httptest.NewServer(NewAdmin(AdminConfig{Operator: near, Writes: only("token")}))
	defer server.Close()
	c, err := NewClient(ClientConfig{URL: server.URL + "/", Token: "token"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, weight := t.Context(), 0
	for name, do := range map[string]func(Operator) (any, error){
		"status":        func(o Operator) (any, error) { return o.Status(ctx, false) },
		"with sessions": func(o Operator) (any, error) { return o.Status(ctx, true) },
		"move": func(o Operator) (any, error) {
			return o.Move(ctx, director.MoveOrder{User: "a/b", To: "b", Force: true, Actor: "zoë@x", Note: "ö"})
		},
		"pin":   func(o Operator) (any, error) { return o.Pin(ctx, "ada", true, "e", "n") },
		"unpin": func(o Operator) (any, error) { return o.Pin(ctx, "ada", false, "e", "n") },
		"kick":  func(o Operator) (any, error) { return o.Kick(ctx, "ada", "e", "n") },
		"state": func(o Operator) (any, error) {
			return o.Stand(ctx, director.StandOrder{Backend: "b", State: director.Off, Force: true, Actor: "e", Note: "n"})
		},
		"weight": func(o Operator) (any, error) {
			return o.Stand(ctx, director.StandOrder{Backend: "b", Weight: &weight, Actor: "e"})
		},
		"journal":         func(o Operator) (any, error) { return o.Journal(ctx, "", 0, 5) },
		"journal of user": func(o Operator) (any, error) { return o.Journal(ctx, "a&b", 9, 5) },
		"evacuate": func(o Operator) (any, error) {
			return o.Evacuate(ctx, "b/0", director.TaskOrder{Rate: 7, Paused: true, Actor: "e", Note: "n"})
		},
		"evacuate by a time": func(o Operator) (any, error) {
			return o.Evacuate(ctx, "b", director.TaskOrder{By: 90 * time.Minute, Actor: "e"})
		},
		"rebalance": func(o Operator) (any, error) {
			return o.Rebalance(ctx, director.TaskOrder{Slack: 0.25, Actor: "e", Note: "n"})
		},
		"rebalance by a time": func(o Operator) (any, error) {
			return o.Rebalance(ctx, director.TaskOrder{By: time.Hour, Paused: true, Actor: "e"})
		},
		"plan":              func(o Operator) (any, error) { return o.Plan(ctx, 0) },
		"cancel evacuation": func(o Operator) (any, error) { return nil, o.Cancel(ctx, director.Evacuate, "b/0", "e", "n") },
		"cancel rebalance":  func(o Operator) (any, error) { return nil, o.Cancel(ctx, director.Rebalance, "", "e", "") },
		"forget":            func(o Operator) (any, error) { return nil, o.ForgetReplica(ctx, "r/1", "e") },
	} {
		far, farErr := do(c)
		want, wantErr := do(near)
		if farErr != nil || wantErr != nil || !reflect.DeepEqual(far, want) {
			t.Errorf("%s: %+v, %v; want %+v, %v", name, far, farErr, want, wantErr)
		}
		if n := len(near.calls); n != 2 || near.calls[0] != near.calls[1] {
			t.Errorf("%s: asked %q", name, near.calls)
		}
		near.calls = nil
	}
	for _, user := range []string{"ada", "a/b", ".", "..", "../..", "a b", "%2F", "?#", "zoë", "a+b@example.org", "\x01"} {
		near.calls = nil
		report, err := c.UserOf(ctx, user)
		if err != nil || len(near.calls) != 1 || near.calls[0] != fmt.Sprintf("user %q", user) || report.User != strings.ToLower(user) {
			t.Errorf("%q: asked %q, %v", user, near.calls, err)
		}
	}
	near.err = &director.RefusedError{Message: "no way"}
	refused, ok := errors.AsType[*director.RefusedError](c.ForgetReplica(ctx, "r", "e"))
	if !ok || refused.NotFound || refused.Error() != "no way" {
		t.Errorf("%v", refused)
	}
	near.err = director.ErrUnavailable
	if _, err := c.Status(ctx, false); !errors.Is(err, director.ErrUnavailable) {
		t.Error(err)
	}
}

func TestTheClientSaysWhatIsWrong(t *testing.T) {
	for _, url := range []string{"", "127.0.0.1:8082", "ftp://x", "http://", "http://u:p@x", "http://x?y", "://"} {
		if _, err := NewClient(ClientConfig{URL: url}); err == nil || !strings.Contains(err.Error(), "write http://HOST:PORT") {
			t.Errorf("%q: %v", url, err)
		}
	}
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"another program":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "answers what is not of an admin API"},
		"an error of others": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "bad gateway", http.StatusBadGateway) }, "answers HTTP 502 Bad Gateway, and not as an admin API does"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://evil.example/", http.StatusTemporaryRedirect)
		}, "answers HTTP 307"},
		"half an answer": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "cannot be asked: EOF"},
	} {
		server := httptest.NewServer(tc.handler)
		c, err := NewClient(ClientConfig{URL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Status(t.Context(), false); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		server.Close()
		if _, err := c.Status(t.Context(), false); err == nil || !strings.Contains(err.Error(), "the admin API at "+server.URL+" cannot be asked: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAdminRequestsAreCounted(t *testing.T) {
	counted := map[string]int{}
	a := NewAdmin(AdminConfig{
		Operator: newOperator(t), Writes: only("token"),
		Counted: func(method, class string) {
			if !slices.Contains(AdminMethods, method) || !slices.Contains(AdminClasses, class) {
				t.Errorf("%s %s is of no closed set", method, class)
			}
			counted[method+" "+class]++
		},
	})
	bearer := []string{"Authorization", "Bearer token"}
	answerTo(a, adminRequest("GET", "/status", "", bearer...))
	answerTo(a, adminRequest("GET", "/status", "")) // nobody knows who
	answerTo(a, adminRequest("GET", "/nowhere", "", bearer...))
	answerTo(a, adminRequest("BREW", "/status", "", bearer...))
	answerTo(a, adminRequest("POST", "/users/ada/kick", "", bearer...))
	if want := map[string]int{"GET 2xx": 1, "GET 4xx": 2, "other 4xx": 1, "POST 2xx": 1}; !maps.Equal(counted, want) {
		t.Errorf("%v, want %v", counted, want)
	}
}
