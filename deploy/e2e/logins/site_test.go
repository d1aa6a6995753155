package logins_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// site is three backends, and everything that stands in front of them.
type site struct {
	net      dovecot.Net
	backends []*dovecot.Server
	servers  []*dovecot.Server // backends and proxies
	database string
}

// sparing keeps the backends' imap processes for the next login. A new one for each would cost more than all that is
// measured here.
const sparing = "service imap {\n  service_count = 0\n  client_limit = 1\n}"

func newSite(b *testing.B) *site {
	b.Helper()
	s := &site{net: dovecot.NewNet(b)}
	for i := range byte(3) {
		s.backends = append(s.backends, dovecot.StartBackend(b, dovecot.V23, fmt.Sprintf("b%d", i), s.net.Addr(10+i), dovecot.DefaultPorts, sparing))
	}
	s.servers = append(s.servers, s.backends...)
	s.database = pgtest.Start(b).Database(b)
	pgtest.Exec(b, s.database, "CREATE TABLE mailbox_username_backend (username varchar(255) PRIMARY KEY, backend varchar(255) NOT NULL, last_ts timestamptz NOT NULL)")
	return s
}

// peers starts all proxies.
func (s *site) peers(b *testing.B) []*peer {
	b.Helper()
	d := s.director(b)
	ours := dovecot.ProxyConfig{DirectorURL: d.URL()}
	peers := []*peer{
		{title: "2.3, nobody to ask", unit: "static-2.3", Server: s.proxy(b, dovecot.V23, 1, dovecot.ProxyConfig{Snippet: s.static23()})},
		{title: "2.3, Dovecot's Director", unit: "dovecot-2.3", Server: s.proxy(b, dovecot.V23, 2, dovecot.ProxyConfig{Snippet: s.director23(2)})},
		{title: "2.3, go-dovecot-director", unit: "ours-2.3", director: d, Server: s.proxy(b, dovecot.V23, 3, ours)},
		{title: "2.4, nobody to ask", unit: "static-2.4", Server: s.proxy(b, dovecot.V24, 4, dovecot.ProxyConfig{Snippet: s.static24()})},
		{title: "2.4, go-dovecot-director", unit: "ours-2.4", director: d, Server: s.proxy(b, dovecot.V24, 5, ours)},
	}
	for _, p := range peers {
		p.base, p.rival = peers[0], peers[1]
		if p.Version == dovecot.V24 {
			p.base = peers[3]
		}
	}
	return peers
}

// proxy starts one at host n of the network.
func (s *site) proxy(b *testing.B, v dovecot.Version, n byte, c dovecot.ProxyConfig) *dovecot.Server {
	b.Helper()
	p := dovecot.StartProxy(b, v, s.net.Addr(n), c)
	s.servers = append(s.servers, p)
	return p
}

// director starts this project's program as it is released.
func (s *site) director(b *testing.B) *program.Director {
	b.Helper()
	var text strings.Builder
	text.WriteString("apiVersion: v1\nkind: Endpoints\nmetadata:\n  name: dovecot-backend\nsubsets:\n- addresses:\n")
	for _, backend := range s.backends {
		fmt.Fprintf(&text, "  - ip: %s\n    targetRef:\n      kind: Pod\n      name: %s\n", backend.Addr, backend.Name)
	}
	path := filepath.Join(b.TempDir(), "endpoints.yaml")
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	return program.StartRelease(b, s.net.Addr(101), "--endpoints-file", path, "--database-url", s.database)
}

// wantMappings expects that the table has as many users, on all backends: this project's director was really asked.
func (s *site) wantMappings(b *testing.B, users int) {
	b.Helper()
	db, err := sql.Open("postgres", s.database)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	var rows, backends int
	if err := db.QueryRow("SELECT count(*), count(DISTINCT backend) FROM mailbox_username_backend").Scan(&rows, &backends); err != nil {
		b.Fatal(err)
	}
	if rows != users || backends != len(s.backends) {
		b.Fatalf("%d mappings to %d backends, want %d to %d", rows, backends, users, len(s.backends))
	}
}
