package sim

import (
	"maps"
	"slices"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// samples is how many samples a scenario has at most, and sampleLeast how far they are apart at least.
const (
	samples     = 480
	sampleLeast = second
)

// enough is how many sessions there must be for their worst peak to mean something: where there are a handful, chance makes it.
const enough = 1000

// book keeps the figures.
type book struct {
	phases   []*Phase
	expected [][]expectation // of the phases
	whole    *Phase
	samples  []Sample
	events   []Happening
	every    moment
	// moves since the last sample
	moves   map[string]int
	waiting int
	quiet   bool // before the begin
	// users with a backend, and the weights of the backends that should be there
	users, weights int
}

// begin makes the first phase; nothing counts yet.
func (b *book) begin() {
	b.quiet = true
	b.whole = &Phase{Name: "all", MovesBy: map[string]int{}}
	b.moves = map[string]int{}
}

// start lets things count from now on.
func (b *book) start(w *world) {
	b.quiet = false
	if len(b.phases) == 0 {
		b.phase(w, "start", nil)
	}
	b.every = max(sampleLeast, (w.end/samples+second-1)/second*second)
	var sample func()
	sample = func() {
		b.sample(w)
		w.after(time.Duration(b.every)*time.Millisecond, sample)
	}
	sample()
}

// phase begins another phase, and ends the one before.
func (b *book) phase(w *world, name string, expect []expectation) {
	if n := len(b.phases); n > 0 {
		b.finish(w, b.phases[n-1])
		if w.now == 0 {
			b.phases, b.expected = nil, nil // nothing has happened in it
		}
	}
	p := &Phase{Name: name, Begin: since(w.now), MovesBy: map[string]int{}}
	b.phases = append(b.phases, p)
	b.expected = append(b.expected, expect)
	b.reweigh(w)
}

func since(m moment) time.Duration { return time.Duration(m) * time.Millisecond }

func usersOf(p *pod) int    { return p.users }
func sessionsOf(p *pod) int { return p.sessions }

// both are the phase that is now and the whole.
func (b *book) both() [2]*Phase { return [2]*Phase{b.phases[len(b.phases)-1], b.whole} }

// current is the number of the phase, from 1.
func (b *book) current() uint16 { return uint16(len(b.phases)) }

// once counts a user who was last counted in a phase: in this one if that was another, and in the whole if it is the first.
func (b *book) once(last *uint16, count func(*Phase)) {
	if *last == b.current() {
		return
	}
	if *last == 0 {
		count(b.whole)
	}
	*last = b.current()
	count(b.phases[len(b.phases)-1])
}

// settle gives a user a backend before the begin.
func (b *book) settle(w *world, u *user, backend int) {
	u.home = int16(backend)
	w.cluster.pods[backend].users++
	b.users++
}

// reweigh notes that the cluster has changed, and with it what would be fair.
func (b *book) reweigh(w *world) {
	b.weights = 0
	for i, p := range w.cluster.pods {
		if w.cluster.wanted(i) {
			b.weights += p.weight
		}
	}
	if b.quiet {
		return
	}
	worst := w.cluster.spread(usersOf).Peak
	for _, p := range b.both() {
		p.UsersLoad.Worst = max(p.UsersLoad.Worst, worst)
	}
}

// attempt notes that a user wants to log in, whose backend may be away.
func (b *book) attempt(w *world, u *user) {
	a := w.cluster.pods[u.home].absence
	if a != nil && u.absence != a.number {
		u.absence = a.number
		a.wanted[len(b.phases)-1]++
	}
}

// refuse notes that a user has to try again.
func (b *book) refuse(w *world, u *user) {
	for _, p := range b.both() {
		p.Refused++
	}
	if u.open > 0 {
		return // another client of his is served
	}
	b.lose(w, u)
	u.refused = true
	b.once(&u.waitedIn, func(p *Phase) { p.WaitedUsers++ })
}

// lose notes that a user has no session any more, by a fault.
func (b *book) lose(w *world, u *user) {
	if u.away == 0 {
		u.away, u.awayIn = uint32(w.now)+1, b.current()
		b.waiting++
	}
}

// login notes that a login reached a backend.
func (b *book) login(w *world, u *user, backend int) {
	if u.away > 0 {
		b.ended(w, u)
	}
	for _, p := range b.both() {
		p.Logins++
	}
	if w.elsewhere(u, backend) {
		b.once(&u.splitIn, func(p *Phase) { p.SplitUsers++ })
	}
}

// ended notes that a user has a session again, in the phase in which it was lost.
func (b *book) ended(w *world, u *user) {
	seconds := float64(uint32(w.now)+1-u.away) / float64(second)
	for _, p := range []*Phase{b.phases[u.awayIn-1], b.whole} {
		p.Unavailable += seconds
		if u.refused {
			p.waits++
			p.waitSum += seconds
			p.WaitMax = max(p.WaitMax, seconds)
		}
	}
	u.away, u.refused = 0, false
	b.waiting--
}

// rehome notes that a user belongs to another backend now, or to the first one.
func (b *book) rehome(w *world, u *user, backend int, reason director.Reason) {
	if u.home < 0 {
		b.users++
	} else {
		w.cluster.pods[u.home].users--
		b.moved(w, u, backend, reason)
	}
	u.home = int16(backend)
	p := w.cluster.pods[backend]
	p.users++
	if w.cluster.wanted(backend) {
		worst := peak(p.users, p.weight, b.users, b.weights)
		for _, phase := range b.both() {
			phase.UsersLoad.Worst = max(phase.UsersLoad.Worst, worst)
		}
	}
}

func (b *book) moved(w *world, u *user, backend int, reason director.Reason) {
	b.moves[string(reason)]++
	for _, p := range b.both() {
		p.Moves++
		p.MovesBy[string(reason)]++
	}
	b.once(&u.movedIn, func(p *Phase) { p.MovedUsers++ })
	if w.scenario.replicas.evenAbove > 0 {
		load := w.expected(u)
		w.expectedByBackend[w.cluster.pods[u.home].name] -= load
		w.expectedByBackend[w.cluster.pods[backend].name] += load
	}
}

// kick notes that a user's sessions were ended to move him.
func (b *book) kick() {
	for _, p := range b.both() {
		p.Kicked++
	}
}

// opened notes that a session was opened.
func (b *book) opened(w *world, backend int) {
	if b.quiet || !w.cluster.wanted(backend) || w.sessions < enough {
		return
	}
	p := w.cluster.pods[backend]
	worst := peak(p.sessions, p.weight, w.sessions, b.weights)
	for _, phase := range b.both() {
		phase.SessionsLoad.Worst = max(phase.SessionsLoad.Worst, worst)
	}
}

// happening notes an event.
func (b *book) happening(w *world, what string) {
	b.events = append(b.events, Happening{since(w.now), what})
}

// sample notes the state.
func (b *book) sample(w *world) {
	s := Sample{At: since(w.now), Waiting: b.waiting, Moves: b.moves}
	for _, p := range w.cluster.pods {
		users, sessions := p.users, p.sessions
		if p.state == absent && users == 0 {
			users, sessions = -1, -1
		}
		s.Users, s.Sessions = append(s.Users, users), append(s.Sessions, sessions)
	}
	b.samples = append(b.samples, s)
	b.moves = map[string]int{}
}

// finish fills in what is known at the end of a phase.
func (b *book) finish(w *world, p *Phase) {
	p.End = since(w.now)
	p.Users = b.users
	users, sessions := w.cluster.spread(usersOf), w.cluster.spread(sessionsOf)
	users.Worst, sessions.Worst = max(p.UsersLoad.Worst, users.Peak), p.SessionsLoad.Worst
	p.UsersLoad, p.SessionsLoad = users, sessions
}

// result closes the book.
func (b *book) result(w *world, strategy string) *Result {
	b.sample(w)
	for i := range w.users {
		if u := &w.users[i]; u.away > 0 && u.refused {
			b.phases[u.awayIn-1].StillWaiting++
			b.whole.StillWaiting++
		}
	}
	b.finish(w, b.phases[len(b.phases)-1])
	b.finish(w, b.whole)
	for _, a := range w.cluster.absences {
		if a.returned {
			continue
		}
		for phase, n := range a.wanted {
			b.phases[phase].LeastMoves += n
			b.whole.LeastMoves += n
		}
	}
	r := &Result{
		Scenario: w.scenario.Name, Strategy: strategy, Begin: since(w.scenario.midnight), Duration: w.scenario.Duration,
		Phases: append(slices.Clone(b.phases), b.whole), Samples: b.samples, Events: b.events, Lookups: w.lookups,
	}
	for _, p := range w.cluster.pods {
		r.Backends = append(r.Backends, p.name)
	}
	for i := range r.Samples { // those before a backend was there
		for len(r.Samples[i].Users) < len(r.Backends) {
			r.Samples[i].Users, r.Samples[i].Sessions = append(r.Samples[i].Users, -1), append(r.Samples[i].Sessions, -1)
		}
	}
	for i, p := range r.Phases {
		if p.waits > 0 {
			p.WaitMean = p.waitSum / float64(p.waits)
		}
		expect := w.scenario.expect
		if i < len(b.expected) {
			expect = b.expected[i]
		}
		r.Failed = append(r.Failed, check(w.scenario.File, expect, p)...)
	}
	return r
}

// Reasons are those of all moves, sorted.
func (r *Result) Reasons() []string { return slices.Sorted(maps.Keys(r.Total().MovesBy)) }
