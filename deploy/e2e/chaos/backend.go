package chaos

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/history"
)

// doveadmPort is where backends are asked for sessions.
const doveadmPort = 8090

// instances is how many addresses a backend has, one after the other.
const instances = 200

// backend is a backend in truth. There is no Dovecot, only what moves ask of one: who is logged in. Nobody ever is.
type backend struct {
	name     string
	net      dovecot.Net // all its addresses, so that an address tells the backend
	pod      int         // from 1; the number of one in a cluster, where addresses have to look real and nobody is moved
	instance int
	now      listing
	doveadm  *httptest.Server
}

// addr is the address of the present instance.
func (b *backend) addr() netip.Addr {
	if b.pod > 0 {
		return netip.AddrFrom4([4]byte{203, 0, 113, byte(40*b.pod + b.instance%40)})
	}
	return b.net.Addr(byte(1 + b.instance%instances))
}

// become changes the state.
func (b *backend) become(tb testing.TB, e event) {
	if e.newAddress {
		b.instance++
	}
	b.now = listing{e.state, b.addr()}
	if e.state == history.Gone || e.newAddress {
		b.stop()
	}
	if e.state != history.Gone && b.doveadm == nil && b.pod == 0 {
		listener, err := net.Listen("tcp", netip.AddrPortFrom(b.addr(), doveadmPort).String())
		if err != nil {
			tb.Error(err)
			return
		}
		b.doveadm = httptest.NewUnstartedServer(http.HandlerFunc(nobody))
		b.doveadm.Listener.Close()
		b.doveadm.Listener = listener
		b.doveadm.Start()
	}
}

func (b *backend) stop() {
	if b.doveadm != nil {
		b.doveadm.Close()
		b.doveadm = nil
	}
}

// nobody answers each command of doveadm's HTTP API with an empty list.
func nobody(w http.ResponseWriter, r *http.Request) {
	var commands [][3]any
	if err := json.NewDecoder(r.Body).Decode(&commands); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answers := make([][3]any, len(commands))
	for i, c := range commands {
		answers[i] = [3]any{"doveadmResponse", []any{}, c[2]}
	}
	_ = json.NewEncoder(w).Encode(answers)
}

// directory knows which backend has which address, and since when.
type directory struct {
	mu    sync.Mutex
	names map[netip.Addr]string
	since map[netip.Addr]time.Duration
}

func (d *directory) add(addr netip.Addr, name string, at time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.since[addr]; !known {
		d.since[addr] = at
	}
	d.names[addr] = name
}

func (d *directory) name(addr netip.Addr) (name string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name, ok = d.names[addr]
	return name, ok
}

// newer reports whether the address was given to a backend after a moment.
func (d *directory) newer(addr netip.Addr, than time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.since[addr] > than
}
