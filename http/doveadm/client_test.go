package doveadm_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/http/doveadm"
)

const (
	ada = "ada@example.org"
	bob = "bob@example.org"
)

func TestWho(t *testing.T) {
	local := netip.MustParseAddr("127.0.0.1")
	for version, want := range map[string][]director.Session{
		"2.3": {{User: bob, Service: "imap", Client: local}, {User: ada, Service: "pop3", Client: local}, {User: ada, Service: "imap", Client: local}, {User: ada, Service: "imap", Client: local}},
		"2.4": {{User: bob, Service: "imap", Client: local}, {User: ada, Service: "imap", Client: local}, {User: ada, Service: "imap", Client: local}, {User: ada, Service: "pop3", Client: local}},
	} {
		t.Run(version, func(t *testing.T) {
			d := start(t, version)
			c := newClient(t, doveadm.Config{})
			if got, err := c.Who(t.Context(), backendAt(d.addr)); err != nil || len(got) != 0 {
				t.Errorf("nobody is there, and got %v, %v", got, err)
			}
			d.say("who", recorded(t, version+"-who"))
			if got, err := c.Who(t.Context(), backendAt(d.addr)); err != nil || !slices.Equal(got, want) {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
			d.wantRequests(t, `who {"separateConnections":true}`, `who {"separateConnections":true}`)
		})
	}
}

// TestWhoElse has sessions that Dovecot says less about, and such that go on to another server.
func TestWhoElse(t *testing.T) {
	d := start(t, "2.4")
	d.say("who", `[["doveadmResponse",[`+
		`{"username":"a","service":"lmtp","pid":"1","ip":"","dest_ip":""},`+
		`{"username":"b","service":"imap","pid":"1","ip":"::ffff:192.0.2.1","dest_ip":""},`+
		`{"username":"c","service":"imap-login","pid":"1","ip":"2001:db8::1","dest_ip":"192.0.2.9"},`+
		`{"username":"d","service":"imap","pid":"1","ip":"2001:db8::1","dest_ip":""}],"0"]]`)
	got, err := newClient(t, doveadm.Config{}).Who(t.Context(), backendAt(d.addr))
	want := []director.Session{
		{User: "a", Service: "lmtp"},
		{User: "b", Service: "imap", Client: netip.MustParseAddr("192.0.2.1")},
		{User: "d", Service: "imap", Client: netip.MustParseAddr("2001:db8::1")},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestFind(t *testing.T) {
	for _, version := range []string{"2.3", "2.4"} {
		t.Run(version, func(t *testing.T) {
			d := start(t, version)
			d.say("who", recorded(t, version+"-who"))
			find := func(c *doveadm.Client, user string, want int) {
				t.Helper()
				got, err := c.Find(t.Context(), backendAt(d.addr), user)
				if err != nil || len(got) != want || slices.ContainsFunc(got, func(s director.Session) bool { return s.User != ada }) {
					t.Errorf("%s: got %v, %v, want %d sessions", user, got, err, want)
				}
			}
			plain := newClient(t, doveadm.Config{})
			find(plain, ada, 3)
			find(plain, "ADA@example.org", 0) // masks do not look at the case, names do
			d.wantRequests(t, `who {"mask":["ada@example.org"],"separateConnections":true}`, `who {"mask":["ADA@example.org"],"separateConnections":true}`)
			named := newClient(t, doveadm.Config{Canonical: upper})
			find(named, "ADA", 3)
			find(named, ada, 0)
			find(named, "*", 0) // is not sent
			d.wantRequests(t, slices.Repeat([]string{`who {"separateConnections":true}`}, 3)...)
		})
	}
}

func TestKick(t *testing.T) {
	for _, version := range []string{"2.3", "2.4"} {
		t.Run(version, func(t *testing.T) {
			d := start(t, version) // nobody is there any more
			c := newClient(t, doveadm.Config{})
			if err := c.Kick(t.Context(), backendAt(d.addr), nil); err != nil {
				t.Error(err)
			}
			d.wantRequests(t)
			sessions := []director.Session{{User: "b x"}, {User: ada, Service: "imap"}, {User: "b x"}, {User: "-a"}, {User: ada, Service: "pop3"}}
			if err := c.Kick(t.Context(), backendAt(d.addr), sessions); err != nil {
				t.Error(err)
			}
			d.wantRequests(t, `kick {"mask":["-a"]}`, `kick {"mask":["ada@example.org"]}`, `kick {"mask":["b x"]}`)

			d.say("kick", `[["doveadmResponse",[{"result":"x"}],"0"]]`, `[["error",{"type":"exitCode", "exitCode":75},"0"]]`, `[["doveadmResponse",[{"count":"1"}],"0"]]`)
			err := c.Kick(t.Context(), backendAt(d.addr), sessions)
			wantError(t, err, director.ErrUnreachable, "backend-7", d.addr.String(), `"ada@example.org"`, "75")
			d.wantRequests(t, `kick {"mask":["-a"]}`, `kick {"mask":["ada@example.org"]}`, `kick {"mask":["b x"]}`)
		})
	}
}

func TestKickOfMany(t *testing.T) {
	d := start(t, "2.3")
	d.say("kick", `[["doveadmResponse",[{"result":"x"}],"0"]]`)
	var sessions []director.Session
	var want []string
	for i := range 120 {
		sessions = append(sessions, director.Session{User: fmt.Sprintf("u%03d", i)})
		want = append(want, fmt.Sprintf(`kick {"mask":["u%03d"]}`, i))
	}
	if err := newClient(t, doveadm.Config{}).Kick(t.Context(), backendAt(d.addr), sessions); err != nil {
		t.Error(err)
	}
	d.wantRequests(t, want...)
}

// TestPatterns holds which names are never sent. What inet_aton takes for an address is tried on real Dovecot as well.
func TestPatterns(t *testing.T) {
	d := start(t, "2.3")
	c := newClient(t, doveadm.Config{Proxies: at(d.addr)})
	for _, name := range []string{
		"", "*", "ad?@example.org", "*@example.org", "a\x00", "a\tb", "a\nb", "a\x7f", "a\u0085b", "\xff", "a\ufffd",
		"10", "4294967295", "99999999999", "10.1", "10.1.2", "10.1.2.3", "0x7f", "0X7F.1", "010.1", "10/8", "10.0.0.0/8", "10/", "10/x", "10 x", "10.1.2.3 @example.org",
		"::1", "[::1]", "[::1", "2001:db8::/32", "::ffff:1.2.3.4", "fe80::1%eth0", "[2001:db8::]/32",
	} {
		wantError(t, c.Kick(t.Context(), backendAt(d.addr), []director.Session{{User: ada}, {User: name}}), director.ErrPattern)
		d.wantRequests(t)
		d.say("who", nobody)
		if sessions, err := c.Find(t.Context(), backendAt(d.addr), name); len(sessions) > 0 || err != nil {
			t.Errorf("%q: %v, %v", name, sessions, err)
		}
		d.wantRequests(t, `who {"separateConnections":true}`)
	}
	for _, name := range []string{"10x", "x10", "10.1.2.3.4", "10.1.2.3@example.org", "10@example.org", "1.", ".1", "10..1", "0xg", "::x", "a/8", "a b", "-x", `a\b`, "ümlaut", "[x]", "face:b00k"} {
		if _, err := c.Find(t.Context(), backendAt(d.addr), name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestServers holds where a backend is asked.
func TestServers(t *testing.T) {
	d := start(t, "2.3")
	port, addr := d.addr.Port(), d.addr.Addr()
	for what, backend := range map[string]director.Backend{
		"no port":                   {Addr: addr},
		"doveadm":                   {Addr: addr, Ports: map[string]uint16{"doveadm": port}},
		"doveadm-http":              {Addr: addr, Ports: map[string]uint16{"doveadm-http": port}},
		"doveadm-http goes first":   {Addr: addr, Ports: map[string]uint16{"doveadm-http": port, "doveadm": 1}},
		"other ports are not meant": {Addr: addr, Ports: map[string]uint16{"imap": 1}},
	} {
		c := newClient(t, doveadm.Config{Port: 1})
		if backend.Ports["doveadm"] == 0 && backend.Ports["doveadm-http"] == 0 {
			c = newClient(t, doveadm.Config{Port: port})
		}
		if _, err := c.Who(t.Context(), backend); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	c := newClient(t, doveadm.Config{})
	for _, backend := range []director.Backend{{Name: "backend-7", Addr: addr}, {Name: "backend-7", Ports: map[string]uint16{"doveadm": 1}}} {
		_, err := c.Who(t.Context(), backend)
		wantError(t, err, director.ErrUnreachable, "backend-7", "doveadm-http")
		wantError(t, c.Kick(t.Context(), backend, []director.Session{{User: ada}}), director.ErrUnreachable, "backend-7")
	}
}

// TestFaults has servers that do not answer as they should. None of them may look like one without sessions.
func TestFaults(t *testing.T) {
	var followed atomic.Bool
	elsewhere := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		followed.Store(true)
		io.WriteString(w, `[["doveadmResponse",[],"0"]]`)
	}))
	text := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for what, fault := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"wrong key":     {status(401), "doveadm_api_key"},
		"not found":     {status(404), "404"},
		"bad request":   {status(400), "400"},
		"failing":       {status(503), "503"},
		"no content":    {status(204), "204"},
		"redirect":      {http.RedirectHandler("http://"+elsewhere.String(), http.StatusTemporaryRedirect).ServeHTTP, "307"},
		"empty":         {text(""), "JSON"},
		"text":          {text("It works!"), `"It works!"`},
		"half a list":   {text(`[["doveadmResponse",[{"username":"a"`), "JSON"},
		"more than one": {text(`[["doveadmResponse",[],"0"]] `), ""}, // blanks are fine
		"twice":         {text(`[["doveadmResponse",[],"0"]][]`), "not that of"},
		"half a body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `[["doveadmResponse",[],"0"]]`)
		}, "breaks off"},
		"closed":           {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		"null":             {text("null"), "0 answers"},
		"object":           {text("{}"), "not that of"},
		"no answer":        {text("[]"), "0 answers"},
		"two answers":      {text(`[["doveadmResponse",[],"0"],["doveadmResponse",[],"1"]]`), "2 answers"},
		"broken by 2.3":    {text(recorded(t, "2.3-who-broken")), "not that of"},
		"aggregated":       {text(recorded(t, "2.4-proxyList-aggregated")), "without ip"},
		"wrong tag":        {text(`[["doveadmResponse",[],"1"]]`), "tagged"},
		"no tag":           {text(`[["doveadmResponse",[]]]`), "2 parts"},
		"four parts":       {text(`[["doveadmResponse",[],"0",{}]]`), "4 parts"},
		"unknown kind":     {text(`[["doveadmRequest",[],"0"]]`), "doveadmRequest"},
		"list is null":     {text(`[["doveadmResponse",null,"0"]]`), "no list"},
		"list of numbers":  {text(`[["doveadmResponse",[1],"0"]]`), "not that of"},
		"list of nulls":    {text(`[["doveadmResponse",[null],"0"]]`), "without username"},
		"values not text":  {text(`[["doveadmResponse",[{"username":1}],"0"]]`), "not that of"},
		"odd session":      {text(`[["doveadmResponse",[{"username":"a\u001b\n","service":"imap"}],"0"]]`), `a\x1b\n`},
		"nameless session": {text(`[["doveadmResponse",[{"service":"imap","ip":""}],"0"]]`), "without username"},
		"unknown method":   {text(`[["error",{"type":"unknownMethod", "exitCode":0},"0"]]`), "unknownMethod"},
		"invalid request":  {text(`[["error",{"type":"invalidRequest", "exitCode":0},"0"]]`), "invalidRequest"},
		"exit code":        {text(`[["error",{"type":"exitCode", "exitCode":75},"0"]]`), "75"},
		"exit code 68":     {text(`[["error",{"type":"exitCode", "exitCode":68},"0"]]`), "68"}, // kick's alone
		"new error":        {text(`[["error",{"type":"moon", "exitCode":0},"0"]]`), "moon"},
		"nameless error":   {text(`[["error",{},"0"]]`), "no type"},
		"error is null":    {text(`[["error",null,"0"]]`), "no type"},
		"huge": {func(w http.ResponseWriter, _ *http.Request) {
			for blanks := make([]byte, 1<<20); ; {
				if _, err := w.Write(blanks); err != nil {
					return
				}
			}
		}, "64 MiB"},
	} {
		t.Run(what, func(t *testing.T) {
			addr := serve(t, fault.handler)
			got, err := newClient(t, doveadm.Config{}).Who(t.Context(), backendAt(addr))
			if fault.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, director.ErrUnreachable, "backend-7", addr.String(), fault.want)
			if len(got) > 0 {
				t.Errorf("got %v", got)
			}
			if err != nil && len(err.Error()) > 600 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
	if followed.Load() {
		t.Error("the redirect was followed")
	}
}

func TestNobodyListens(t *testing.T) {
	addr := start(t, "2.3").addr
	gone := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), addr.Port())
	_, err := newClient(t, doveadm.Config{}).Who(t.Context(), backendAt(gone))
	wantError(t, err, director.ErrUnreachable, "backend-7", gone.String(), "refused")
}

// hang starts a server that answers nobody, and tells when somebody asks.
func hang(t *testing.T) (addr netip.AddrPort, asked chan struct{}) {
	t.Helper()
	asked = make(chan struct{}, 100)
	end := make(chan struct{})
	addr = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-end:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(end) })
	return addr, asked
}

