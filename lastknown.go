package director

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// lastKnown remembers, in bounded memory, which backend the store named for which user. It is read only while the
// store is down, and written by every lookup: so it is a table of small buckets, as processors' caches are, where the oldest entry
// of a bucket gives way to a new one. An entry takes 16 bytes, and costs one access to memory.
//
// Users are kept as 64-bit hashes, under a random seed but in a simulation: two of 100,000 users collide with a probability of one in a
// thousand million, and nobody outside can make them.
//
// It is safe for concurrent use.
type lastKnown struct {
	hash    func(user string) uint64
	locks   [64]sync.Mutex // of the buckets, each of every 64th
	buckets []bucket
	names   atomic.Pointer[names]
	// epoch is a moment before the first entry, nil before there is one. Its monotonic clock makes up for one that is set.
	epoch atomic.Pointer[time.Time]
	size  atomic.Int64 // how many users are remembered
}

// bucket is as large as a line of a processor's cache.
type bucket [4]rememberedEntry

type rememberedEntry struct {
	hash    uint64
	at      uint32 // ticks since the epoch, rounded down: the entry counts as older than it is; 0 when there is none
	backend uint32 // index into names
}

// tick is how exactly it is known when an entry was learnt. A user is served from memory only if his backend has been there since, so
// who was learnt in the tick in which it came is not. A table counts them for 13 years.
const tick = 100 * time.Millisecond

// ticks are those of a moment, 0 for one that cannot be told: before the first entry, or long after it.
func (l *lastKnown) ticks(now time.Time) uint32 {
	if l.epoch.Load() == nil {
		l.epoch.CompareAndSwap(nil, new(now.Add(-tick)))
	}
	n := now.Sub(*l.epoch.Load()) / tick
	if n < 0 || n > math.MaxUint32 {
		return 0
	}
	return uint32(n)
}

// names are all backends that were ever learnt of. They are replaced as a whole, which is rare.
type names struct {
	all   []string
	index map[string]uint32
}

// newLastKnown makes a table for so many users. A hash of nil is one under a random seed.
func newLastKnown(capacity int, hash func(user string) uint64) *lastKnown {
	if hash == nil {
		seed := maphash.MakeSeed()
		hash = func(user string) uint64 { return maphash.String(seed, user) }
	}
	l := &lastKnown{hash: hash, buckets: make([]bucket, (capacity+len(bucket{})-1)/len(bucket{}))}
	l.names.Store(&names{})
	return l
}

// find returns the user's bucket and its lock; the bucket is nil if nobody is to be remembered.
func (l *lastKnown) find(hash uint64) (*bucket, *sync.Mutex) {
	if len(l.buckets) == 0 {
		return nil, nil
	}
	i := hash % uint64(len(l.buckets))
	return &l.buckets[i], &l.locks[i%uint64(len(l.locks))]
}

// learn notes that the store named backend for user.
func (l *lastKnown) learn(user, backend string, now time.Time) {
	hash := l.hash(user)
	bucket, lock := l.find(hash)
	if bucket == nil {
		return
	}
	at := l.ticks(now)
	if at == 0 {
		l.forget(user)
		return
	}
	name := l.name(backend)
	lock.Lock()
	defer lock.Unlock()
	oldest := &bucket[0]
	for i := range bucket {
		e := &bucket[i]
		if e.hash == hash {
			oldest = e
			break
		}
		if e.at < oldest.at {
			oldest = e
		}
	}
	if oldest.at == 0 {
		l.size.Add(1)
	}
	*oldest = rememberedEntry{hash: hash, at: at, backend: name}
}

// recall returns what was learnt about user, nil for nothing.
func (l *lastKnown) recall(user string) *Remembered {
	hash := l.hash(user)
	bucket, lock := l.find(hash)
	if bucket == nil {
		return nil
	}
	lock.Lock()
	defer lock.Unlock()
	for _, e := range bucket {
		if e.hash == hash && e.at != 0 {
			return &Remembered{Backend: l.names.Load().all[e.backend], At: l.epoch.Load().Add(time.Duration(e.at) * tick)}
		}
	}
	return nil
}

// forget drops what was learnt about user.
func (l *lastKnown) forget(user string) {
	hash := l.hash(user)
	bucket, lock := l.find(hash)
	if bucket == nil {
		return
	}
	lock.Lock()
	defer lock.Unlock()
	for i := range bucket {
		if bucket[i].hash == hash && bucket[i].at != 0 {
			l.size.Add(-1)
			bucket[i] = rememberedEntry{}
		}
	}
}

// name returns the index of a backend's name.
func (l *lastKnown) name(backend string) uint32 {
	for {
		old := l.names.Load()
		if i, ok := old.index[backend]; ok {
			return i
		}
		next := &names{all: append(old.all[:len(old.all):len(old.all)], backend), index: make(map[string]uint32, len(old.all)+1)}
		for i, name := range next.all {
			next.index[name] = uint32(i)
		}
		if l.names.CompareAndSwap(old, next) {
			return uint32(len(old.all))
		}
	}
}
