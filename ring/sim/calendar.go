package sim

import "slices"

// moment is a time of the simulation, in milliseconds since its begin.
type moment int64

const (
	second moment = 1000
	hour          = 3600 * second
	day           = 24 * hour
)

// entry says that a client has something to do: a moment, of which 49 days fit, in the upper half, and the client's number. Entries
// are in the order of time, and of clients at one moment.
type entry uint64

func newEntry(at, client uint32) entry { return entry(at)<<32 | entry(client) }

func (e entry) at() moment     { return moment(e >> 32) }
func (e entry) client() uint32 { return uint32(e) }

// calendar is a queue of entries by time: a bucket for each second, which is sorted when it is due. With a million clients that is
// many times faster than one heap of all, where each level is another part of memory.
type calendar struct {
	buckets []int32 // the first block of each second, -1 for none
	blocks  []block
	free    int32
	second  int     // the next bucket that is not sorted yet
	due     []entry // sorted, of the bucket before
	taken   int     // of due
	late    []entry // came when their bucket was due already; sorted
	// ahead is called with the next entries before they are taken, some at a time.
	ahead func([]entry)
}

// block holds some entries of a bucket.
type block struct {
	next    int32
	used    int32
	entries [15]entry
}

// aheadBy is how many entries are announced at a time: what they need must fit into a processor's nearest cache.
const aheadBy = 64

func newCalendar(length moment, ahead func([]entry)) *calendar {
	c := &calendar{buckets: make([]int32, length/second+2), free: -1, ahead: ahead}
	for i := range c.buckets {
		c.buckets[i] = -1
	}
	return c
}

// add notes an entry; those after the end are dropped. None may be added that is before the last that was taken.
func (c *calendar) add(e entry) {
	i := int(e.at() / second)
	switch {
	case i >= len(c.buckets):
		return
	case i < c.second:
		at, _ := slices.BinarySearch(c.late, e)
		c.late = slices.Insert(c.late, at, e)
		return
	}
	first := c.buckets[i]
	if first < 0 || int(c.blocks[first].used) == len(c.blocks[first].entries) {
		first = c.block(first)
		c.buckets[i] = first
	}
	b := &c.blocks[first]
	b.entries[b.used] = e
	b.used++
}

// block returns an empty block that stands before another.
func (c *calendar) block(next int32) int32 {
	i := c.free
	if i >= 0 {
		c.free = c.blocks[i].next
	} else {
		i = int32(len(c.blocks))
		c.blocks = append(c.blocks, block{})
	}
	c.blocks[i].next, c.blocks[i].used = next, 0
	return i
}

// next takes the first entry that is before a moment.
func (c *calendar) next(before moment) (entry, bool) {
	for c.taken == len(c.due) && len(c.late) == 0 {
		if c.second == len(c.buckets) || moment(c.second)*second >= before {
			return 0, false
		}
		c.turn()
	}
	if len(c.late) > 0 && (c.taken == len(c.due) || c.late[0] < c.due[c.taken]) {
		e := c.late[0]
		if e.at() >= before {
			return 0, false
		}
		c.late = c.late[1:]
		return e, true
	}
	e := c.due[c.taken]
	if e.at() >= before {
		return 0, false
	}
	if c.taken%aheadBy == 0 {
		c.ahead(c.due[c.taken:min(c.taken+aheadBy, len(c.due))])
	}
	c.taken++
	return e, true
}

// turn makes the next bucket due.
func (c *calendar) turn() {
	c.due, c.taken, c.late = c.due[:0], 0, c.late[:0]
	for i := c.buckets[c.second]; i >= 0; {
		b := &c.blocks[i]
		c.due = append(c.due, b.entries[:b.used]...)
		i, b.next, c.free = b.next, c.free, i
	}
	slices.Sort(c.due)
	c.second++
}
