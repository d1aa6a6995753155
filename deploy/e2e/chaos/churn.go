package chaos

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/history"
)

// The graces of the directors. They are longer than views may differ, which is maxLag and the second until a file is read, with room for
// a busy machine: a replica that is cut off from the database serves from memory, unless it has seen that the user's backend was away. So
// it must not miss a loss that another replica sees for the whole grace.
const (
	failoverGrace = 4 * time.Second
	restartGrace  = 5 * time.Second
	panicGrace    = 8 * time.Second
)

const (
	// maxLag is how far one replica's feed is behind at most. It takes another second until the file is read.
	maxLag = 1500 * time.Millisecond
	// firstBackends are there from the begin, mostBackends is where it stops scaling up.
	firstBackends, mostBackends = 5, 8
	// rest is how long a backend that came back stays: longer than any replica needs to see it.
	rest = maxLag + 3*time.Second
)

// event is one change of the true state, or one order.
type event struct {
	at time.Duration
	// backend is what changes, to state. A new address is that of another instance.
	backend    int
	state      history.State
	newAddress bool
	// lags say how much later each replica is told.
	lags []time.Duration
	// move, of a user of the pool to a backend as far as it is there, is ordered via a replica. user is -1 when it is none.
	user, to, via int
}

// churn is what happens to the backends, for ever: lost for less than their grace, for longer and for about as long, back under another address
// or the same, scaled up and down; and users who are moved.
func churn(seed uint64, replicas int) iter.Seq[event] {
	return func(yield func(event) bool) {
		random := rand.New(rand.NewPCG(seed, 1))
		between := func(low, high time.Duration) time.Duration {
			return low + time.Duration(random.Int64N(int64(high-low)))
		}
		change := func(at time.Duration, backend int, state history.State, newAddress bool) event {
			e := event{at: at, backend: backend, state: state, newAddress: newAddress, user: -1}
			for range replicas {
				lag := time.Duration(0)
				if random.IntN(3) > 0 { // one of three is told at once, so that views differ as much as they may
					lag = between(0, maxLag)
				}
				e.lags = append(e.lags, lag)
			}
			return e
		}
		// pending are returns and ends that are to come, in no order.
		var pending []event
		// steady is from when on a backend may be lost again, never for one that has gone for good.
		steady := make(map[int]time.Duration)
		for b := range firstBackends {
			steady[b] = 0
		}
		lost := func() int { return len(pending) }
		next := firstBackends
		scaleAt, moveAt, loseAt := 2*time.Second, time.Second, time.Second
		for {
			at, first := min(scaleAt, moveAt, loseAt), -1
			for i, e := range pending {
				if e.at <= at {
					at, first = e.at, i
				}
			}
			var e event
			switch {
			case first >= 0:
				e = pending[first]
				pending = append(pending[:first], pending[first+1:]...)
			case at == moveAt:
				moveAt += between(300*time.Millisecond, 900*time.Millisecond)
				e = event{at: at, user: random.IntN(hotUsers + coldUsers), to: random.IntN(firstBackends), via: random.IntN(replicas)}
				if random.IntN(3) > 0 {
					e.user = random.IntN(hotUsers)
				}
			case at == scaleAt:
				scaleAt += between(2500*time.Millisecond, 4*time.Second)
				if len(steady) >= mostBackends {
					continue
				}
				e = change(at, next, history.Ready, true)
				steady[next] = at + rest
				next++
			default:
				loseAt += between(1200*time.Millisecond, 2500*time.Millisecond)
				var may []int
				for b := range next {
					if from, there := steady[b]; there && from <= at {
						may = append(may, b)
					}
				}
				if len(may) == 0 || lost() >= 2 {
					continue // with more at once it would be a panic most of the time
				}
				b := may[random.IntN(len(may))]
				state, grace := history.NotReady, failoverGrace
				if random.IntN(2) == 0 {
					state, grace = history.Gone, restartGrace
				}
				away := between(grace+maxLag, grace+maxLag+2*time.Second)
				if at > 3*time.Second { // so that even a short run has a long one
					switch random.IntN(5) {
					case 0:
						away = between(200*time.Millisecond, 2*time.Second)
					case 1, 2, 3: // when some replicas have stopped waiting and others have not
						away = between(grace, grace+maxLag)
					}
				}
				e = change(at, b, state, false)
				if b >= firstBackends && state == history.Gone && random.IntN(2) == 0 {
					delete(steady, b) // scaled down
					break
				}
				pending = append(pending, change(at+away, b, history.Ready, state == history.Gone))
				steady[b] = at + away + rest
			}
			if !yield(e) {
				return
			}
		}
	}
}

// backendName is the name of the backend of that number.
func backendName(n int) string { return fmt.Sprintf("b%d", n) }
