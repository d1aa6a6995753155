package http_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// resolver answers as a test wants.
type resolver func(context.Context, director.Request) (director.Answer, error)

func (r resolver) Resolve(ctx context.Context, q director.Request) (director.Answer, error) {
	return r(ctx, q)
}

var served = director.Answer{Decision: director.Decision{Verb: director.Serve, Reason: director.Mapped}, Addr: netip.MustParseAddr("192.0.2.12"), Port: 31143}

func always(a director.Answer) resolver {
	return func(context.Context, director.Request) (director.Answer, error) { return a, nil }
}

// start serves a handler on a free port and returns its address and how to stop it. Its limits are for machines that stand still at times.
func start(t *testing.T, handler http.Handler) (address string, stop func()) {
	t.Helper()
	return serve(t, directorhttp.NewServer(handler, nil, directorhttp.WithLimits(time.Minute, time.Minute)))
}

func serve(t *testing.T, s *directorhttp.Server) (address string, stop func()) {
	t.Helper()
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s.Addr(), stop
}

func startLookups(t *testing.T, r resolver) string {
	t.Helper()
	address, _ := start(t, directorhttp.NewLookups(r, nil))
	return address
}

// client keeps no connection beyond its test.
func client(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func post(t *testing.T, address, path, body string) (*http.Response, string) {
	t.Helper()
	r, err := client(t).Post("http://"+address+path, "", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	answer, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if r.Header.Get("Content-Type") != "application/json" || !json.Valid(answer) {
		t.Errorf("%s %s: content type %q, answer %q", path, body, r.Header.Get("Content-Type"), answer)
	}
	return r, string(answer)
}

func TestAnswers(t *testing.T) {
	with := func(addr string, port uint16) director.Answer {
		a := served
		a.Addr, a.Port = netip.MustParseAddr(addr), port
		return a
	}
	delayed := with("192.0.2.12", 0)
	delayed.NotBefore = time.Unix(1790000000, 1)
	other := func(verb director.Verb, retry time.Duration) director.Answer {
		return director.Answer{Decision: director.Decision{Verb: verb, RetryAfter: retry, Reason: `why "so"`}}
	}
	const why = `"attributes":"why \"so\""}`
	for name, tc := range map[string]struct {
		answer  director.Answer
		passdb  string
		userdb  string
		status  int
		retries string
	}{
		"a backend with a port":             {with("192.0.2.12", 31143), `{"code":1,"attributes":{"proxy":true,"nopassword":true,"host":"192.0.2.12","port":31143}}`, "", 200, ""},
		"a backend without":                 {with("192.0.2.12", 0), `{"code":1,"attributes":{"proxy":true,"nopassword":true,"host":"192.0.2.12"}}`, "", 200, ""},
		"a login that has to wait":          {delayed, `{"code":1,"attributes":{"proxy":true,"nopassword":true,"host":"192.0.2.12","delay_until":"1790000001"}}`, "", 200, ""},
		"IPv6":                              {with("2001:db8::1", 0), `{"code":1,"attributes":{"proxy":true,"nopassword":true,"host":"2001:db8::1"}}`, "", 200, ""},
		"IPv4 in IPv6 is told as IPv4":      {with("::ffff:192.0.2.1", 0), `{"code":1,"attributes":{"proxy":true,"nopassword":true,"host":"192.0.2.1"}}`, "", 200, ""},
		"a zone is left out":                {with("fe80::1%eth0", 0), `{"code":1,"attributes":{"proxy":true,"nopassword":true,"host":"fe80::1"}}`, "", 200, ""},
		"a hold is a temporary failure":     {other(director.Hold, 0), `{"code":-1,` + why, "", 200, ""},
		"an unknown user has two codes":     {other(director.Reject, 0), `{"code":-3,` + why, `{"code":-2,` + why, 200, ""},
		"unavailable is 503":                {other(director.Unavailable, 0), `{"code":-1,` + why, "", 503, ""},
		"with a word on when to come again": {other(director.Unavailable, 300*time.Millisecond), `{"code":-1,` + why, "", 503, "1"},
		"never a success without a host":    {director.Answer{}, `{"code":-1,"attributes":"internal error"}`, "", 500, ""},
	} {
		t.Run(name, func(t *testing.T) {
			address := startLookups(t, always(tc.answer))
			if tc.userdb == "" {
				tc.userdb = tc.passdb
			}
			for path, want := range map[string]string{"/auth_passdb_lookup": tc.passdb, "/auth_userdb_lookup": tc.userdb} {
				r, got := post(t, address, path, `{"user":"ada@example.org"}`)
				if got != want || r.StatusCode != tc.status || r.Header.Get("Retry-After") != tc.retries {
					t.Errorf("%s: %d %q %s, want %d %q %s", path, r.StatusCode, r.Header.Get("Retry-After"), got, tc.status, tc.retries, want)
				}
			}
		})
	}
}

func TestWhatIsAsked(t *testing.T) {
	asked := make(chan director.Request, 1)
	address := startLookups(t, func(_ context.Context, r director.Request) (director.Answer, error) {
		asked <- r
		return served, nil
	})
	for name, tc := range map[string]struct {
		body string
		want director.Request
	}{
		"the user alone":                             {`{"user":"ada"}`, director.Request{User: "ada"}},
		"with a service":                             {`{"user":"ada","service":"imap"}`, director.Request{User: "ada", Protocol: "imap"}},
		"with 2.4's name for it":                     {`{"user":"ada","protocol":"lmtp"}`, director.Request{User: "ada", Protocol: "lmtp"}},
		"the service counts, if both are there":      {`{"protocol":"x","service":"imap","user":"ada"}`, director.Request{User: "ada", Protocol: "imap"}},
		"an empty service is none":                   {`{"user":"ada","service":"","protocol":"pop3"}`, director.Request{User: "ada", Protocol: "pop3"}},
		"a service of another type is ignored":       {`{"user":"ada","service":{"a":[1]},"protocol":7}`, director.Request{User: "ada"}},
		"with a session, for the log":                {`{"session":"Kfx1","user":"ada"}`, director.Request{User: "ada", Session: "Kfx1"}},
		"a session of another type is ignored":       {`{"session":["é"],"user":"ada"}`, director.Request{User: "ada"}},
		"fields that are not known are ignored":      {`{"user":"ada","rip":"192.0.2.1","x":{"user":"b"},"y":[null,1e9]}`, director.Request{User: "ada"}},
		"fields in another case are others":          {`{"user":"ada","USER":"eve","Service":"imap"}`, director.Request{User: "ada"}},
		"white space around it":                      {" \n{\"user\" : \"ada\"}\r\n ", director.Request{User: "ada"}},
		"escapes are undone":                         {`{"user":"\u0061d\u00e4\ud83d\ude00"}`, director.Request{User: "adä😀"}},
		"a replacement character is a character":     {`{"user":"a\ufffdb` + "\uFFFD" + `"}`, director.Request{User: "a\uFFFDb\uFFFD"}},
		"an escaped backslash before ufffd is none":  {`{"user":"a\\ufffd"}`, director.Request{User: `a\ufffd`}},
		"the empty name is for the domain to refuse": {`{"user":""}`, director.Request{}},
	} {
		t.Run(name, func(t *testing.T) {
			for path, readOnly := range map[string]bool{"/auth_passdb_lookup": false, "/auth_userdb_lookup": true} {
				if r, body := post(t, address, path, tc.body); r.StatusCode != 200 {
					t.Fatalf("%d %s", r.StatusCode, body)
				}
				want := tc.want
				want.ReadOnly = readOnly
				if got := <-asked; got != want {
					t.Errorf("asked %+v, want %+v", got, want)
				}
			}
		})
	}
}

// TestRecordedRequests holds that the bodies that proxies send are understood, as the shipped script makes them.
func TestRecordedRequests(t *testing.T) {
	files, err := filepath.Glob("../testdata/requests/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded requests: %v", err)
	}
	asked := make(chan director.Request, 1)
	address := startLookups(t, func(_ context.Context, r director.Request) (director.Answer, error) {
		asked <- r
		return served, nil
	})
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if r, answer := post(t, address, "/auth_passdb_lookup", string(body)); r.StatusCode != 200 {
			t.Fatalf("%s: %d %s", file, r.StatusCode, answer)
		}
		if got := <-asked; got.User != "ada@example.org" || got.Protocol == "" {
			t.Errorf("%s: asked %+v", file, got)
		}
	}
}

