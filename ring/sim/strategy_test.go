package sim

import (
	"os"
	"strconv"
	"strings"
	"testing"

	director "github.com/k-web-s/go-dovecot-director"
)

// TestDovecotsRing compares the model of Dovecot's Director with what a real one printed: its hashes of users, and where it put them.
func TestDovecotsRing(t *testing.T) {
	printed, err := os.ReadFile("../../testdata/mappings/doveadm-director-map.tsv")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{byName: map[string]int{"192.0.2.11": 0, "192.0.2.12": 1, "192.0.2.13": 2}, now: 1}
	var s director.Snapshot
	for name := range w.byName {
		s.Backends = append(s.Backends, director.Backend{Name: name, Weight: 1})
	}
	v := &vhosts{w: w}
	v.observe(s)
	compared := 0
	for line := range strings.Lines(string(printed)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t") // user, hash, address, expiry
		hash, err := strconv.ParseUint(fields[1], 10, 32)
		if err != nil || fields[0] == "<unknown>" {
			continue
		}
		w.users = []user{{name: fields[0]}}
		v.hosts, v.last = make([]int16, 1), make([]moment, 1)
		if got := hash32([]byte(strings.ToLower(fields[0]))); uint64(got) != hash {
			t.Errorf("%s hashes to %d, Dovecot says %d", fields[0], got, hash)
		}
		if got, _ := v.lookup(0, nil); got != w.byName[fields[2]] {
			t.Errorf("%s goes to backend %d, Dovecot says %s", fields[0], got, fields[2])
		}
		compared++
	}
	if compared < 8 {
		t.Errorf("%d users were compared", compared)
	}
	if got := hash32([]byte("testuser")); got != 1570531526 { // from Dovecot's own tests, src/lib-mail/test-mail-user-hash.c
		t.Errorf("testuser hashes to %d", got)
	}
}
