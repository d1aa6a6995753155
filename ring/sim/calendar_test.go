package sim

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestCalendar compares the calendar with a sorted list: entries come in order, those before a bound and no others, and each is
// announced once before it comes.
func TestCalendar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const length = 20 * second
		announced := map[entry]int{}
		c := newCalendar(length, func(some []entry) {
			for _, e := range some {
				announced[e]++
			}
		})
		var want []entry
		add := func(e entry) {
			c.add(e)
			if e.at() < length {
				want = append(want, e)
			}
		}
		number := uint32(0)
		last := moment(0)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			for range rapid.IntRange(0, 200).Draw(t, "entries") {
				number++
				add(newEntry(uint32(last+1+moment(rapid.IntRange(0, 25_000).Draw(t, "in"))), number))
			}
			bound := min(length, last+moment(rapid.IntRange(0, 5000).Draw(t, "bound")))
			for {
				e, ok := c.next(bound)
				if !ok {
					break
				}
				slices.Sort(want)
				if len(want) == 0 || e != want[0] {
					t.Fatalf("got client %d at %d, want %v", e.client(), e.at(), want[:min(3, len(want))])
				}
				want = want[1:]
				last = e.at()
				if rapid.IntRange(0, 9).Draw(t, "comes again") == 0 { // soon, into the second that is due
					number++
					add(newEntry(uint32(last+1+moment(rapid.IntRange(0, 50).Draw(t, "in"))), number))
				}
			}
			for _, e := range want {
				if e.at() < bound {
					t.Fatalf("client %d at %d did not come before %d", e.client(), e.at(), bound)
				}
			}
			last = max(last, bound-1)
		}
		for e, n := range announced {
			if n != 1 {
				t.Fatalf("client %d was announced %d times", e.client(), n)
			}
		}
	})
}