func TestRequestsThatMakeNoSense(t *testing.T) {
	address := startLookups(t, func(_ context.Context, r director.Request) (director.Answer, error) {
		if r.User == "refused" {
			return director.Answer{}, &director.InvalidUserError{Kind: director.UserNUL, Detail: "the name holds a NUL character"}
		}
		if r.User == "broken" {
			return director.Answer{}, errors.New("secret internals")
		}
		if r.User == "panic" {
			panic("on purpose")
		}
		t.Errorf("asked for %q", r.User)
		return served, nil
	})
	for name, tc := range map[string]struct {
		method, path, body string
		status             int
		want               string
	}{
		"no body":                      {"POST", "/auth_passdb_lookup", "", 400, "ends too early"},
		"half a body":                  {"POST", "/auth_passdb_lookup", `{"user":"ad`, 400, "ends too early"},
		"no JSON":                      {"POST", "/auth_passdb_lookup", `user=ada`, 400, "not JSON"},
		"a list":                       {"POST", "/auth_passdb_lookup", `["ada"]`, 400, "not a JSON object"},
		"null":                         {"POST", "/auth_passdb_lookup", `null`, 400, "user is missing"},
		"two users":                    {"POST", "/auth_passdb_lookup", `{"user":"ada","user":"eve"}`, 400, "user is there more than once"},
		"two users, one in escapes":    {"POST", "/auth_passdb_lookup", `{"user":"ada","us\u0065r":"eve"}`, 400, "user is there more than once"},
		"no user":                      {"POST", "/auth_passdb_lookup", `{"username":"ada"}`, 400, "user is missing"},
		"a user that is null":          {"POST", "/auth_passdb_lookup", `{"user":null}`, 400, "not a string"},
		"a user that is a number":      {"POST", "/auth_userdb_lookup", `{"user":7}`, 400, "not a string"},
		"two objects":                  {"POST", "/auth_passdb_lookup", `{"user":"ada"}{}`, 400, "something follows"},
		"something behind":             {"POST", "/auth_passdb_lookup", `{"user":"ada"} x`, 400, "something follows"},
		"broken UTF-8":                 {"POST", "/auth_passdb_lookup", "{\"user\":\"ad\xff\"}", 400, "UTF-8"},
		"half a surrogate pair":        {"POST", "/auth_passdb_lookup", `{"user":"a\ud800"}`, 400, "not a valid one"},
		"a surrogate the wrong way":    {"POST", "/auth_passdb_lookup", `{"user":"a\ude00\ud83d"}`, 400, "not a valid one"},
		"a name that is refused":       {"POST", "/auth_passdb_lookup", `{"user":"refused"}`, 400, "NUL"},
		"a fault of ours":              {"POST", "/auth_passdb_lookup", `{"user":"broken"}`, 500, "internal error"},
		"a panic of ours":              {"POST", "/auth_passdb_lookup", `{"user":"panic"}`, 500, "internal error"},
		"too long":                     {"POST", "/auth_passdb_lookup", `{"user":"` + strings.Repeat("x", 64<<10) + `"}`, 413, "64 KiB"},
		"deeply nested":                {"POST", "/auth_passdb_lookup", strings.Repeat("[", 30_000), 400, "not JSON"},
		"GET":                          {"GET", "/auth_passdb_lookup", "", 405, "POST"},
		"PUT":                          {"PUT", "/auth_userdb_lookup", `{"user":"ada"}`, 405, "POST"},
		"another path":                 {"POST", "/", `{"user":"ada"}`, 404, "no such path"},
		"a path with something behind": {"POST", "/auth_passdb_lookup/x", `{"user":"ada"}`, 404, "no such path"},
		"the operations API's path":    {"GET", "/healthz", "", 404, "no such path"},
	} {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), tc.method, "http://"+address+tc.path, strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			r, err := client(t).Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			var answer struct {
				Code       int
				Attributes string
			}
			if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
				t.Fatal(err)
			}
			if r.StatusCode != tc.status || answer.Code != -1 || !strings.Contains(answer.Attributes, tc.want) || strings.Contains(answer.Attributes, "secret") {
				t.Errorf("%d %+v, want %d and %q", r.StatusCode, answer, tc.status, tc.want)
			}
			if tc.status == 405 && r.Header.Get("Allow") != "POST" {
				t.Errorf("Allow: %q", r.Header.Get("Allow"))
			}
		})
	}
}

