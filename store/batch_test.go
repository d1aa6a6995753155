package store

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// gate is a batch function that the test lets through batch by batch.
type gate struct {
	mu      sync.Mutex
	batches [][]int
	pass    chan struct{}
}

func (g *gate) ask(batch []*question[int, int]) {
	asked := make([]int, len(batch))
	for i, q := range batch {
		asked[i] = q.ask
	}
	g.mu.Lock()
	g.batches = append(g.batches, asked)
	g.mu.Unlock()
	<-g.pass
	for _, q := range batch {
		q.finish(10*q.ask, nil)
	}
}

func TestBatching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{pass: make(chan struct{})}
		b := &batcher[int, int]{ask: g.ask, limits: usual, lanes: 1, limit: 3}
		got := make([]int, 6)
		for i := range got {
			go func() {
				v, err := b.call(i)
				if err != nil {
					t.Error(err)
				}
				got[i] = v
			}()
			synctest.Wait()
		}
		// A single call goes at once; those that come meanwhile wait for a batch that begins after them, in their order.
		for range 3 {
			g.pass <- struct{}{}
			synctest.Wait()
		}
		b.wait()
		if want := [][]int{{0}, {1, 2, 3}, {4, 5}}; !slices.EqualFunc(g.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", g.batches, want)
		}
		if want := []int{0, 10, 20, 30, 40, 50}; !slices.Equal(got, want) {
			t.Errorf("answers %v, want %v", got, want)
		}
	})
}

// TestGathering holds when a lane that is free is used: while few are under way, and when many wait.
func TestGathering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{pass: make(chan struct{})}
		b := &batcher[int, int]{ask: g.ask, limits: usual, lanes: 3, limit: 10, few: 2, many: 4}
		for i := range 8 {
			go b.call(i)
			synctest.Wait()
		}
		close(g.pass)
		synctest.Wait()
		b.wait()
		if want := [][]int{{0}, {1}, {2, 3, 4, 5}, {6, 7}}; !slices.EqualFunc(g.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", g.batches, want)
		}
	})
}

// TestBatchesOfASlowDatabase holds that as much is answered as can be, however long each user takes: no statement is too long.
func TestBatchesOfASlowDatabase(t *testing.T) {
	for _, each := range []time.Duration{2 * time.Millisecond, 8 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			answered, failed := 0, 0
			b := &batcher[int, int]{limits: usual, lanes: 4, limit: 500, few: few, many: many, ask: func(batch []*question[int, int]) {
				length := time.Duration(len(batch)) * each
				time.Sleep(min(length, usual.statement))
				mu.Lock()
				defer mu.Unlock()
				for _, q := range batch {
					if length > usual.statement {
						failed++
						q.finish(0, errTooLong)
					} else {
						answered++
						q.finish(q.ask, nil)
					}
				}
			}}
			begun := time.Now()
			var callers sync.WaitGroup
			// As many at a time as would be answered in half a second.
			for range int(min(1000, 4*time.Second/2/each)) {
				callers.Go(func() {
					for time.Since(begun) < 10*time.Second {
						_, _ = b.call(1)
					}
				})
			}
			callers.Wait()
			b.wait()
			if failed > answered/100 || time.Duration(answered)*each < 4*10*time.Second*8/10 {
				t.Errorf("%s each: %d are answered and %d are not", each, answered, failed)
			}
		})
	}
}

// TestNobodyIsAskedForWhoHasLeft holds that a database which cannot keep up is not asked in vain.
func TestNobodyIsAskedForWhoHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{pass: make(chan struct{})}
		b := &batcher[int, int]{ask: g.ask, limits: usual, lanes: 1, limit: 3}
		for i := range 6 {
			go b.call(i)
			synctest.Wait()
		}
		time.Sleep(usual.call)
		go b.call(6)
		synctest.Wait()
		close(g.pass)
		synctest.Wait()
		b.wait()
		if want := [][]int{{0}, {6}}; !slices.EqualFunc(g.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", g.batches, want)
		}
	})
}

// TestNobodyWaitsForLong has a batch that is never answered. Those who wait for it, and behind it, must get an error.
func TestNobodyWaitsForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{pass: make(chan struct{})}
		b := &batcher[int, int]{ask: g.ask, limits: usual, lanes: 1, limit: 3}
		begun := time.Now()
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				if _, err := b.call(i); !errors.Is(err, errTooLong) || time.Since(begun) != usual.call {
					t.Errorf("error %v after %s", err, time.Since(begun))
				}
			})
		}
		wg.Wait()
		// What comes too late is nobody else's answer.
		close(g.pass)
		synctest.Wait()
		for i := range 10 {
			if v, err := b.call(i); v != 10*i || err != nil {
				t.Errorf("%d is answered with %d, %v", i, v, err)
			}
		}
		b.wait()
	})
}
