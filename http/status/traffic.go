package status

import (
	"context"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// Traffic is remembered by the second for this long, and drawn by periods: the percentiles of so few lookups as there are in a
// second would jump about.
const (
	remembered = 10 * time.Minute
	period     = 5 * time.Second
	periods    = int(remembered / period)
)

// The outcomes that are told apart.
const (
	answered = iota // a backend, or that there is no such user
	held            // the user waits
	failed          // nothing that helps the user
	outcomes
)

const (
	// Latencies are counted in four buckets per power of two, of units of 1.024 µs, up to about 8 s: what is shown is wrong by an eighth
	// at most.
	buckets = 92
	unit    = 10 // as a power of two, in nanoseconds
	// shards keep processors from waiting for each other's counters.
	shards = 8
)

// counters are lookups by outcome and latency.
type counters [outcomes][buckets]uint64

// Traffic counts lookups. A lookup costs one addition: what is shown of it is made of that once a second.
type Traffic struct {
	shards [shards][outcomes][buckets]atomic.Uint64

	mu      sync.Mutex
	before  counters // at the last second
	lately  counters // in the period that is not over
	seconds int      // of it that have passed
	last    [int(period / time.Second)][outcomes]uint64
	drawn   [periods]spell
	next    int // in drawn
}

// spell is what there was in one period.
type spell struct {
	lookups  [outcomes]uint32
	p50, p99 time.Duration // 0 if there were no lookups
	counted  bool          // the director ran
}

// Resolved counts a lookup that was answered.
func (t *Traffic) Resolved(_ bool, verb director.Verb, _ director.Reason, took time.Duration) {
	switch verb {
	case director.Serve, director.Reject:
		t.count(answered, took)
	case director.Hold:
		t.count(held, took)
	default:
		t.count(failed, took)
	}
}

// Failed counts a lookup that came to nothing.
func (t *Traffic) Failed(_ bool, _ string, took time.Duration) { t.count(failed, took) }

func (t *Traffic) count(outcome int, took time.Duration) {
	t.shards[rand.Uint32()%shards][outcome][bucketOf(took)].Add(1)
}

func bucketOf(took time.Duration) int {
	n := uint64(max(0, took)) >> unit
	if n < 4 {
		return int(n)
	}
	e := bits.Len64(n) - 3
	return min(buckets-1, 4*e+int(n>>e))
}

// middle is the latency that stands for a bucket.
func middle(bucket int) time.Duration {
	low, width := uint64(bucket), uint64(1)
	if bucket >= 4 {
		e := bucket/4 - 1
		low, width = uint64(bucket%4+4)<<e, 1<<e
	}
	return time.Duration(low<<unit + width<<unit/2)
}

// run reads the counters once a second until ctx ends.
func (t *Traffic) run(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			t.second()
		}
	}
}

// second ends a second.
func (t *Traffic) second() {
	t.mu.Lock()
	defer t.mu.Unlock()
	var now counters
	for s := range t.shards {
		for o := range now {
			for b := range now[o] {
				now[o][b] += t.shards[s][o][b].Load()
			}
		}
	}
	lookups := &t.last[t.seconds]
	*lookups = [outcomes]uint64{}
	for o := range now {
		for b := range now[o] {
			n := now[o][b] - t.before[o][b]
			lookups[o] += n
			t.lately[o][b] += n
		}
	}
	t.before = now
	if t.seconds++; t.seconds < len(t.last) {
		return
	}
	t.seconds = 0
	t.drawn[t.next] = t.lately.spell()
	t.drawn[t.next].counted = true
	t.next = (t.next + 1) % periods
	t.lately = counters{}
}

// spell sums up. Latencies are those of lookups of all outcomes.
func (c *counters) spell() (s spell) {
	var all [buckets]uint64
	total := uint64(0)
	for o := range c {
		for b, n := range c[o] {
			all[b] += n
			total += n
			s.lookups[o] += uint32(n)
		}
	}
	if total == 0 {
		return s
	}
	sum := uint64(0)
	for b, n := range all {
		sum += n
		if s.p50 == 0 && 2*sum >= total {
			s.p50 = middle(b)
		}
		if 100*sum >= 99*total {
			s.p99 = middle(b)
			return s
		}
	}
	return s
}

// history returns the periods, the oldest first, and how many lookups a second there were in the last five seconds.
func (t *Traffic) history() (all [periods]spell, rate [outcomes]float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	copy(all[copy(all[:], t.drawn[t.next:]):], t.drawn[:t.next])
	for _, lookups := range t.last {
		for o, n := range lookups {
			rate[o] += float64(n) / float64(len(t.last))
		}
	}
	return all, rate
}
