package ring

import (
	"encoding/binary"
	"math"

	"github.com/cespare/xxhash/v2"
	director "github.com/k-web-s/go-dovecot-director"
)

// Table is an immutable ring. The zero value has no members.
type Table struct {
	names  []string // sorted
	hashes []uint64 // of the names
	owners []uint16 // per partition, an index into names
}

var _ director.Ring = (*Table)(nil)

// Propose returns the member that key falls to. It does not allocate.
func (t *Table) Propose(key string) (string, bool) {
	if len(t.owners) == 0 {
		return "", false
	}
	return t.names[t.owners[xxhash.Sum64String(key)%partitions]], true
}

// Place returns the room with the highest score of -Free/ln(h(key, backend)). It chooses each room with a probability in
// proportion to Free, always the same for a key, and when a room closes only its own keys go elsewhere (weighted
// rendezvous hashing). The order of rooms does not matter, equal scores go to the smaller name. A Free that is not a
// positive finite number closes the room. It does not allocate, and is fastest with the rooms of the table's own members in
// their order.
func (t *Table) Place(key string, rooms []director.Room) (string, bool) {
	keyHash := xxhash.Sum64String(key)
	best, bestScore, bound := "", 0.0, 0.0
	for i := range rooms {
		room := &rooms[i]
		if !(room.Free > 0 && room.Free <= math.MaxFloat64) {
			continue
		}
		u := uniform(keyHash, t.hash(i, room.Backend))
		// -ln(u) is at least 1-u: a room that does not win by that does not need the logarithm, which takes longest here.
		if room.Free < bound*(1-u) {
			continue
		}
		score := -room.Free / math.Log(u)
		if score > bestScore || score == bestScore && room.Backend < best {
			best, bestScore, bound = room.Backend, score, score*(1-roundingMargin)
		}
	}
	return best, best != ""
}

// roundingMargin is more than a score can be off by rounding, as a share of it.
const roundingMargin = 1e-9

// hash returns the hash of a member's name; it is known if the member stands at i.
func (t *Table) hash(i int, name string) uint64 {
	if i < len(t.names) && t.names[i] == name {
		return t.hashes[i]
	}
	return xxhash.Sum64String(name)
}

// uniform maps two hashes to a number in the open interval from 0 to 1: the finalizer of SplitMix64 (Steele, Lea and
// Flood, OOPSLA 2014) over their combination, its upper 53 bits taken at the middle of their interval.
func uniform(key, backend uint64) float64 {
	z := key ^ (backend<<32 | backend>>32)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return (float64(z>>11) + 0.5) / (1 << 53)
}

// Shares returns how large a share of all keys falls to each member.
func (t *Table) Shares() map[string]float64 {
	shares := make(map[string]float64, len(t.names))
	for _, name := range t.names {
		shares[name] = 0
	}
	for _, owner := range t.owners {
		shares[t.names[owner]] += 1.0 / partitions
	}
	return shares
}

// Checksum is the xxhash64 of the names and the owners in order: equal tables have equal checksums.
func (t *Table) Checksum() uint64 {
	digest := xxhash.New()
	for _, name := range t.names {
		_, _ = digest.WriteString(name) // a hash takes everything
		_, _ = digest.Write([]byte{0})
	}
	var two [2]byte
	for _, owner := range t.owners {
		binary.LittleEndian.PutUint16(two[:], owner)
		_, _ = digest.Write(two[:])
	}
	return digest.Sum64()
}

// Owner returns the member that a partition, 0 to 65536, falls to; a key's partition is xxhash64(key) modulo 65537.
func (t *Table) Owner(partition int) string { return t.names[t.owners[partition]] }

// Difference returns for how large a share of all keys two tables propose different members. A table without members differs
// from one that has some in all of them.
func (t *Table) Difference(u *Table) float64 {
	if len(t.owners) == 0 || len(u.owners) == 0 {
		if len(t.owners) == len(u.owners) {
			return 0
		}
		return 1
	}
	n := 0
	for p := range t.owners {
		if t.Owner(p) != u.Owner(p) {
			n++
		}
	}
	return float64(n) / partitions
}