func TestSlow(t *testing.T) {
	addr, _ := hang(t)
	_, err := newClient(t, doveadm.Config{Timeout: 30 * time.Millisecond}).Who(t.Context(), backendAt(addr))
	wantError(t, err, director.ErrUnreachable, "30ms")
	wantError(t, err, context.DeadlineExceeded)
	c := newClient(t, doveadm.Config{Timeout: 30 * time.Millisecond, ListTimeout: 60 * time.Millisecond})
	_, err = c.Who(t.Context(), backendAt(addr))
	wantError(t, err, director.ErrUnreachable, "60ms")
	_, err = c.Find(t.Context(), backendAt(addr), "ada")
	wantError(t, err, director.ErrUnreachable, "30ms")
}

func TestContextEnds(t *testing.T) {
	addr, asked := hang(t)
	c := newClient(t, doveadm.Config{Parallel: 1, Proxies: at(addr)})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, do := range []func() error{
		func() error { _, err := c.Who(ctx, backendAt(addr)); return err },
		func() error { return c.Kick(ctx, backendAt(addr), []director.Session{{User: ada}}) },
		func() error { _, err := c.Cut(ctx, old23, ada); return err },
	} {
		wg.Go(func() {
			err := do()
			wantError(t, err, director.ErrUnreachable, addr.String())
			wantError(t, err, context.Canceled)
		})
	}
	<-asked // the others wait for their turn
	cancel()
	wg.Wait()
	if len(asked) > 0 {
		t.Error("two were under way at once")
	}
}