func TestABodyOfUnknownLengthIsLimitedToo(t *testing.T) {
	address := startLookups(t, always(served))
	r, err := client(t).Post("http://"+address+"/auth_passdb_lookup", "", io.MultiReader(strings.NewReader(`{"user":"`), strings.NewReader(strings.Repeat("x", 1<<20))))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != 413 {
		t.Errorf("status %d", r.StatusCode)
	}
}

func TestAClientThatLeavesEndsTheLookup(t *testing.T) {
	entered, left := make(chan struct{}), make(chan error, 1)
	address := startLookups(t, func(ctx context.Context, _ director.Request) (director.Answer, error) {
		close(entered)
		<-ctx.Done()
		left <- ctx.Err()
		return served, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, "POST", "http://"+address+"/auth_passdb_lookup", strings.NewReader(`{"user":"ada"}`))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-entered
		cancel()
	}()
	if _, err := client(t).Do(request); err == nil {
		t.Error("an answer")
	}
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestSlowClientsAreCutOff speaks too slowly, in several ways. Nothing here waits for longer than the server does.
func TestSlowClientsAreCutOff(t *testing.T) {
	address, _ := serve(t, directorhttp.NewServer(directorhttp.NewLookups(always(served), nil), nil))
	for name, text := range map[string]string{
		"half a header": "POST /auth_passdb_lookup HTTP/1.1\r\nHost: x\r\n",
		"half a body":   "POST /auth_passdb_lookup HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, conn); err != nil {
				t.Errorf("the server did not close: %v", err)
			}
		})
	}
}

