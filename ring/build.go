package ring

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	director "github.com/k-web-s/go-dovecot-director"
)

// Build returns the table of the members. Their order does not matter; of equal names the largest weight counts, and members
// without a weight are left out.
func Build(members []director.Member) *Table {
	weights := make(map[string]int, len(members))
	for _, m := range members {
		if m.Weight > 0 {
			weights[m.Name] = max(weights[m.Name], m.Weight)
		}
	}
	t := &Table{names: slices.Sorted(maps.Keys(weights))}
	if len(t.names) == 0 {
		return t
	}
	t.hashes = make([]uint64, len(t.names))
	var virtual []virtualMember
	for i, name := range t.names {
		t.hashes[i] = xxhash.Sum64String(name)
		virtual = appendVirtual(virtual, name, weights[name], uint16(i))
	}
	t.owners = distribute(virtual)
	return t
}

// virtualMember is a member as often as it weighs.
type virtualMember struct {
	name  string
	owner uint16 // index of the member
}

// appendVirtual appends the names under which a member of some weight stands on the circle: the plain name first, so that
// a weight of 1 is as if there were no weights, then name#1, name#2 and so on. A # in a name is doubled, so that no two
// members share one.
func appendVirtual(virtual []virtualMember, name string, weight int, owner uint16) []virtualMember {
	name = strings.ReplaceAll(name, "#", "##")
	virtual = append(virtual, virtualMember{name, owner})
	for i := 1; i < weight; i++ {
		virtual = append(virtual, virtualMember{name + "#" + strconv.Itoa(i), owner})
	}
	return virtual
}

// point is a place of a virtual member on the circle of hashes.
type point struct {
	hash   uint64
	member int // index of the virtual member
}

// circle returns the points of the virtual members, sorted.
func circle(virtual []virtualMember) []point {
	each := replication
	if len(virtual) > manyMembers {
		each = manyReplication
	}
	points := make([]point, 0, each*len(virtual))
	var key []byte
	for m, v := range virtual {
		for i := range each {
			key = append(strconv.AppendInt(key[:0], int64(i), 10), ':')
			key = append(key, v.name...)
			points = append(points, point{xxhash.Sum64(key), m})
		}
	}
	slices.SortFunc(points, func(a, b point) int { return cmp.Compare(a.hash, b.hash) })
	return points
}

// distribute gives each partition to the virtual member of the first point at or after the partition's hash that is not
// full yet, and returns the owners.
func distribute(virtual []virtualMember) []uint16 {
	points := circle(virtual)
	full := int(math.Ceil(float64(partitions) / float64(len(virtual)) * load))
	taken := make([]int, len(virtual))
	owners := make([]uint16, partitions)
	var key [8]byte
	for p := range owners {
		binary.LittleEndian.PutUint64(key[:], uint64(p))
		at, _ := slices.BinarySearchFunc(points, xxhash.Sum64(key[:]), func(p point, hash uint64) int { return cmp.Compare(p.hash, hash) })
		// One of them is not full: together they may hold more than there are partitions.
		for taken[points[at%len(points)].member] == full {
			at++
		}
		member := points[at%len(points)].member
		taken[member]++
		owners[p] = virtual[member].owner
	}
	return owners
}
