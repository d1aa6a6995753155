package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/mail"
)

const (
	// retry is how long a mail program waits after a login failed, less a random half of it.
	retry = time.Second
	// noop is how often a session says something.
	noop = 500 * time.Millisecond
	// deliveries is how many messages a second come in.
	deliveries = 10
)

// traffic is what the users of a site do all the time: they keep sessions open, log in again when one is cut, and get
// mail. It watches that no user is ever on two backends.
type traffic struct {
	proxy  *dovecot.Server
	ctx    context.Context
	cancel context.CancelFunc
	busy   sync.WaitGroup
	stored func(user string) map[string]int // messages by backend

	mu        sync.Mutex
	users     []*user
	sent      int
	undone    int // deliveries that the MTA still tries
	faults    []string
	twoAtOnce int
}

// user is one user with some mail programs.
type user struct {
	name     string
	programs []*mailProgram
}

// mailProgram keeps one session open.
type mailProgram struct {
	probe chan chan error // asks whether the session is alive

	mu      sync.Mutex
	backend string    // where the session is, empty while there is none
	seen    time.Time // when it last answered
	cut     time.Time // since when there is no session, zero while there is one
	waits   []time.Duration
}

func newTraffic(proxy *dovecot.Server, stored func(string) map[string]int) *traffic {
	t := &traffic{proxy: proxy, stored: stored}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.busy.Go(t.deliver)
	return t
}

// stop ends all sessions and deliveries.
func (t *traffic) stop() {
	t.cancel()
	t.busy.Wait()
}

// add adds users; every fourth has two mail programs.
func (t *traffic) add(kind string, n int) {
	for i := range n {
		u := &user{name: fmt.Sprintf("%s%d@example.org", kind, i)}
		for range 1 + (i%4)/3 {
			u.programs = append(u.programs, &mailProgram{probe: make(chan chan error)})
		}
		t.mu.Lock()
		t.users = append(t.users, u)
		t.mu.Unlock()
		for _, p := range u.programs {
			t.busy.Go(func() { t.use(u, p) })
		}
	}
}

func (t *traffic) all() []*user {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.users)
}

// wrong is what went wrong so far.
func (t *traffic) wrong() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.faults)
}

