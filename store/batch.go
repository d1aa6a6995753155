package store

import (
	"context"
	"sync"
)

// batcher answers single questions by asking many at once: while its lanes are busy, callers gather; a lane that comes
// free takes all of them. An idle batcher adds no delay and has no goroutine.
type batcher[Q, A any] struct {
	// ask answers a batch. Its answers stand in the order of the questions.
	ask func([]Q) []answer[A]
	// lanes is how many batches may be under way at once, limit how many questions one may have.
	lanes, limit int

	mu      sync.Mutex
	waiting []*question[Q, A]
	busy    int
	running sync.WaitGroup
}

type question[Q, A any] struct {
	ask    Q
	answer answer[A]
	done   chan struct{}
}

type answer[A any] struct {
	value A
	err   error
}

// call asks one question and waits for its answer or for ctx. The answer is from a batch that began after the call.
func (b *batcher[Q, A]) call(ctx context.Context, ask Q) (A, error) {
	q := &question[Q, A]{ask: ask, done: make(chan struct{})}
	b.mu.Lock()
	b.waiting = append(b.waiting, q)
	if b.busy < b.lanes {
		b.busy++
		b.running.Go(b.work)
	}
	b.mu.Unlock()
	select {
	case <-q.done:
		return q.answer.value, q.answer.err
	case <-ctx.Done():
		var none A
		return none, ctx.Err()
	}
}

// work answers batches until nobody waits.
func (b *batcher[Q, A]) work() {
	for {
		b.mu.Lock()
		n := min(len(b.waiting), b.limit)
		if n == 0 {
			b.busy--
			b.mu.Unlock()
			return
		}
		batch := b.waiting[:n:n]
		b.waiting = b.waiting[n:]
		if len(b.waiting) == 0 {
			b.waiting = nil
		}
		b.mu.Unlock()
		questions := make([]Q, n)
		for i, q := range batch {
			questions[i] = q.ask
		}
		for i, a := range b.ask(questions) {
			batch[i].answer = a
			close(batch[i].done)
		}
	}
}

// wait returns when no batch is under way.
func (b *batcher[Q, A]) wait() { b.running.Wait() }
