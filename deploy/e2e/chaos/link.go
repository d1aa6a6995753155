package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Link is the network between one director and PostgreSQL: a Toxiproxy in this process.
type Link struct {
	proxy *toxiproxy.Proxy
	addr  string // the proxy writes its own anew whenever it starts
}

func init() { zerolog.SetGlobalLevel(zerolog.Disabled) } // toxics do not ask whether anybody wants to know

// newLink makes a link to an address until the test ends.
func newLink(tb testing.TB, name, to string) *Link {
	tb.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, name, "127.0.0.1:0", to)
	if err := proxy.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(proxy.Stop)
	return &Link{proxy, proxy.Listen}
}

// Addr is where the director connects to.
func (l *Link) Addr() string { return l.addr }

// Point makes it lead to another address, as a Service does whose endpoint changes. Connections end.
func (l *Link) Point(tb testing.TB, to string) {
	tb.Helper()
	l.proxy.Stop()
	l.proxy.Upstream = to
	if err := l.proxy.Start(); err != nil {
		tb.Fatal(err)
	}
}

// Cut ends all connections and refuses new ones, until Restore.
func (l *Link) Cut() { l.proxy.Stop() }

// Restore undoes Cut, and takes all toxics away.
func (l *Link) Restore(tb testing.TB) {
	tb.Helper()
	l.proxy.Toxics.ResetToxics(context.Background())
	if err := l.proxy.Start(); err != nil && err != toxiproxy.ErrProxyAlreadyStarted {
		tb.Fatal(err)
	}
}

// Poison adds one of Toxiproxy's toxics (latency, bandwidth, timeout, reset_peer, ...) with its attributes, to what comes from the
// server ("downstream") or goes there ("upstream").
func (l *Link) Poison(tb testing.TB, toxic, stream string, attributes map[string]any) {
	tb.Helper()
	text, err := json.Marshal(map[string]any{"type": toxic, "stream": stream, "attributes": attributes})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := l.proxy.Toxics.AddToxicJson(bytes.NewReader(text)); err != nil {
		tb.Fatal(err)
	}
}
