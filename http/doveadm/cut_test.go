package doveadm_test

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/http/doveadm"
)

const nobody = `[["doveadmResponse",[],"0"]]`

// asks are what a proxy of a version is asked, about ada.
var asks = map[string]struct {
	list, listAll, kick string
	backend             netip.Addr
}{
	"2.3": {`proxyList {}`, `proxyList {}`, `proxyKick {"user":["ada@example.org"]}`, old23},
	"2.4": {
		`proxyList {"mask":["ada@example.org"],"separateConnections":true}`, `proxyList {"separateConnections":true}`,
		`proxyKick {"destHost":"127.77.3.12","mask":["ada@example.org"]}`, old24,
	},
}

// wantCut expects that so many proxies confirm.
func wantCut(t *testing.T, c *doveadm.Client, backend netip.Addr, user string, want int) {
	t.Helper()
	if got, err := c.Cut(t.Context(), backend, user); got != want || err != nil {
		t.Errorf("%d proxies confirm, %v, want %d", got, err, want)
	}
}

func TestCut(t *testing.T) {
	for version, ask := range asks {
		t.Run(version, func(t *testing.T) {
			d := start(t, version)
			c := newClient(t, doveadm.Config{Proxies: at(d.addr)})
			d.say("proxyList", recorded(t, version+"-proxyList"), nobody)
			wantCut(t, c, ask.backend, ada, 1)
			d.wantRequests(t, commands, ask.list, ask.kick, ask.list)

			// The version is known now. Nobody is kicked who is not there, or has sessions to other backends.
			wantCut(t, c, ask.backend, ada, 1)
			d.wantRequests(t, ask.list)
			d.say("proxyList", recorded(t, version+"-proxyList"))
			wantCut(t, c, netip.MustParseAddr("127.77.3.99"), ada, 1)
			d.wantRequests(t, ask.list)

			// The addresses of dual-stack sockets are the same.
			d.say("proxyList", recorded(t, version+"-proxyList"), nobody)
			wantCut(t, c, netip.AddrFrom16(ask.backend.As16()), ada, 1)
			d.wantRequests(t, ask.list, ask.kick, ask.list)

			named := newClient(t, doveadm.Config{Proxies: at(d.addr), Canonical: upper})
			d.say("proxyList", recorded(t, version+"-proxyList"), nobody)
			wantCut(t, named, ask.backend, "ADA", 1)
			d.wantRequests(t, commands, ask.listAll, ask.kick, ask.listAll)
		})
	}
	c := newClient(t, doveadm.Config{})
	wantCut(t, c, old23, ada, 0)
}

// TestCutByAllNames has a user whom a proxy knows by two names, and another one by a name that cannot be sent.
func TestCutByAllNames(t *testing.T) {
	d := start(t, "2.4")
	c := newClient(t, doveadm.Config{Proxies: at(d.addr), Canonical: upper})
	list := `[["doveadmResponse",[{"username":"ada","dest_ip":"127.77.3.12"},{"username":"10","dest_ip":"127.77.3.12"},{"username":"ada@example.org","dest_ip":"127.77.3.12"}],"0"]]`
	d.say("proxyList", list, nobody)
	wantCut(t, c, old24, "ADA", 1)
	const listAll = `proxyList {"separateConnections":true}`
	d.wantRequests(t, commands, listAll, `proxyKick {"destHost":"127.77.3.12","mask":["ada"]}`, `proxyKick {"destHost":"127.77.3.12","mask":["ada@example.org"]}`, listAll)
	d.say("proxyList", list)
	n, err := c.Cut(t.Context(), old24, "10")
	wantError(t, err, director.ErrPattern, d.addr.String())
	if n != 0 || errors.Is(err, director.ErrUnreachable) {
		t.Errorf("%d proxies, %v", n, err)
	}
	d.wantRequests(t, listAll)
}

