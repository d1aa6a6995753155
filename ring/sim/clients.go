package sim

import (
	"fmt"
	"math"
)

// user is what is known of one user.
type user struct {
	name     string
	begin    uint32 // when the user is there
	first    uint32 // the first of the clients
	clients  uint8
	open     uint8 // of those
	refused  bool  // since away
	home     int16 // the backend of the last login, -1 before the first
	openedAt uint32
	openFor  uint32 // client-seconds in which a session was open, until openedAt
	away     uint32 // since when without a session by a fault, +1
	absence  uint32 // the last absence of his backend that was counted for the user
	// The last phases, +1, in which the user was counted, and the one in which away began.
	movedIn, waitedIn, splitIn, awayIn uint16

	hash uint64 // of the name; it also makes this as large as a line of a processor's cache
}

// client is one program of a user.
type client struct {
	user   uint32
	at     uint32 // when it does something next
	random stream
	rate   float32 // logins a day, 0 if it is always connected
	on     int16   // the backend that its session is on, -1 if it has none
	leads  bool    // now and then all of the user's clients pause with it
	_      [8]byte // half a line of a processor's cache
}

// fetch reads what the next clients will need. With a million users each of it is far away in memory; here a processor
// fetches many at once, where later it would wait for one after the other. This makes a simulation twice as fast.
func (w *world) fetch(entries []entry) {
	sum := uint64(0)
	for _, e := range entries {
		sum += uint64(w.clients[e.client()].at)
	}
	for _, e := range entries {
		sum += w.users[w.clients[e.client()].user].hash
	}
	d, ours := w.strategy.(*directors)
	for _, e := range entries {
		u := &w.users[w.clients[e.client()].user]
		sum += uint64(u.name[0])
		if ours {
			sum += d.store.touch(u.hash)
		}
	}
	w.sink = sum
}

// populate makes the users and their clients. Who is connected all day, and how often the others log in, is drawn.
func (w *world) populate() {
	s := &w.scenario.users
	w.users = make([]user, s.count)
	random := newStream(w.scenario.seed, 3)
	occasional := make([]uint32, 0, s.count)
	for i := range w.users {
		u := &w.users[i]
		*u = user{name: fmt.Sprintf("user-%07d@%s", i, s.domain), home: -1, first: uint32(len(w.clients)), clients: 1, begin: w.arrival(i)}
		if s.rows != nil {
			u.name = s.rows[i].user
		}
		u.hash = hashOf(u.name)
		connected := random.unit() < s.connected
		if connected {
			u.clients = uint8(1 + random.below(s.devices))
		} else {
			occasional = append(occasional, uint32(len(w.clients)))
		}
		for k := range u.clients {
			w.clients = append(w.clients, client{user: uint32(i), random: newStream(w.scenario.seed, 4+uint64(len(w.clients))), on: -1, leads: connected && k == 0})
		}
	}
	// Zipf's law: the k-th most active one logs in k^-skew times as often as the first. Who is the k-th has nothing to do with names.
	sum := 0.0
	for k := range occasional {
		sum += math.Pow(float64(k+1), -s.skew)
	}
	for k, c := range occasional {
		w.clients[c].rate = float32(w.scenario.logins.perDay * float64(len(occasional)) * math.Pow(float64(k+1), -s.skew) / sum)
	}
}

// arrival is when a user is there: those at the start, then one after the other until the end.
func (w *world) arrival(i int) uint32 {
	s := &w.scenario.users
	if i < s.atStart {
		return 0
	}
	part := float64(i-s.atStart) / float64(s.count-s.atStart)
	if s.exponential {
		part = math.Log(float64(i)/float64(s.atStart)) / math.Log(float64(s.count)/float64(s.atStart))
	}
	return uint32(part * float64(w.end))
}

// settleUsers gives the users of the start their backends, and lets clients begin: those that are connected all day are, in a site
// that is there already.
func (w *world) settleUsers() {
	random := newStream(w.scenario.seed, 5)
	s := &w.scenario.users
	settled := s.mapped
	if settled {
		for i := range s.atStart {
			if backend, _ := w.strategy.lookup(uint32(i), &random); backend >= 0 {
				w.book.settle(w, &w.users[i], backend)
			}
		}
	}
	for i := range w.clients {
		c := &w.clients[i]
		u := &w.users[c.user]
		switch {
		case u.begin > 0:
			w.plan(c, uint32(i), moment(u.begin)+moment(float64(second)*c.random.exp()))
		case c.rate > 0:
			w.plan(c, uint32(i), w.nextLogin(c))
		case settled && u.home >= 0:
			w.open(c, uint32(i), u, int(u.home))
		default: // at first use, some time of the first day
			w.plan(c, uint32(i), w.curve.after(w.scenario.midnight, c.random.unit())-w.scenario.midnight)
		}
	}
}

// plan says when a client does something next.
func (w *world) plan(c *client, number uint32, at moment) {
	if at <= w.now {
		at = w.now + 1
	}
	c.at = uint32(min(at, math.MaxUint32))
	w.calendar.add(newEntry(c.at, number))
}

