// Package history records what clients of several directors were answered, what each director was fed and when, who was
// ordered to be moved and what the table held; and checks afterwards that it kept the promise:
//
//   - moved: no user is answered with a backend after another one was answered, unless that other one had been lost for its
//     grace in what some replica was fed, or the user was ordered to be moved there. A loss that the answer came after, from a replica
//     that knew of both loss and return, is no reason.
//   - lost: a mapping that was answered or seen in the table never disappears from it.
//   - address: nobody is sent to an address that his replica's feed does not list, or has not listed for some time.
//   - refused: nobody is told anything else than "here", "try again" and "ask another".
//
// What is right is judged by what went in and came out, never by what directors say of themselves.
//
// The first rule is linearizability. For each user there is a register that names the owner. Every answer to a passdb lookup
// and every look at the table reads it, at some moment between its begin and its end; and it changes only where that is
// justified. Porcupine searches for an order of the reads that explains all of them, which is where an own checker would be
// clever and wrong: lookups overlap, and overlap changes. What is left to write down is the rule, in one function.
//
// Times are since the begin of the history, by one monotonic clock.
package history

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Outcome is what a lookup came to.
type Outcome uint8

// The outcomes.
const (
	// Served: it was answered with a backend.
	Served Outcome = iota
	// Held: the user is told to try again.
	Held
	// Unavailable: the replica does not know, or cannot be reached; Told is set with the former.
	Unavailable
	// Refused is all else: a wrong password, an unknown user, a fault.
	Refused
)

func (o Outcome) String() string { return [...]string{"served", "held", "unavailable", "refused"}[o] }

// Lookup is a lookup and its answer.
type Lookup struct {
	User       string
	Client     int
	Replica    string
	UserDB     bool // it only looks
	Begin, End time.Duration
	Outcome    Outcome
	Told       bool
	// Backend and Addr are the answer with Served. Detail is the reason otherwise.
	Backend string
	Addr    netip.Addr
	Detail  string
}

// State is how a feed lists a backend.
type State uint8

// The states.
const (
	Gone State = iota // it does not
	NotReady
	Ready
)

func (s State) String() string { return [...]string{"gone", "not ready", "ready"}[s] }

// never is when something happens that has not happened.
const never = time.Duration(1<<63 - 1)

// change is a change of one backend in one replica's feed.
type change struct {
	state State
	addr  netip.Addr
	// edition is the number of the feed's edition that tells it, from 1.
	edition int
	// fed is when it was about to be written, seen when the replica is known to have read it or something newer.
	fed, seen time.Duration
}

// order is an operator's order to move a user.
type order struct {
	to           string
	begun, until time.Duration
}

// span is a time in which every look at the table showed the same row.
type span struct {
	backend     string // "" for no row
	first, last look
}

type look struct{ begin, end time.Duration }

// Config says what may be expected.
type Config struct {
	// Failover and Restart are the graces of backends that are not ready, and of those that are gone.
	Failover, Restart time.Duration
	// Late is how long after a replica has read its feed it may still act on what it read before: what a lookup takes.
	Late time.Duration
	// MoveLimit is how long after its order a move may happen.
	MoveLimit time.Duration
}

// History is what happened. It is safe for concurrent use, and may be checked while it grows.
type History struct {
	config Config
	begun  time.Time

	mu       sync.Mutex
	lookups  []Lookup
	feeds    map[string]map[string][]change // by replica and backend
	editions map[string]int                 // by replica, how many there were
	orders   map[string][]*order            // by user
	looks    []look
	rows     map[string][]span // by user
}

// New begins a history.
func New(c Config) *History {
	return &History{config: c, begun: time.Now(), feeds: map[string]map[string][]change{}, editions: map[string]int{}, orders: map[string][]*order{}, rows: map[string][]span{}}
}

// Now is the time since the begin.
func (h *History) Now() time.Duration { return time.Since(h.begun) }