// TestCutIsNotBelieved has a proxy that counts a session as kicked and goes on with it, as 2.4.1 does by default.
func TestCutIsNotBelieved(t *testing.T) {
	d := start(t, "2.4")
	c := newClient(t, doveadm.Config{Proxies: at(d.addr)})
	list := recorded(t, "2.4-proxyList")
	d.say("proxyList", list, list, list, nobody)
	wantCut(t, c, old24, ada, 1)
	ask := asks["2.4"]
	d.wantRequests(t, commands, ask.list, ask.kick, ask.list, ask.kick, ask.list, ask.kick, ask.list)
	d.say("proxyList", list)
	n, err := c.Cut(t.Context(), old24, ada)
	if n != 0 || err == nil || errors.Is(err, director.ErrUnreachable) || !strings.Contains(err.Error(), d.addr.String()) || !strings.Contains(err.Error(), "restart_request_count") {
		t.Errorf("%d proxies, %v", n, err)
	}
}

// TestUpgrade has proxies replaced by others under the same address.
func TestUpgrade(t *testing.T) {
	invalid := `[["error",{"type":"invalidRequest", "exitCode":0},"0"]]`
	for _, change := range []struct{ from, to, list string }{
		{"2.3", "2.4", recorded(t, "2.4-proxyList-aggregated")}, // so does 2.4 answer to 2.3's question
		{"2.4", "2.3", invalid},
		{"2.3", "2.4", invalid},
		{"2.4", "2.3", `[["error",{"type":"unknownMethod", "exitCode":0},"0"]]`},
	} {
		before, after := asks[change.from], asks[change.to]
		d := start(t, change.from)
		c := newClient(t, doveadm.Config{Proxies: at(d.addr)})
		wantCut(t, c, before.backend, ada, 1)
		d.wantRequests(t, commands, before.list)
		d.be(t, change.to)
		d.say("proxyList", change.list, recorded(t, change.to+"-proxyList"), nobody)
		wantCut(t, c, after.backend, ada, 1)
		d.wantRequests(t, before.list, commands, after.list, after.kick, after.list)

		// A server that refuses what it has told is asked twice.
		d.say("proxyList", invalid)
		_, err := c.Cut(t.Context(), after.backend, ada)
		wantError(t, err, director.ErrUnreachable, d.addr.String(), "invalidRequest")
		d.wantRequests(t, after.list, commands, after.list)
		_, err = c.Cut(t.Context(), after.backend, ada)
		wantError(t, err, director.ErrUnreachable, d.addr.String(), "invalidRequest")
		d.wantRequests(t, commands, after.list)
	}
}

// TestVersions has lists of commands that say nothing about the version.
func TestVersions(t *testing.T) {
	for _, list := range []string{
		"", "null", "{}", "[]", "[1]", `[{"command":"proxyKick"}]`, `[{"command":"proxyKick","parameters":[]}]`,
		`[{"command":"kick","parameters":[{"name":"destHost","type":"string"}]}]`,
		`[{"command":"proxyKick","parameters":[{"name":"mask","type":"array"}]}]`,
	} {
		d := start(t, "2.4")
		d.say(commands, list)
		_, err := newClient(t, doveadm.Config{Proxies: at(d.addr)}).Cut(t.Context(), old24, ada)
		wantError(t, err, director.ErrUnreachable, d.addr.String(), "not that of")
		d.wantRequests(t, commands)
	}
}

// TestCutAtSomeProxies has all sorts of proxies at once.
func TestCutAtSomeProxies(t *testing.T) {
	first, second, third := start(t, "2.3"), start(t, "2.4"), start(t, "2.3")
	first.say("proxyList", recorded(t, "2.3-proxyList"), nobody)
	third.say("proxyKick", `[["error",{"type":"exitCode", "exitCode":75},"0"]]`)
	third.say("proxyList", recorded(t, "2.3-proxyList"))
	denied := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	gone := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), first.addr.Port())
	c := newClient(t, doveadm.Config{Proxies: at(first.addr, denied, second.addr, gone, third.addr), Parallel: 2})
	n, err := c.Cut(t.Context(), old23, ada)
	if n != 2 {
		t.Errorf("%d proxies confirm, want 2", n)
	}
	wantError(t, err, director.ErrUnreachable, denied.String(), "doveadm_api_key", gone.String(), "refused", third.addr.String(), "75")
	for _, good := range []netip.AddrPort{first.addr, second.addr} {
		if strings.Contains(err.Error(), good.String()) {
			t.Errorf("%v names a proxy that confirmed, %s", err, good)
		}
	}
}