// act lets a client do what is due: log in, or end its session.
func (w *world) act(number uint32, c *client) {
	u := &w.users[c.user]
	if c.on < 0 {
		w.login(number, c, u)
		return
	}
	if !c.leads {
		w.close(c, u)
		if c.rate > 0 {
			w.plan(c, number, w.nextLogin(c))
		} else {
			w.plan(c, number, w.now+w.reconnection(c))
		}
		return
	}
	for k := range uint32(u.clients) {
		other := &w.clients[u.first+k]
		if other.on >= 0 {
			w.close(other, u)
			w.plan(other, u.first+k, w.now+10*second+moment(60*float64(second)*other.random.exp()))
		}
	}
}

// nextLogin is when a client logs in next that is not connected all day.
func (w *world) nextLogin(c *client) moment {
	return w.curve.after(w.scenario.midnight+w.now, c.random.exp()/float64(c.rate)) - w.scenario.midnight
}

// reconnection is how long a client takes to log in again after its session was cut.
func (w *world) reconnection(c *client) moment {
	return second + moment(3*float64(second)*c.random.exp())
}

// login asks where the user belongs and opens a session there.
func (w *world) login(number uint32, c *client, u *user) {
	if u.home >= 0 {
		w.book.attempt(w, u)
	}
	w.lookups++
	backend, reason := w.strategy.lookup(c.user, &c.random)
	if backend >= 0 && int(u.home) != backend {
		w.book.rehome(w, u, backend, reason)
	}
	// Where a backend does not serve, the directors do not know it yet; the proxy cannot connect.
	if backend < 0 || !w.cluster.pods[backend].serves() {
		w.book.refuse(w, u)
		w.plan(c, number, w.now+moment(c.random.within(w.scenario.logins.retry).Milliseconds()))
		return
	}
	w.book.login(w, u, backend)
	w.open(c, number, u, backend)
}

// open opens a session and plans its end.
func (w *world) open(c *client, number uint32, u *user, backend int) {
	w.tick(u)
	u.open++
	c.on = int16(backend)
	w.cluster.pods[backend].sessions++
	w.sessions++
	w.book.opened(w, backend)
	mean := w.scenario.logins.session
	switch {
	case c.leads:
		mean = w.scenario.logins.gaps[min(int(u.clients), len(w.scenario.logins.gaps))-1]
	case c.rate == 0:
		mean = w.scenario.logins.reconnect
	}
	w.plan(c, number, w.now+moment(float64(mean.Milliseconds())*c.random.exp()))
}

// close ends a session.
func (w *world) close(c *client, u *user) {
	w.tick(u)
	u.open--
	w.cluster.pods[c.on].sessions--
	w.sessions--
	c.on = -1
}

// tick counts the user's sessions up to now.
func (w *world) tick(u *user) {
	now := uint32(w.now / second)
	u.openFor += uint32(u.open) * (now - u.openedAt/1000)
	u.openedAt = uint32(w.now)
}

// cut ends all sessions on a backend; the clients log in again.
func (w *world) cut(backend int) {
	for i := range w.clients {
		c := &w.clients[i]
		if int(c.on) != backend {
			continue
		}
		u := &w.users[c.user]
		w.close(c, u)
		if u.open == 0 {
			w.book.lose(w, u)
		}
		w.plan(c, uint32(i), w.now+w.reconnection(c))
	}
}

// kick ends all sessions of a user; the clients log in again.
func (w *world) kick(u *user) {
	for k := range uint32(u.clients) {
		c := &w.clients[u.first+k]
		if c.on >= 0 {
			w.close(c, u)
			w.plan(c, u.first+k, w.now+w.reconnection(c))
		}
	}
	w.book.lose(w, u)
}

// elsewhere reports whether the user has a session on another backend.
func (w *world) elsewhere(u *user, backend int) bool {
	if u.open == 0 {
		return false
	}
	for _, c := range w.clients[u.first : u.first+uint32(u.clients)] {
		if c.on >= 0 && int(c.on) != backend {
			return true
		}
	}
	return false
}

// expected is how many sessions a user has open on average, since the user is there. In the first hour it is what it would be if
// the rest of that hour went on without any.
func (w *world) expected(u *user) float64 {
	open := float64(u.openFor) + float64(u.open)*float64(w.now-moment(u.openedAt))/float64(second)
	return open / max(3600, float64(w.now-moment(u.begin))/float64(second))
}

// survey adds up what users' averages come to, by backend.
func (w *world) survey() {
	clear(w.expectedByBackend)
	sum, n := 0.0, 0
	for i := range w.users {
		u := &w.users[i]
		if u.home < 0 {
			continue
		}
		expected := w.expected(u)
		w.expectedByBackend[w.cluster.pods[u.home].name] += expected
		if expected >= 0.5 {
			sum += expected
			n++
		}
	}
	w.typical = sum / float64(max(1, n))
}
