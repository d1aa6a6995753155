package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// load is what one round sends.
type load struct {
	connections int
	// script makes what a connection asks, one after the other.
	script func(connection int) script
	// warm is how long it is sent before it counts, length how long it counts.
	warm, length time.Duration
}

// script appends the body of the next lookup to b. A pause is waited before it is sent.
type script func(b []byte) (body []byte, pause time.Duration)

// result is what a round came to.
type result struct {
	perSecond     float64
	p50, p99, max time.Duration
	// CPU time per request: of the server, of PostgreSQL, and of this program.
	cpu, databaseCPU, ownCPU time.Duration
	// failed counts the lookups that were not answered with a backend, and failure is the first of them.
	failed  int
	failure error
}

// run sends the load to servers, the connections spread over them, and reads the CPU time that processes take meanwhile: the
// servers, and the database behind them.
func (l load) run(addresses []string, servers []int, database []int) result {
	var counting, done atomic.Bool
	took := make([][]time.Duration, l.connections)
	failures := make([]int, l.connections)
	var first atomic.Pointer[error]
	var wg sync.WaitGroup
	for i := range l.connections {
		wg.Go(func() {
			c := newClient(addresses[i%len(addresses)])
			defer c.close()
			next := l.script(i)
			var body []byte
			for !done.Load() {
				var pause time.Duration
				if body, pause = next(body[:0]); pause > 0 {
					time.Sleep(pause)
				}
				begun := time.Now()
				answer, err := c.ask(body)
				if err == nil && !bytes.HasPrefix(answer, []byte(`{"code":1,`)) {
					err = fmt.Errorf("%s: %s", body, answer)
				}
				switch {
				case err != nil:
					first.CompareAndSwap(nil, &err)
					failures[i]++
				case counting.Load():
					took[i] = append(took[i], time.Since(begun))
				}
			}
		})
	}
	time.Sleep(l.warm)
	self := []int{os.Getpid()}
	begun, before, databaseBefore, ownBefore := time.Now(), cpuTime(servers), cpuTime(database), cpuTime(self)
	counting.Store(true)
	time.Sleep(l.length)
	counting.Store(false)
	length := time.Since(begun)
	cpu, databaseCPU, ownCPU := cpuTime(servers)-before, cpuTime(database)-databaseBefore, cpuTime(self)-ownBefore
	done.Store(true)
	wg.Wait()

	all := slices.Concat(took...)
	slices.Sort(all)
	r := result{perSecond: float64(len(all)) / length.Seconds()}
	for _, n := range failures {
		r.failed += n
	}
	if err := first.Load(); err != nil {
		r.failure = *err
	}
	if len(all) > 0 {
		r.p50, r.p99, r.max = quantile(all, 0.50), quantile(all, 0.99), all[len(all)-1]
		n := time.Duration(len(all))
		r.cpu, r.databaseCPU, r.ownCPU = cpu/n, databaseCPU/n, ownCPU/n
	}
	return r
}

// quantile is of sorted values, of which there is at least one.
func quantile[T any](sorted []T, q float64) T { return sorted[int(q*float64(len(sorted)-1))] }
