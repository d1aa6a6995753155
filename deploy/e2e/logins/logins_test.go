package logins_test

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
)

var (
	users   = flag.Int("users", 2000, "distinct users")
	clients = flag.Int("clients", 16, "mail programs that log in at once")
	turn    = flag.Duration("turn", 5*time.Second, "how long each peer has in each round")
)

// BenchmarkLogins compares this project with Dovecot 2.3's own Director, and both with a proxy that has nobody to ask.
func BenchmarkLogins(b *testing.B) {
	site := newSite(b)
	peers := site.peers(b)
	load := load{users: make([]string, *users), clients: *clients}
	for i := range load.users {
		load.users[i] = fmt.Sprintf("user-%d@example.org", i)
	}
	for _, p := range peers {
		// Mailboxes are made at the first login, mappings too; what is measured is the daily work.
		if err := load.once(b.Context(), p.At(dovecot.DefaultPorts.IMAP)); err != nil {
			b.Fatalf("first logins through %s: %v", p.title, err)
		}
	}
	site.wantMappings(b, len(load.users))

	first := 0
	for b.Loop() {
		for i := range peers {
			p := peers[(first+i)%len(peers)]
			if err := p.turn(b.Context(), &load, *turn); err != nil {
				b.Fatalf("%s: %v", p.title, err)
			}
		}
		first++ // nobody always comes after the same neighbour
	}

	b.ReportMetric(0, "ns/op") // a round's length says nothing
	for _, p := range peers {
		b.ReportMetric(p.median(measured.rate), p.unit+"-logins/s")
	}
	fmt.Fprint(b.Output(), table(peers))
	for _, s := range site.servers {
		for _, line := range s.Crashes() {
			b.Errorf("%s: crash: %s", s.Name, line)
		}
	}
}