func TestConnectionsAreKeptAndThenClosed(t *testing.T) {
	address := startLookups(t, always(served))
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	const request = "POST /auth_passdb_lookup HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"user\":\"ada\"}"
	for n := 1; n <= 10_000; n++ {
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatalf("request %d: %v", n, err)
		}
		r, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatalf("request %d: %v", n, err)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Fatal(err)
		}
		if r.Close != (n == 10_000) {
			t.Fatalf("request %d: closed %v", n, r.Close)
		}
	}
	if _, err := reader.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: %v", err)
	}
}

func TestShutdownFinishesWhatIsInFlight(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	address, stop := start(t, directorhttp.NewLookups(resolver(func(context.Context, director.Request) (director.Answer, error) {
		close(entered)
		<-release
		return served, nil
	}), nil))
	idle, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if _, err := io.WriteString(idle, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil { // one that was never used counts as busy for 5 s
		t.Fatal(err)
	}
	answers := bufio.NewReader(idle)
	if r, err := http.ReadResponse(answers, nil); err != nil || r.StatusCode != http.StatusNotFound {
		t.Fatal(r, err)
	} else if _, err := io.Copy(io.Discard, r.Body); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() {
		<-entered
		go func() {
			defer close(stopped)
			stop()
		}()
		for { // until nobody listens any more
			c, err := net.Dial("tcp", address)
			if err != nil {
				break
			}
			c.Close()
		}
		close(release)
	}()
	r, body := post(t, address, "/auth_passdb_lookup", `{"user":"ada"}`)
	if r.StatusCode != 200 || !strings.Contains(body, "192.0.2.12") || !r.Close {
		t.Errorf("%d %s, close %v", r.StatusCode, body, r.Close)
	}
	<-stopped
	if _, err := answers.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection at shutdown: %v", err)
	}
}

func TestStartAndStopManyTimes(t *testing.T) {
	for range 50 {
		_, stop := start(t, directorhttp.NewLookups(always(served), nil))
		stop()
	}
}

func TestATakenPortIsReportedAtOnce(t *testing.T) {
	address := startLookups(t, always(served))
	if err := directorhttp.NewServer(nil, nil).Listen(address); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error %v", err)
	}
}

