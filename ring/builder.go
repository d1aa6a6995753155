package ring

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
	director "github.com/k-web-s/go-dovecot-director"
)

// Builder makes tables. It keeps the library's ring from one table to the next and changes it by what differs, which
// costs a tenth of building anew. The zero value is ready to use. It belongs to one goroutine.
type Builder struct {
	ring    *consistent.Consistent
	points  int             // the library's replication factor of ring
	present map[string]bool // virtual members in ring
}

// member is what the library knows of a virtual member: a name and nothing that may change.
type member string

func (m member) String() string { return string(m) }

// hasher hashes the library's ring points and partitions.
type hasher struct{}

func (hasher) Sum64(b []byte) uint64 { return xxhash.Sum64(b) }

// Build returns the table of the members. Their order does not matter; of equal names the largest weight counts, and members
// without a weight are left out.
func (b *Builder) Build(members []director.Member) *Table {
	weights := make(map[string]int, len(members))
	for _, m := range members {
		if m.Weight > 0 {
			weights[m.Name] = max(weights[m.Name], m.Weight)
		}
	}
	t := &Table{names: slices.Sorted(maps.Keys(weights))}
	if len(t.names) == 0 {
		*b = Builder{}
		return t
	}
	index := make(map[string]uint16)
	for i, name := range t.names {
		for _, virtual := range virtualMembers(name, weights[name]) {
			index[virtual] = uint16(i)
		}
	}
	b.change(slices.Sorted(maps.Keys(index)))
	t.owners = make([]uint16, partitions)
	for p := range t.owners {
		t.owners[p] = index[b.ring.GetPartitionOwner(p).String()]
	}
	return t
}

// change makes the library's ring hold exactly these members. From where they come does not matter to the result: the
// library computes the whole table anew from the sorted ring at each change.
func (b *Builder) change(virtual []string) {
	c := config(len(virtual))
	var add, remove []string
	wanted := make(map[string]bool, len(virtual))
	for _, name := range virtual {
		wanted[name] = true
		if !b.present[name] {
			add = append(add, name)
		}
	}
	for name := range b.present {
		if !wanted[name] {
			remove = append(remove, name)
		}
	}
	// Each single change computes the table; from a few changes on, one computation over all is cheaper.
	if b.ring == nil || b.points != c.ReplicationFactor || len(add)+len(remove) > max(4, len(virtual)/4) {
		all := make([]consistent.Member, len(virtual))
		for i, name := range virtual {
			all[i] = member(name)
		}
		b.ring, b.points = consistent.New(all, c), c.ReplicationFactor
	} else {
		for _, name := range add {
			b.ring.Add(member(name))
		}
		for _, name := range remove {
			b.ring.Remove(name)
		}
	}
	b.present = wanted
}

// virtualMembers are the names under which a member of some weight stands on the ring: the plain name first, so that a
// weight of 1 is as if there were no weights, then name#1, name#2 and so on. A # in a name is doubled, so that no two
// members share one.
func virtualMembers(name string, weight int) []string {
	name = strings.ReplaceAll(name, "#", "##")
	virtual := []string{name}
	for i := 1; i < weight; i++ {
		virtual = append(virtual, name+"#"+strconv.Itoa(i))
	}
	return virtual
}