// Add adds a lookup that has ended.
func (h *History) Add(l Lookup) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lookups = append(h.lookups, l)
}

// Feed notes that the next edition of a replica's feed, which is about to be written, tells of a backend's state.
func (h *History) Feed(at time.Duration, replica, backend string, state State, addr netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	feed := h.feeds[replica]
	if feed == nil {
		feed = map[string][]change{}
		h.feeds[replica] = feed
	}
	h.editions[replica]++
	feed[backend] = append(feed[backend], change{state, addr, h.editions[replica], at, never})
}

// Seen notes that a replica has read an edition of its feed by now.
func (h *History) Seen(at time.Duration, replica string, edition int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, changes := range h.feeds[replica] {
		for i := len(changes) - 1; i >= 0 && changes[i].seen == never; i-- {
			if changes[i].edition <= edition {
				changes[i].seen = at
			}
		}
	}
}

// Order notes that a user is about to be ordered to another backend. Withdraw takes that back: the order was not accepted.
func (h *History) Order(at time.Duration, user, to string) (withdraw func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := &order{to, at, at + h.config.MoveLimit}
	h.orders[user] = append(h.orders[user], o)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.orders[user] = slices.DeleteFunc(h.orders[user], func(other *order) bool { return other == o })
	}
}

// Look notes the rows that the table held, between begin and end.
func (h *History) Look(begin, end time.Duration, rows map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := look{begin, end}
	h.looks = append(h.looks, now)
	note := func(user, backend string) {
		spans := h.rows[user]
		if n := len(spans); n > 0 && spans[n-1].backend == backend {
			spans[n-1].last = now
			return
		}
		h.rows[user] = append(spans, span{backend, now, now})
	}
	for user, backend := range rows {
		note(user, backend)
	}
	for user := range h.rows {
		if _, there := rows[user]; !there {
			note(user, "")
		}
	}
}

// Counts says how many lookups there were, and how long the one took that the replica took the longest for.
type Counts struct {
	Lookups, Answered, Held, Unavailable int
	Slowest                              time.Duration
}

// Between are the lookups that began between two times and have ended.
func (h *History) Between(from, to time.Duration) iter.Seq[Lookup] {
	return func(yield func(Lookup) bool) {
		h.mu.Lock()
		lookups := h.lookups[:len(h.lookups):len(h.lookups)] // what is there stays as it is
		h.mu.Unlock()
		for _, l := range lookups {
			if l.Begin >= from && l.Begin < to && !yield(l) {
				return
			}
		}
	}
}

// Count counts the lookups that began between two times.
func (h *History) Count(from, to time.Duration) (c Counts) {
	for l := range h.Between(from, to) {
		c.Lookups++
		switch l.Outcome {
		case Served:
			c.Answered++
		case Held:
			c.Held++
		case Unavailable:
			c.Unavailable++
		}
		if l.Outcome != Unavailable || l.Told {
			c.Slowest = max(c.Slowest, l.End-l.Begin)
		}
	}
	return c
}

// copied is a copy that does not grow.
func (h *History) copied() *History {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &History{
		config: h.config, begun: h.begun, lookups: slices.Clone(h.lookups), looks: slices.Clone(h.looks),
		feeds: make(map[string]map[string][]change, len(h.feeds)), orders: make(map[string][]*order, len(h.orders)), rows: make(map[string][]span, len(h.rows)),
	}
	for replica, feed := range h.feeds {
		c.feeds[replica] = make(map[string][]change, len(feed))
		for backend, changes := range feed {
			c.feeds[replica][backend] = slices.Clone(changes)
		}
	}
	for user, orders := range h.orders {
		c.orders[user] = slices.Clone(orders)
	}
	for user, spans := range h.rows {
		c.rows[user] = slices.Clone(spans)
	}
	return c
}

// replicas are the names of those that were fed, sorted.
func (h *History) replicas() []string { return slices.Sorted(maps.Keys(h.feeds)) }
