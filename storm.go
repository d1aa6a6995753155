package director

import (
	"sync"
	"time"
)

// Storm says how fast users are let in who were mapped to another backend a moment ago, by a failover or an evacuation. Dovecot keeps a
// login waiting by itself, and outside of its auth workers, until the time in the answer's delay_until. It then goes to the backend that the
// answer named, wherever the user is by then: so nobody is moved while a login of his may be waiting.
type Storm struct {
	// Rate is how many logins in a second this director sends to a backend of weight 1 without a delay; 0 delays nobody.
	Rate float64
	// Most is the longest delay. Dovecot fails a login that shall wait for more than 300 s.
	Most time.Duration
}

// young is the age of rows up to which their users count as just mapped.
const young = 10 * time.Second

// Quiet is how old a user's row has to be for no login of his to be waiting.
func (s Storm) Quiet() time.Duration {
	if s.Rate <= 0 {
		return 0
	}
	return young + s.Most
}

// MaxDelay is the longest delay that Dovecot accepts.
const MaxDelay = 300 * time.Second

// burst is how many seconds' worth of logins are let in at once by who has had none.
const burst = time.Second

// pacer spreads the logins of each backend: the generic cell rate algorithm of ITU-T I.371, with a bound for the queue.
type pacer struct {
	storm Storm
	mu    sync.Mutex
	// due is when each backend has dealt with the logins that it was sent.
	due map[string]time.Time
}

// delay returns how long the next login to a backend waits.
func (p *pacer) delay(now time.Time, b Backend) time.Duration {
	if p.storm.Rate <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	due := later(p.due[b.Name], now)
	wait := due.Sub(now) - burst
	if wait >= p.storm.Most {
		return p.storm.Most // they come as they came, only later
	}
	if p.due == nil {
		p.due = make(map[string]time.Time)
	}
	p.due[b.Name] = due.Add(time.Duration(float64(time.Second) / (p.storm.Rate * float64(max(1, b.Weight)))))
	return max(0, wait)
}

// delays reports whether an answer lets a user in who was mapped a moment ago. LMTP minds no delay.
func (r Request) delays(decision Decision, f Facts) bool {
	return !r.ReadOnly && r.Protocol != "lmtp" && (decision.Reason == Placed || decision.Reason == Mapped && f.Mapping.Age < young && !f.View.renewed(f.Mapping.Backend, f.written()))
}

// pace puts an answer's login into the queue of its backend.
func (d *Director) pace(st *state, a *Answer) {
	b, _, _ := st.view.Backend(a.Backend)
	if wait := d.pacer.delay(a.At, b); wait > 0 {
		a.NotBefore = a.At.Add(wait)
	}
}