func (t *traffic) fault(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.faults = append(t.faults, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// use is the life of one mail program.
func (t *traffic) use(u *user, p *mailProgram) {
	fresh := true // the first login is no outage
	for t.ctx.Err() == nil {
		session, backend, err := t.login(u)
		if err != nil {
			if errors.Is(err, mail.ErrRefused) {
				t.fault("%s was refused, which a mail program shows as a wrong password: %v", u.name, err)
			}
			t.pause(retry/2 + rand.N(retry/2))
			continue
		}
		p.began(backend, fresh)
		fresh = false
		t.alone(u, p, backend, "logged in")
		t.keep(p, session)
		p.ended()
		session.Close()
	}
}

func (t *traffic) login(u *user) (*mail.IMAP, string, error) {
	session, err := mail.LoginIMAP(t.ctx, t.proxy.At(143), u.name, dovecot.Password)
	if err != nil {
		return nil, "", err
	}
	mailboxes, err := session.Mailboxes()
	if err == nil {
		var backend string
		if backend, err = dovecot.Owner(mailboxes); err == nil {
			return session, backend, nil
		}
	}
	session.Close()
	return nil, "", err
}

func (p *mailProgram) began(backend string, fresh bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.backend, p.seen = backend, time.Now()
	if !fresh {
		p.waits = append(p.waits, time.Since(p.cut))
	}
	p.cut = time.Time{}
}

func (p *mailProgram) ended() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.backend, p.cut = "", time.Now()
}

// keep holds the session until it is cut.
func (t *traffic) keep(p *mailProgram, session *mail.IMAP) {
	tick := time.NewTicker(noop)
	defer tick.Stop()
	for {
		var asked chan error
		select {
		case <-t.ctx.Done():
			return
		case <-tick.C:
		case asked = <-p.probe:
		}
		start := time.Now()
		err := session.Noop()
		if asked != nil {
			asked <- err
		}
		if err != nil {
			return
		}
		p.mu.Lock()
		p.seen = start
		p.mu.Unlock()
	}
}

// alone watches that what just happened on a backend does not happen while the user has a session on another. Only a
// session that answers afterwards counts.
func (t *traffic) alone(u *user, self *mailProgram, backend, what string) {
	for _, p := range u.programs {
		if p == self {
			continue
		}
		p.mu.Lock()
		elsewhere := p.backend
		p.mu.Unlock()
		if elsewhere == "" || elsewhere == backend {
			continue
		}
		answer := make(chan error, 1)
		select {
		case p.probe <- answer:
		case <-time.After(3 * time.Second): // it was cut meanwhile
			continue
		case <-t.ctx.Done():
			return
		}
		err := <-answer
		p.mu.Lock()
		moved := p.backend != elsewhere // it may have logged in anew meanwhile, and answered from there
		p.mu.Unlock()
		if err == nil && !moved {
			t.fault("%s %s on %s, and has a session on %s", u.name, what, backend, elsewhere)
			t.mu.Lock()
			t.twoAtOnce++
			t.mu.Unlock()
		}
	}
}

// deliver is an MTA with a queue: what is refused for the time being it tries again.
func (t *traffic) deliver() {
	var one sync.Map // users with a delivery under way: messages of one user come one after the other
	for i := 0; ; i++ {
		t.pause(time.Second / deliveries)
		users := t.all()
		switch {
		case t.ctx.Err() != nil:
			return
		case len(users) == 0:
			continue
		}
		u := users[i%len(users)]
		if _, under := one.LoadOrStore(u, true); under {
			continue
		}
		t.mu.Lock()
		t.undone++
		t.mu.Unlock()
		t.busy.Go(func() {
			defer one.Delete(u)
			var before map[string]int
			for t.ctx.Err() == nil {
				before = t.stored(u.name) // an attempt that failed may have stored the message
				err := mail.Deliver(t.ctx, t.proxy.At(24), u.name, "hello")
				if err == nil {
					break
				}
				if errors.Is(err, mail.ErrRefused) {
					t.fault("mail to %s bounced: %v", u.name, err)
				}
				t.pause(retry)
			}
			if t.ctx.Err() != nil {
				return
			}
			t.mu.Lock()
			t.undone--
			t.sent++
			t.mu.Unlock()
			for backend, n := range t.stored(u.name) {
				if n > before[backend] {
					t.alone(u, nil, backend, "got mail")
				}
			}
		})
	}
}

func (t *traffic) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.ctx.Done():
	}
}

// calm waits until every mail program has a session that has answered from now on, and all mail was delivered.
func (t *traffic) calm(tb testing.TB, limit time.Duration) {
	tb.Helper()
	start := time.Now()
	eventually(tb, limit, "everybody has a session", func() error {
		without, total := 0, 0
		for _, u := range t.all() {
			for _, p := range u.programs {
				p.mu.Lock()
				total++
				if p.backend == "" || p.seen.Before(start) {
					without++
				}
				p.mu.Unlock()
			}
		}
		if without > 0 {
			return fmt.Errorf("%d of %d have none", without, total)
		}
		return nil
	})
	t.mu.Lock()
	before := t.sent + t.undone
	t.mu.Unlock()
	eventually(tb, limit, "all mail is delivered", func() error {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.sent < before {
			return fmt.Errorf("%d of %d messages are", t.sent, before)
		}
		return nil
	})
}

// waited returns how long users were without a session because logins failed, for those who were.
func (t *traffic) waited() []time.Duration {
	var waits []time.Duration
	for _, u := range t.all() {
		longest := time.Duration(0)
		for _, p := range u.programs {
			p.mu.Lock()
			for _, w := range p.waits {
				longest = max(longest, w)
			}
			p.mu.Unlock()
		}
		if longest > 0 {
			waits = append(waits, longest)
		}
	}
	slices.Sort(waits)
	return waits
}

// seenOnTwo is how often a user was seen on two backends.
func (t *traffic) seenOnTwo() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.twoAtOnce
}