// TestParallel holds how many servers are asked at once, and that it is said why others are not.
func TestParallel(t *testing.T) {
	addr, asked := hang(t)
	c := newClient(t, doveadm.Config{Parallel: 3, Timeout: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { c.Who(ctx, backendAt(addr)) })
	}
	for range 3 {
		<-asked
	}
	select {
	case <-asked:
		t.Error("4 at once")
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	wg.Wait()

	// One slow server after the other.
	c = newClient(t, doveadm.Config{Parallel: 1, Timeout: 40 * time.Millisecond})
	var crowded atomic.Int64
	for range 10 {
		wg.Go(func() {
			_, err := c.Who(t.Context(), backendAt(addr))
			wantError(t, err, director.ErrUnreachable)
			if strings.Contains(err.Error(), "was not asked") {
				crowded.Add(1)
			}
		})
	}
	wg.Wait()
	if n := crowded.Load(); n < 5 || n > 9 {
		t.Errorf("%d of 10 were not asked", n)
	}
}

// wantError expects an error of that kind that says all texts.
func wantError(t *testing.T, err, kind error, texts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("got %v, want: %v", err, kind)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%v does not say %q", err, text)
		}
	}
}

// at is a list of proxies.
func at(addrs ...netip.AddrPort) func() []netip.AddrPort {
	return func() []netip.AddrPort { return addrs }
}

// TestTheKeyIsNotQuoted has other servers on doveadm's port, which tell what they were sent.
func TestTheKeyIsNotQuoted(t *testing.T) {
	const secret = "a-key-that-nobody-sees"
	for name, answer := range map[string]string{
		"in the status": "HTTP/1.1 500 %s\r\n\r\n", "in the body": "HTTP/1.1 200 OK\r\n\r\n%s", "in a tag": "HTTP/1.1 200 OK\r\n\r\n" + `[["doveadmResponse",[],"%s"]]`,
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				fmt.Fprintf(conn, answer, r.Header.Get("Authorization"))
			}))
			t.Cleanup(server.Close)
			_, err := newClient(t, doveadm.Config{Key: secret}).Who(t.Context(), backendAt(netip.MustParseAddrPort(server.Listener.Addr().String())))
			if err == nil || strings.Contains(err.Error(), base64.StdEncoding.EncodeToString([]byte(secret))) || !strings.Contains(err.Error(), "on this port?") {
				t.Errorf("the error is %v", err)
			}
		})
	}
}
