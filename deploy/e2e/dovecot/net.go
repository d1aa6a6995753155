package dovecot

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
)

// Net is a /24 of loopback addresses that belongs to one test.
type Net struct{ base [4]byte }

// NewNet reserves a random network until the test ends. A listener on its last address is the reservation.
func NewNet(tb testing.TB) Net {
	tb.Helper()
	for range 100 {
		n := Net{base: [4]byte{127, byte(1 + rand.IntN(254)), byte(rand.IntN(256)), 0}}
		lock, err := net.Listen("tcp", netip.AddrPortFrom(n.Addr(254), 9).String())
		if err == nil {
			tb.Cleanup(func() { lock.Close() })
			return n
		}
	}
	tb.Fatal("no free network of loopback addresses in 100 tries")
	return Net{}
}

// Addr returns the address that ends in host.
func (n Net) Addr(host byte) netip.Addr {
	n.base[3] = host
	return netip.AddrFrom4(n.base)
}
