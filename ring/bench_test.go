package ring_test

import (
	"testing"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
	director "github.com/k-web-s/go-dovecot-director"
)

const address = "barbara.12345@example.org"

// The peers of BenchmarkPropose: hashing the key alone is the limit, the library's LocateKey is the alternative.
func BenchmarkHashAlone(b *testing.B) {
	var sink uint64
	for b.Loop() {
		sink += xxhash.Sum64String(address)
	}
	_ = sink
}

func BenchmarkPropose(b *testing.B) {
	var table director.Ring = build(pods(10))
	for b.Loop() {
		table.Propose(address)
	}
}

func BenchmarkLocateKey(b *testing.B) {
	members := make([]consistent.Member, 10)
	for i, m := range pods(10) {
		members[i] = name(m.Name)
	}
	c := consistent.New(members, consistent.Config{Hasher: sum{}, PartitionCount: 65537, ReplicationFactor: 1000, Load: 1.10})
	key := []byte(address)
	for b.Loop() {
		c.LocateKey(key)
	}
}

func BenchmarkPlaceTen(b *testing.B) {
	var table director.Ring = build(pods(10))
	rooms := roomsOf(10, func(i int) float64 { return float64(i + 1) })
	for b.Loop() {
		table.Place(address, rooms)
	}
}
