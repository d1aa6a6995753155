package ring_test

import (
	"fmt"
	"testing"

	"github.com/cespare/xxhash/v2"
	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/ring"
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
	var table director.Ring = ring.Build(pods(10))
	for b.Loop() {
		table.Propose(address)
	}
}

func BenchmarkLocateKey(b *testing.B) {
	c := library(10)
	key := []byte(address)
	for b.Loop() {
		c.LocateKey(key)
	}
}

// BenchmarkBuild is what a change of the backends costs. Its peer is BenchmarkLibraryBuild: the library makes the same table.
func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{3, 30, 200, 300} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			members := pods(n)
			b.ReportAllocs()
			for b.Loop() {
				ring.Build(members)
			}
		})
	}
}

func BenchmarkLibraryBuild(b *testing.B) {
	for _, n := range []int{3, 30} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				library(n)
			}
		})
	}
}

func BenchmarkPlaceTen(b *testing.B) {
	var table director.Ring = ring.Build(pods(10))
	rooms := roomsOf(10, func(i int) float64 { return float64(i + 1) })
	for b.Loop() {
		table.Place(address, rooms)
	}
}
