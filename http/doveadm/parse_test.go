package doveadm

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	director "github.com/k-web-s/go-dovecot-director"
)

// FuzzParse holds that every answer is either refused or complete.
func FuzzParse(f *testing.F) {
	recordings, err := filepath.Glob("../../testdata/doveadm/*.json")
	if err != nil || len(recordings) == 0 {
		f.Fatal("no recordings", err)
	}
	for _, name := range recordings {
		content, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content, 1)
	}
	f.Add([]byte(`[["error",{"type":"exitCode", "exitCode":68},"0"],["doveadmResponse",[{"count":"0"}],"1"]]`), 2)
	f.Fuzz(func(t *testing.T, body []byte, commands int) {
		if v, err := parseVersion(body); (err == nil) != (v == v23 || v == v24) {
			t.Errorf("version %d, %v", v, err)
		}
		results, err := parse(body, commands)
		if err != nil {
			checkText(t, err)
			return
		}
		if len(results) != commands {
			t.Fatalf("%d results of %d commands", len(results), commands)
		}
		for _, r := range results {
			if (r.rows == nil) == (r.err == nil) {
				t.Errorf("neither rows nor an error, or both: %v", r)
			}
			if r.err != nil && (r.err.Type == "" || r.err.Error() == "") {
				t.Errorf("an error that says nothing: %v", r)
			}
			if r.err != nil {
				checkText(t, r.err)
			}
		}
	})
}

// checkText holds that an error can be shown: its text is short, and one line.
func checkText(t *testing.T, err error) {
	t.Helper()
	if text := err.Error(); text == "" || len(text) > 2000 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) {
		t.Errorf("error %.3000q", text)
	}
}

// answering is a connection that answers whatever is asked with the same, except for the list of commands, and notes the kicks.
type answering struct {
	status         string
	commands, body string
	kicks          []map[string]any
}

func (a *answering) RoundTrip(r *http.Request) (*http.Response, error) {
	text := a.body
	if r.Method == http.MethodGet {
		text = a.commands
	} else {
		var commands [][3]any
		if err := json.NewDecoder(r.Body).Decode(&commands); err != nil {
			return nil, err
		}
		for _, c := range commands {
			if parameters, _ := c[1].(map[string]any); c[0] == "proxyKick" || c[0] == "kick" {
				a.kicks = append(a.kicks, parameters)
			}
		}
	}
	return &http.Response{StatusCode: http.StatusOK, Status: a.status, Body: io.NopCloser(strings.NewReader(text)), Header: http.Header{}, Request: r}, nil
}

// FuzzAnswers holds for whatever a doveadm answers that sessions are those which it lists, that nobody is kicked but the user who is meant,
// and that errors can be shown.
func FuzzAnswers(f *testing.F) {
	recordings, err := filepath.Glob("../../testdata/doveadm/*.json")
	if err != nil || len(recordings) == 0 {
		f.Fatal("no recordings", err)
	}
	for _, name := range recordings {
		content, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, parameter := range []string{"user", "destHost"} {
			f.Add(string(content), `[{"command":"proxyKick","parameters":[{"name":"`+parameter+`"}]}]`, "ada@example.org")
		}
	}
	addr := netip.MustParseAddrPort("127.77.3.11:8080")
	backend := director.Backend{Name: "b", Addr: addr.Addr(), Ports: map[string]uint16{"doveadm": addr.Port()}}
	canonical := func(name string) (string, bool) { return strings.ToLower(name), name != "" }
	f.Fuzz(func(t *testing.T, body, commands, user string) {
		wire := &answering{status: "200 OK", body: body, commands: commands}
		c := New(Config{Key: "k", Proxies: func() []netip.AddrPort { return []netip.AddrPort{addr} }, Canonical: canonical, CaseOnly: true, Client: &http.Client{Transport: wire}})
		defer c.Close()
		sessions, err := c.Who(t.Context(), backend)
		if err != nil {
			checkText(t, err)
			if len(sessions) > 0 {
				t.Errorf("%v and %v", sessions, err)
			}
		}
		for _, s := range sessions {
			// Its text is in the answer, as it stands there or in escapes.
			if name, _ := json.Marshal(s.User); !strings.Contains(body, strings.Trim(string(name), `"`)) && !strings.Contains(body, "\\") && utf8.ValidString(body) && !strings.ContainsAny(s.User, "<>&\u2028\u2029") {
				t.Errorf("%q in %q", s.User, body)
			}
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel() // it does not wait between two kicks
		if _, err := c.Cut(ended, addr.Addr(), strings.ToLower(user)); err != nil {
			checkText(t, err)
		}
		s := server{"proxy", addr}
		if err := c.cut(ended, s, addr.Addr(), strings.ToLower(user)); err != nil {
			checkText(t, err)
		}
		for _, kick := range wire.kicks {
			names, _ := kick["user"].([]any)
			if names == nil {
				names, _ = kick["mask"].([]any)
			}
			if len(names) != 1 {
				t.Fatalf("kicked %v", kick)
			}
			name, _ := names[0].(string)
			if is, ok := canonical(name); !ok || is != strings.ToLower(user) || checkName(name) != nil {
				t.Errorf("kicked %q in place of %q", name, user)
			}
		}
	})
}

// FuzzName holds that names which Dovecot takes for more than one user are not sent, however they are written.
func FuzzName(f *testing.F) {
	for _, name := range []string{"ada@example.org", "*", "a?b", "10", "192.0.2.1/24", "::1", "[::1]/128", "0x7f.1", "0177.0.0.1 x", "1.2.3.4.5", "1e3", "fe80::1%eth0", "a\n", "\u202e"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		err := checkName(name)
		if err != nil {
			if !errors.Is(err, director.ErrPattern) {
				t.Errorf("%q: %v", name, err)
			}
			checkText(t, errors.New(strings.ReplaceAll(err.Error(), name, "")))
			return
		}
		addr, mask, _ := strings.Cut(name, "/")
		if ip := net.ParseIP(strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]")); ip != nil || name == "" || strings.ContainsAny(name, "*?\x00\r\n\t") || !utf8.ValidString(name) {
			t.Errorf("%q is sent, %s %s", name, ip, mask)
		}
	})
}
