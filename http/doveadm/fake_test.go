package doveadm_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/http/doveadm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The recordings name one backend per version.
var (
	old23 = netip.MustParseAddr("127.77.3.11")
	old24 = netip.MustParseAddr("127.77.3.12")
)

// dovecot is a stand-in for doveadm. Each command is answered with the first of its answers that is left, the last one for
// ever.
type dovecot struct {
	addr netip.AddrPort

	mu       sync.Mutex
	answers  map[string][]string
	requests []string
}

// commands is the name under which the list of commands is kept.
const commands = "GET"

// start starts a stand-in that answers as a server of that version does to which nobody is connected.
func start(t testing.TB, version string) *dovecot {
	t.Helper()
	d := &dovecot{}
	d.be(t, version)
	d.addr = serve(t, d)
	return d
}

// serve returns the address of a server that runs until the test ends.
func serve(t testing.TB, handler http.Handler) netip.AddrPort {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return netip.MustParseAddrPort(server.Listener.Addr().String())
}

// be makes the stand-in one of that version, as if there had been an upgrade.
func (d *dovecot) be(t testing.TB, version string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	nobody := `[["doveadmResponse",[],"0"]]`
	d.answers = map[string][]string{
		commands: {recorded(t, version+"-commands")},
		"who":    {nobody}, "proxyList": {nobody}, "proxyKick": {`[["doveadmResponse",[{"count":"1"}],"0"]]`},
		"kick": {`[["error",{"type":"exitCode", "exitCode":68},"0"]]`},
	}
	if version == "2.4" {
		d.answers["kick"] = []string{`[["doveadmResponse",[{"count":"0"}],"0"]]`}
	}
}

// say sets the answers to a command.
func (d *dovecot) say(command string, answers ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers[command] = answers
}

func (d *dovecot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.Header.Get("Authorization") != "X-Dovecot-API cmlna2V5" || r.URL.Path != "/doveadm/v1" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.Method == http.MethodGet {
		d.requests = append(d.requests, commands)
		io.WriteString(w, d.next(commands))
		return
	}
	var all [][3]any
	if err := json.NewDecoder(r.Body).Decode(&all); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var answers []string
	for _, c := range all {
		parameters, _ := json.Marshal(c[1])
		d.requests = append(d.requests, fmt.Sprintf("%s %s", c[0], parameters))
		answer := strings.Replace(d.next(c[0].(string)), `"0"]]`, fmt.Sprintf("%q]]", c[2]), 1)
		if len(all) > 1 {
			answer = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(answer), "["), "]")
		}
		answers = append(answers, answer)
	}
	if len(all) > 1 {
		io.WriteString(w, "["+strings.Join(answers, ",")+"]")
		return
	}
	io.WriteString(w, answers[0])
}

func (d *dovecot) next(command string) string {
	left := d.answers[command]
	if len(left) == 0 {
		return `[["error",{"type":"unknownMethod", "exitCode":0},"0"]]`
	}
	if len(left) > 1 {
		d.answers[command] = left[1:]
	}
	return left[0]
}

// wantRequests expects these since the last time, each a command and its parameters.
func (d *dovecot) wantRequests(t *testing.T, want ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.requests, want) {
		t.Errorf("requests\n%s\nwant\n%s", strings.Join(d.requests, "\n"), strings.Join(want, "\n"))
	}
	d.requests = nil
}

// recorded is an answer of a real server.
func recorded(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile("../../testdata/doveadm/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// newClient returns a client with the right key that is closed when the test ends.
func newClient(t testing.TB, config doveadm.Config) *doveadm.Client {
	t.Helper()
	if config.Key == "" {
		config.Key = "rigkey"
	}
	if config.Timeout == 0 {
		config.Timeout = 20 * time.Second // a busy machine is no fault
	}
	c := doveadm.New(config)
	t.Cleanup(c.Close)
	return c
}

// backendAt is a backend whose doveadm is at addr.
func backendAt(addr netip.AddrPort) director.Backend {
	return director.Backend{Name: "backend-7", Addr: addr.Addr(), Ports: map[string]uint16{"doveadm-http": addr.Port()}}
}

// upper makes canonical names that Dovecot does not use: in capitals, without the domain. Nobody has no canonical name.
func upper(name string) (string, bool) {
	name, _, _ = strings.Cut(name, "@")
	return strings.ToUpper(name), name != "nobody"
}
