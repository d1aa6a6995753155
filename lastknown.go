package director

import (
	"hash/maphash"
	"sync"
	"time"
)

// lastKnown remembers, in bounded memory, which backend the store named for which user. It is read only while the
// store is down. Users are kept as 64-bit hashes under a random seed: two of 100,000 users collide with a probability
// of one in a thousand million, and nobody outside can make them.
//
// It forgets by generations: when the younger half is full, the older half is dropped.
//
// It is safe for concurrent use.
type lastKnown struct {
	seed maphash.Seed
	half int

	mu         sync.Mutex
	young, old generation
}

// generation keeps backend names once and refers to them, which keeps an entry small.
type generation struct {
	names   []string
	index   map[string]uint32
	entries map[uint64]rememberedEntry
}

type rememberedEntry struct {
	at      int64 // Unix nanoseconds
	backend uint32
}

func newLastKnown(capacity int) *lastKnown {
	return &lastKnown{seed: maphash.MakeSeed(), half: max(1, capacity/2), young: newGeneration(), old: newGeneration()}
}

func newGeneration() generation {
	return generation{index: make(map[string]uint32), entries: make(map[uint64]rememberedEntry)}
}

// learn notes that the store named backend for user.
func (l *lastKnown) learn(user, backend string, now time.Time) {
	h := maphash.String(l.seed, user)
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.young.entries[h]; !known && len(l.young.entries) >= l.half {
		l.old, l.young = l.young, newGeneration()
	}
	g := &l.young
	i, ok := g.index[backend]
	if !ok {
		i = uint32(len(g.names))
		g.names = append(g.names, backend)
		g.index[backend] = i
	}
	g.entries[h] = rememberedEntry{at: now.UnixNano(), backend: i}
}

// recall returns what was learnt about user, nil for nothing.
func (l *lastKnown) recall(user string) *Remembered {
	h := maphash.String(l.seed, user)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range []*generation{&l.young, &l.old} {
		if e, ok := g.entries[h]; ok {
			return &Remembered{Backend: g.names[e.backend], At: time.Unix(0, e.at)}
		}
	}
	return nil
}

// size returns the number of entries held.
func (l *lastKnown) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.young.entries) + len(l.old.entries)
}
