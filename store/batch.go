package store

import (
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// batcher answers single questions by asking many at once: while its lanes are busy, callers gather; a lane that comes
// free takes all of them. An idle batcher adds no delay and has no goroutine.
//
// The fuller its batches, the less a question costs, so a lane that is free is not always used; see mayStart.
type batcher[Q, A any] struct {
	// ask answers a batch: it finishes each question, or adds it to another batcher. It must not keep the slice.
	ask func([]*question[Q, A])
	// limits are those of a batch's statement and of a call.
	limits limits
	// lanes is how many batches may be under way at once, limit how many questions one may have.
	lanes, limit int
	// few is how many questions are too few under way to gather behind, many how many waiting ones gather no longer. With few
	// at 0 every free lane is used.
	few, many int

	mu       sync.Mutex
	size     int // how many questions the next batch may have; see sized
	waiting  []*question[Q, A]
	busy     int
	inFlight int // questions
	running  sync.WaitGroup
	asked    sync.Pool // of questions that are answered and forgotten
}

type question[Q, A any] struct {
	ask    Q
	answer A
	err    error
	done   chan struct{} // gets one value, when the answer is there
	timer  *time.Timer   // stopped while nobody asks
	left   atomic.Bool   // nobody waits for the answer any more
}

// finish answers the question. It is called once.
func (q *question[Q, A]) finish(answer A, err error) {
	q.answer, q.err = answer, err
	q.done <- struct{}{}
}

// errTooLong is what a call ends with that was not answered in time.
var errTooLong = errors.New("it does not answer in time")

// call asks one question and waits for its answer, for the limit of a call at most. The answer is from a batch that began after the
// call.
func (b *batcher[Q, A]) call(ask Q) (A, error) {
	q, ok := b.asked.Get().(*question[Q, A])
	if ok {
		q.timer.Reset(b.limits.call)
	} else {
		q = &question[Q, A]{done: make(chan struct{}, 1), timer: time.NewTimer(b.limits.call)}
	}
	q.ask = ask
	b.add(q)
	select {
	case <-q.done:
		q.timer.Stop()
		answer, err := q.answer, q.err
		b.asked.Put(q)
		return answer, err
	case <-q.timer.C:
		q.left.Store(true)
		var none A // the question is still a batch's
		return none, errTooLong
	}
}

// add makes a question wait for a lane.
func (b *batcher[Q, A]) add(q *question[Q, A]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = append(b.waiting, q)
	if b.busy < b.lanes && b.mayStart() {
		b.busy++
		b.running.Go(b.work)
	}
}

// work answers batches until nobody waits.
func (b *batcher[Q, A]) work() {
	var batch []*question[Q, A]
	for {
		b.gather()
		b.mu.Lock()
		b.forget()
		if b.size == 0 {
			b.size = b.limit
			if b.many > 0 {
				b.size = min(b.limit, b.many)
			}
		}
		n := min(len(b.waiting), b.size)
		if n == 0 || !b.mayStart() {
			b.busy--
			b.mu.Unlock()
			return
		}
		batch = append(batch[:0], b.waiting[:n]...)
		rest := copy(b.waiting, b.waiting[n:])
		clear(b.waiting[rest:])
		b.waiting = b.waiting[:rest]
		b.inFlight += n
		b.mu.Unlock()
		begun := time.Now()
		b.ask(batch)
		took := time.Since(begun)
		clear(batch)
		b.mu.Lock()
		b.inFlight -= n
		b.sized(n, took)
		b.mu.Unlock()
	}
}

// forget drops the questions whose callers have given up: a database that cannot keep up would answer nobody but them. They are the
// oldest. It needs the lock.
func (b *batcher[Q, A]) forget() {
	n := 0
	for n < len(b.waiting) && b.waiting[n].left.Load() {
		n++
	}
	b.waiting = slices.Delete(b.waiting, 0, n)
}

// sized learns from a batch. One that holds all who wait may take longer than a statement is given, and then answers none of them: a
// database that is slow for each user gets smaller ones, in all lanes. Half of the limit leaves room for chance. They get no smaller than what
// is worth a lane: a database may be slow for each statement too, and that large batches suit. It needs the lock.
func (b *batcher[Q, A]) sized(n int, took time.Duration) {
	switch {
	case took > b.limits.statement/2:
		b.size = max(1, b.many, min(b.size, n/2))
	case took < b.limits.statement/4 && n == b.size:
		b.size = min(b.limit, 2*n)
	}
}

// wait returns when no batch is under way.
func (b *batcher[Q, A]) wait() { b.running.Wait() }

// gather lets those come along who are about to ask, the callers of the last batch most of all. When nobody is, it takes no
// time.
func (b *batcher[Q, A]) gather() {
	const turns = 8
	before := -1
	for range turns {
		runtime.Gosched()
		b.mu.Lock()
		now := len(b.waiting)
		b.mu.Unlock()
		if now == before || now >= b.limit {
			return
		}
		before = now
	}
}

// mayStart reports whether a further batch may be under way. While there is little to do everybody goes at once; while there
// is much, those who come gather behind the batch that is under way; and when many have gathered, it is overdue. It needs the
// lock.
func (b *batcher[Q, A]) mayStart() bool {
	return b.few == 0 || b.inFlight < b.few || len(b.waiting) >= b.many
}