func TestFaultsAreLoggedOncePerKind(t *testing.T) {
	var log strings.Builder
	kinds := []string{director.UserNUL, director.UserTooLong}
	n := 0
	lookups := directorhttp.NewLookups(resolver(func(context.Context, director.Request) (director.Answer, error) {
		n++
		return director.Answer{}, &director.InvalidUserError{Kind: kinds[n%2], Detail: fmt.Sprintf("number %d", n)}
	}), slog.New(slog.NewTextHandler(&log, nil)))
	address, stop := start(t, lookups)
	for range 20 {
		post(t, address, "/auth_passdb_lookup", `{"user":"x"}`)
	}
	stop()
	if got := strings.Count(log.String(), "\n"); got != len(kinds) {
		t.Errorf("%d lines:\n%s", got, log.String())
	}
}

// FuzzLookup holds for any body, and for whatever the domain says to it, that the user who was asked for is the one in the body, and
// that the answer is one that both versions of Dovecot survive.
func FuzzLookup(f *testing.F) {
	for _, seed := range []string{`{"user":"ada"}`, `{"user":"\ud800"}`, `{"user":"a\\ufffd","service":1}`, "{\"user\":\"\xff\"}", `[]`, `{"user":"x"}x`, ``} {
		f.Add(seed, 0, "b-0", "192.0.2.1", 143, int64(0))
	}
	template, err := director.ParseTemplate("%Lu")
	if err != nil {
		f.Fatal(err)
	}
	users := director.UserFormat{Name: template, Hash: template}
	verbs := []director.Verb{director.Serve, director.Hold, director.Reject, director.Unavailable, director.Assign}
	f.Fuzz(func(t *testing.T, body string, verb int, backend, addr string, port int, at int64) {
		var asked *director.Request
		answer := director.Answer{Decision: director.Decision{Verb: verbs[uint(verb)%uint(len(verbs))], Reason: director.InGrace, Backend: backend, RetryAfter: time.Duration(at)}, Port: uint16(port)}
		answer.Addr, _ = netip.ParseAddr(addr)
		if at != 0 {
			answer.NotBefore = time.Unix(at%1e11, 1)
		}
		lookups := directorhttp.NewLookups(resolver(func(_ context.Context, r director.Request) (director.Answer, error) {
			asked = &r
			_, err := users.Canonical(r.User)
			return answer, err
		}), nil)
		for _, path := range []string{"/auth_passdb_lookup", "/auth_userdb_lookup"} {
			asked = nil
			w := recorder{header: http.Header{}}
			request, _ := http.NewRequestWithContext(t.Context(), "POST", path, strings.NewReader(body))
			lookups.ServeHTTP(&w, request)
			code := checkAnswer(t, path, w.status, w.body.String())
			if accepted := asked != nil && w.status == 200; accepted && (code == 1) != (answer.Verb == director.Serve) || !accepted && code == 1 {
				t.Errorf("%q, %+v: %d %s", body, answer, w.status, w.body.String())
			}
			// The oracle: a body that encoding/json takes as an object with a string user, and gives back the same way.
			var want struct{ User *string }
			var fields map[string]json.RawMessage
			ok := json.Unmarshal([]byte(body), &fields) == nil && json.Unmarshal(fields["user"], &want.User) == nil && want.User != nil
			if asked != nil && (!ok || asked.User != *want.User) {
				t.Errorf("%q: asked %+v", body, asked)
			}
			if asked == nil && ok && !strings.Contains(*want.User, "\uFFFD") && w.status != 413 && isUTF8(body) && !strings.Contains(w.body.String(), "more than once") {
				t.Errorf("%q: refused with %d %s", body, w.status, w.body.String())
			}
		}
	})
}

