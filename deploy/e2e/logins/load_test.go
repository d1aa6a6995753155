package logins_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/mail"
)

// load is mail programs that log in and out in a closed loop: each starts over when it is done.
type load struct {
	users   []string
	clients int
	next    atomic.Int64 // counts logins of all turns, so that every user's comes as often
}

// measured is what one turn gave.
type measured struct {
	logins                int
	elapsed               time.Duration
	p50, p99              time.Duration // from connecting until the reply to LOGIN
	proxyCPU, directorCPU time.Duration // per login
}

func (m measured) rate() float64 { return float64(m.logins) / m.elapsed.Seconds() }

// once logs every user in, once.
func (l *load) once(ctx context.Context, addr string) error {
	last := l.next.Load() + int64(len(l.users))
	_, err := l.run(ctx, addr, func(n int64) bool { return n <= last })
	return err
}

// during logs users in for some time.
func (l *load) during(ctx context.Context, addr string, d time.Duration) (measured, error) {
	start := time.Now()
	took, err := l.run(ctx, addr, func(int64) bool { return time.Since(start) < d })
	if err != nil {
		return measured{}, err
	}
	elapsed := time.Since(start)
	if len(took) == 0 {
		return measured{}, errors.New("no login in a turn: make it longer")
	}
	slices.Sort(took)
	at := func(percent int) time.Duration { return took[(len(took)-1)*percent/100] }
	return measured{logins: len(took), elapsed: elapsed, p50: at(50), p99: at(99)}, nil
}

// run lets all clients log in while more says so of the next login's number. It returns how long each login took, and the
// first error, which ends it.
func (l *load) run(ctx context.Context, addr string, more func(n int64) bool) ([]time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	took := make([][]time.Duration, l.clients)
	var running sync.WaitGroup
	for i := range took {
		running.Go(func() {
			for n := l.next.Add(1); more(n) && ctx.Err() == nil; n = l.next.Add(1) {
				d, err := login(ctx, addr, l.users[n%int64(len(l.users))])
				if err != nil {
					cancel(err)
					return
				}
				took[i] = append(took[i], d)
			}
		})
	}
	running.Wait()
	return slices.Concat(took...), context.Cause(ctx)
}

// login logs a user in and out again, and returns how long the way in took.
func login(ctx context.Context, addr, user string) (time.Duration, error) {
	start := time.Now()
	session, err := mail.LoginIMAP(ctx, addr, user, dovecot.Password)
	if err != nil {
		return 0, err
	}
	took := time.Since(start)
	return took, session.Logout()
}
