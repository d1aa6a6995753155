package chaos

import (
	"reflect"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/history"
)

// What happens follows from the seed, has everything in it that is to be survived, and leaves directors the time that they need to see it.
func TestChurn(t *testing.T) {
	t.Parallel()
	events := func(seed uint64) (all []event) {
		for e := range churn(seed, 3) {
			if e.at > 5*time.Minute {
				break
			}
			all = append(all, e)
		}
		return all
	}
	for seed := range uint64(20) {
		all := events(seed)
		if !reflect.DeepEqual(all, events(seed)) {
			t.Fatalf("seed %d leads to different events", seed)
		}
		lost, back := map[int]event{}, map[int]time.Duration{}
		var moves, blips, edges, failovers, restarts, added, last int
		for i, e := range all {
			if e.at < all[last].at {
				t.Fatalf("seed %d: event %d is before the last one", seed, i)
			}
			last = i
			was, away := lost[e.backend]
			switch {
			case e.user >= 0:
				moves++
			case e.state != history.Ready:
				if e.at-back[e.backend] < rest && back[e.backend] > 0 {
					t.Errorf("seed %d: backend %d came back for %s only", seed, e.backend, e.at-back[e.backend])
				}
				lost[e.backend] = e
			case !away:
				added++
				back[e.backend] = e.at
			default:
				delete(lost, e.backend)
				back[e.backend] = e.at
				grace := failoverGrace
				if was.state == history.Gone {
					grace = restartGrace
				}
				switch length := e.at - was.at; {
				case length < failoverGrace:
					blips++
				case length >= grace && length < grace+maxLag:
					edges++
				case was.state == history.NotReady && length > failoverGrace+maxLag:
					failovers++
				case was.state == history.Gone && length > restartGrace+maxLag && e.newAddress:
					restarts++
				default:
					t.Errorf("seed %d: backend %d was %s for %s", seed, e.backend, was.state, length)
				}
			}
			for _, lag := range e.lags {
				if lag > maxLag {
					t.Errorf("seed %d: a replica is told %s late", seed, lag)
				}
			}
		}
		if min(moves, blips, edges, failovers, restarts, added) == 0 {
			t.Errorf("seed %d: %d moves, %d blips, %d returns at the edge, %d failovers, %d restarts, %d added", seed, moves, blips, edges, failovers, restarts, added)
		}
	}
}
