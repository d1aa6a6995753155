package sim

import (
	"math"
	"time"
)

// stream is a source of random numbers: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Each client has one of its own, so
// that what one does changes nothing for the others, and strategies are compared on the same clients.
type stream uint64

// newStream returns a stream for a seed and a number.
func newStream(seed, number uint64) stream {
	return stream(mix(mix(seed+increment) + number*increment))
}

// increment is SplitMix64's: two to the 64th divided by the golden ratio.
const increment = 0x9e3779b97f4a7c15

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (s *stream) next() uint64 {
	*s += increment
	return mix(uint64(*s))
}

// unit returns a number from 0 up to 1.
func (s *stream) unit() float64 { return float64(s.next()>>11) / (1 << 53) }

// below returns a whole number from 0 to n-1.
func (s *stream) below(n int) int { return int(s.unit() * float64(n)) }

// exp returns an exponentially distributed number with the mean 1.
func (s *stream) exp() float64 { return -math.Log(1 - s.unit()) }

// within draws from a span.
func (s *stream) within(d span) time.Duration {
	return d.least + time.Duration(s.unit()*float64(d.most-d.least))
}