// checkAnswer holds that an answer is one of the contract's, and returns its code.
func checkAnswer(t *testing.T, path string, status int, body string) int {
	t.Helper()
	var answer struct {
		Code       int             `json:"code"`
		Attributes json.RawMessage `json:"attributes"`
	}
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&answer); err != nil || decoder.More() {
		t.Fatalf("%s: %d %q: %v", path, status, body, err)
	}
	codes := map[string][]int{"/auth_passdb_lookup": {1, -1, -3}, "/auth_userdb_lookup": {1, -1, -2}}[path]
	if codes == nil {
		codes = []int{-1} // there is no such path
	}
	if !slices.Contains(codes, answer.Code) || !slices.Contains([]int{200, 400, 404, 405, 413, 500, 503}, status) || status != 200 && answer.Code != -1 {
		t.Errorf("%s: %d %s", path, status, body)
	}
	if answer.Code != 1 {
		var reason string
		if err := json.Unmarshal(answer.Attributes, &reason); err != nil || reason == "" {
			t.Errorf("%s: %d %s: a reason is missing: %v", path, status, body, err)
		}
		return answer.Code
	}
	var attributes map[string]any
	if err := json.Unmarshal(answer.Attributes, &attributes); err != nil {
		t.Fatalf("%s: %s: %v", path, body, err)
	}
	host, _ := attributes["host"].(string)
	if addr, err := netip.ParseAddr(host); err != nil || addr.Zone() != "" || addr.Is4In6() || attributes["proxy"] != true || attributes["nopassword"] != true {
		t.Errorf("%s: %s", path, body)
	}
	for name, value := range attributes {
		port, number := value.(float64)
		text, isText := value.(string)
		switch {
		case name == "proxy", name == "nopassword", name == "host":
		case name == "port" && number && port >= 1 && port <= 65535 && port == float64(int(port)):
		case name == "delay_until" && isText && strings.Trim(text, "-0123456789") == "":
		default:
			t.Errorf("%s: %s: %s", path, body, name)
		}
	}
	return answer.Code
}

func isUTF8(s string) bool { return strings.ToValidUTF8(s, "") == s }

type recorder struct {
	header http.Header
	status int
	body   strings.Builder
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

// While lookups are not answered as fast as they come, those beyond are refused at once, without being asked to wait.
func TestOverload(t *testing.T) {
	hold := make(chan struct{})
	var log strings.Builder
	faults := make(chan string, 1)
	handler := directorhttp.NewLookups(resolver(func(context.Context, director.Request) (director.Answer, error) {
		<-hold
		return served, nil
	}), slog.New(slog.NewTextHandler(&log, nil)), directorhttp.WithMeter(faultMeter(faults)))
	address, stop := start(t, handler)
	type answer struct {
		status int
		wait   []string
		body   string
	}
	answers := make(chan answer)
	asking, asked := client(t), 0
	ask := func() {
		asked++
		go func() {
			r, err := asking.Post("http://"+address+"/auth_passdb_lookup", "", strings.NewReader(`{"user":"ada"}`))
			if err != nil {
				t.Error(err)
				answers <- answer{}
				return
			}
			defer r.Body.Close()
			body, _ := io.ReadAll(r.Body)
			answers <- answer{r.StatusCode, r.Header["Retry-After"], string(body)}
		}()
	}
	var refused answer
	for refused.status == 0 {
		ask()
		select {
		case refused = <-answers:
			asked--
		case <-time.After(time.Millisecond):
		}
	}
	if refused.status != http.StatusServiceUnavailable || refused.wait != nil || !strings.HasPrefix(refused.body, `{"code":-1,"attributes":"overload: `) {
		t.Errorf("%+v", refused)
	}
	if fault := <-faults; fault != "overload" {
		t.Errorf("it counts as %s", fault)
	}
	close(hold)
	for range asked {
		if a := <-answers; a.status != http.StatusOK && a.status != http.StatusServiceUnavailable {
			t.Errorf("%+v", a)
		}
	}
	if r, body := post(t, address, "/auth_passdb_lookup", `{"user":"ada"}`); r.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %d %s", r.StatusCode, body)
	}
	asking.CloseIdleConnections() // those that were never used count as busy for 5 s
	stop()
	if lines := strings.Count(log.String(), "DovecotDirectorOverloaded"); lines != 1 {
		t.Errorf("%d lines are logged", lines)
	}
}

// faultMeter tells the first fault.
type faultMeter chan string

func (faultMeter) Resolved(bool, director.Verb, director.Reason, time.Duration) {}

func (m faultMeter) Failed(_ bool, fault string, _ time.Duration) {
	select {
	case m <- fault:
	default:
	}
}
