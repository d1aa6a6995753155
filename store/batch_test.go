package store

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// gate is a batch function that the test lets through batch by batch.
type gate struct {
	mu      sync.Mutex
	batches [][]int
	pass    chan struct{}
}

func (g *gate) ask(batch []int) []answer[int] {
	g.mu.Lock()
	g.batches = append(g.batches, slices.Clone(batch))
	g.mu.Unlock()
	<-g.pass
	answers := make([]answer[int], len(batch))
	for i, q := range batch {
		answers[i].value = 10 * q
	}
	return answers
}

func TestBatching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{pass: make(chan struct{})}
		b := &batcher[int, int]{ask: g.ask, lanes: 1, limit: 3}
		got := make([]int, 6)
		for i := range got {
			go func() {
				v, err := b.call(t.Context(), i)
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

func TestACallerMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{pass: make(chan struct{})}
		b := &batcher[int, int]{ask: g.ask, lanes: 1, limit: 3}
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := b.call(ctx, 1)
			left <- err
		}()
		synctest.Wait()
		stayed := make(chan int, 1)
		go func() {
			v, _ := b.call(t.Context(), 2)
			stayed <- v
		}()
		synctest.Wait()
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		close(g.pass)
		if v := <-stayed; v != 20 {
			t.Errorf("the one that stayed got %d", v)
		}
		b.wait()
	})
}
