package sim

import (
	"context"
	"fmt"
	"math/bits"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	director "github.com/k-web-s/go-dovecot-director"
)

// memory is a store of mappings in memory. It does what the real ones do, as storetest holds, at once and by a clock that is given.
// Several directors share one, as they share a database.
//
// Users are kept as 64-bit hashes: a lookup is one access to memory, and two of a million collide with a probability of one in
// thirty million.
type memory struct {
	now func() time.Time

	mu       sync.Mutex
	rows     []memoryRow // open addressing; the length is a power of two
	used     int
	backends []string
	numbers  map[string]int
	counts   []int // by number of backend
	down     bool
	// mailboxes are the only users that are taken, if it is not nil.
	mailboxes map[string]bool
}

type memoryRow struct {
	hash uint64 // 0 when there is none
	at   int64  // Unix milliseconds, and the number of the backend in the lower bits
}

// backendBits is how many bits of a row's time hold the backend's number.
const backendBits = 12

func newMemory(now func() time.Time, users int) *memory {
	return &memory{now: now, rows: make([]memoryRow, tableSize(users)), numbers: map[string]int{}}
}

// tableSize is a power of two of which so many users fill half at most.
func tableSize(users int) int { return 1 << bits.Len(uint(2*users)) }

var errDown = fmt.Errorf("%w: the scenario's database is down", director.ErrUnavailable)

// hashOf hashes a user; it is never 0.
func hashOf(user string) uint64 { return max(1, xxhash.Sum64String(user)) }

// find returns the user's row, or the place for it.
func (m *memory) find(hash uint64) *memoryRow {
	mask := uint64(len(m.rows) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		if r := &m.rows[i]; r.hash == hash || r.hash == 0 {
			return r
		}
	}
}

// Get reads the user's row.
func (m *memory) Get(_ context.Context, user string) (director.Mapping, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return director.Mapping{}, errDown
	}
	r := m.find(hashOf(user))
	if r.hash == 0 {
		return director.Mapping{}, director.ErrNoMapping
	}
	return m.mapping(r), nil
}

// Assign performs the compare-and-set and returns the row that is true afterwards.
func (m *memory) Assign(_ context.Context, a director.Assignment) (director.Mapping, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return director.Mapping{}, errDown
	}
	r := m.find(hashOf(a.User))
	switch {
	case r.hash == 0 && m.mailboxes != nil && !m.mailboxes[a.User]:
		return director.Mapping{}, fmt.Errorf("%w: no such mailbox", director.ErrUserRefused)
	case r.hash == 0 || m.backends[r.backend()] == a.Was && m.mapping(r).Age >= a.Age:
		r = m.put(a.User, a.Becomes, m.now())
	}
	return m.mapping(r), nil
}

// Touch notes that the user was served by backend now.
func (m *memory) Touch(user, backend string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.find(hashOf(user)); r.hash != 0 && !m.down && m.backends[r.backend()] == backend {
		r.set(m.now(), r.backend())
	}
}

// Counts returns the number of mapped users per backend.
func (m *memory) Counts(context.Context) (map[string]int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return nil, errDown
	}
	counts := make(map[string]int, len(m.counts))
	for number, n := range m.counts {
		if n > 0 {
			counts[m.backends[number]] = n
		}
	}
	return counts, nil
}

// put writes a row whatever was there. Who calls it holds mu, or is alone.
func (m *memory) put(user, backend string, at time.Time) *memoryRow {
	number, ok := m.numbers[backend]
	if !ok {
		number = len(m.backends)
		m.numbers[backend] = number
		m.backends, m.counts = append(m.backends, backend), append(m.counts, 0)
	}
	r := m.find(hashOf(user))
	if r.hash != 0 {
		m.counts[r.backend()]--
	} else {
		if m.used++; 2*m.used > len(m.rows) {
			m.grow()
		}
		r = m.find(hashOf(user))
		r.hash = hashOf(user)
	}
	r.set(at, number)
	m.counts[number]++
	return r
}

// grow makes the table twice as large.
func (m *memory) grow() {
	old := m.rows
	m.rows = make([]memoryRow, 2*len(old))
	for _, r := range old {
		if r.hash != 0 {
			*m.find(r.hash) = r
		}
	}
}

func (r *memoryRow) set(at time.Time, backend int) {
	r.at = at.UnixMilli()<<backendBits | int64(backend)
}

func (r *memoryRow) backend() int { return int(r.at & (1<<backendBits - 1)) }

func (m *memory) mapping(r *memoryRow) director.Mapping {
	return director.Mapping{Backend: m.backends[r.backend()], Age: max(0, m.now().Sub(time.UnixMilli(r.at>>backendBits)))}
}

// touch reads where a user's row is or would be, so that the processor fetches it.
func (m *memory) touch(hash uint64) uint64 { return m.rows[hash&uint64(len(m.rows)-1)].hash }
