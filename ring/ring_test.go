package ring_test

import (
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/ring"
	"go.uber.org/goleak"
)

var sweep = flag.Bool("sweep", false, "check balance and movement at every member count from 2 to 200, and building at every one from 0 to 1000")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pods(n int) []director.Member {
	members := make([]director.Member, n)
	for i := range members {
		members[i] = director.Member{Name: fmt.Sprintf("dovecot-backend-%d", i), Weight: 1}
	}
	return members
}

// users calls do with n realistic names.
func users(n int, do func(string)) {
	for i := range n {
		do(fmt.Sprintf("%s.%d@example%d.org", []string{"ada", "grace", "edsger", "barbara"}[i%4], i, i%7))
	}
}

// TestFormat holds the table. Changing one of these sums proposes other backends to most new users, and a mixed set of
// replicas would contradict itself: do it on purpose only, with a new Format and a word in the changelog.
func TestFormat(t *testing.T) {
	if ring.Format != "consistent-1.0.0 xxhash64 P65537 R1000 L1.10" {
		t.Errorf("format %q", ring.Format)
	}
	weighted := pods(4)
	weighted[1].Weight, weighted[2].Weight, weighted[3].Weight = 2, 3, 0
	for name, tc := range map[string]struct {
		members []director.Member
		want    uint64
	}{
		"no member":       {nil, 0xef46db3751d8e999},
		"one":             {pods(1), 0x519d948a97c6faea},
		"three":           {pods(3), 0x9d6ec5ec59014923},
		"ten":             {pods(10), 0x67fdebaec44a27a2},
		"fifty":           {pods(50), 0x32e99abf7b00b4f5},
		"weights 1 2 3 0": {weighted, 0x33f08189cd9423ad},
		"a name with a #": {[]director.Member{{Name: "a", Weight: 2}, {Name: "a#1", Weight: 1}}, 0x82fbcb0c737385cf},
		"what just fits":  {pods(200), 0xbde04b4d2df08eee},
		"more than fits":  {pods(201), 0x3c77c4a2d1102d},
	} {
		if got := ring.Build(tc.members).Checksum(); got != tc.want {
			t.Errorf("%s: checksum %#x, want %#x", name, got, tc.want)
		}
	}
}

// TestLibrary compares the table with that of the library whose format it has.
func TestLibrary(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 201} {
		table, c := ring.Build(pods(n)), library(n)
		for p := range 65537 {
			if got, want := table.Owner(p), c.GetPartitionOwner(p).String(); got != want {
				t.Fatalf("%d members: partition %d falls to %s, in the library to %s", n, p, got, want)
			}
		}
	}
}

func library(n int) *consistent.Consistent {
	members := make([]consistent.Member, n)
	for i, m := range pods(n) {
		members[i] = name(m.Name)
	}
	c := consistent.Config{Hasher: sum{}, PartitionCount: 65537, ReplicationFactor: 1000, Load: 1.10}
	if n > 200 {
		c.ReplicationFactor = 20
	}
	return consistent.New(members, c)
}

type (
	sum  struct{}
	name string
)

func (sum) Sum64(b []byte) uint64 { return xxhash.Sum64(b) }
func (n name) String() string     { return string(n) }

// counts are the member counts that the goals of balance and movement are checked at.
func counts() []int {
	if *sweep {
		all := make([]int, 0, 199)
		for n := 2; n < 200; n++ { // each is grown by one; from 201 on the format has fewer points
			all = append(all, n)
		}
		return all
	}
	return []int{2, 3, 5, 10, 20, 33}
}

// TestBalanceAndMovement holds the goals: no member above 1.105 of the mean; when a member joins, close to the least
// possible share of keys moves, and hardly any between members that were there before. Measured on partitions: what is
// measured on few users is noise.
func TestBalanceAndMovement(t *testing.T) {
	for _, n := range counts() {
		before := ring.Build(pods(n)).Shares()
		peak := slices.Max(slices.Collect(maps.Values(before))) * float64(n)
		if peak > 1.105 {
			t.Errorf("%d members: the fullest has %.3f of the mean", n, peak)
		}
		old, grown := ring.Build(pods(n)), ring.Build(pods(n+1))
		joined := fmt.Sprintf("dovecot-backend-%d", n)
		moved, extra := 0, 0
		const keys = 65537
		for p := range keys {
			a, b := old.Owner(p), grown.Owner(p)
			if a != b {
				moved++
				if b != joined {
					extra++
				}
			}
		}
		ideal := keys / float64(n+1)
		if m := float64(moved) / ideal; m > 1.20 || m < 0.8 {
			t.Errorf("%d -> %d members: %.3f of the least movement", n, n+1, m)
		}
		most := 0.0021
		switch {
		case n > 100:
			most = 0.10
		case n > 50:
			most = 0.04
		case n > 20:
			most = 0.03
		}
		if e := float64(extra) / ideal; e > most {
			t.Errorf("%d -> %d members: %.4f moved between members that stay, %.4f is the bound", n, n+1, e, most)
		}
	}
}

// TestARollOfTenMovesTheMinimum restarts ten members one by one without any memory: each key leaves once and comes back
// once, 2.000 moves in the mean. Mappings make it none; this is the ring alone.
func TestARollOfTenMovesTheMinimum(t *testing.T) {
	all := pods(10)
	last := ring.Build(all)
	moves := 0
	step := func(next *ring.Table) {
		for p := range 65537 {
			if last.Owner(p) != next.Owner(p) {
				moves++
			}
		}
		last = next
	}
	for i := range all {
		step(ring.Build(slices.Delete(slices.Clone(all), i, i+1)))
		step(ring.Build(all))
	}
	if m := float64(moves) / 65537; m > 2.01 {
		t.Errorf("%.4f moves a key", m)
	}
}

func TestWeights(t *testing.T) {
	for name, weights := range map[string][]int{
		"one of three doubled": {1, 1, 2},
		"all different":        {1, 2, 3, 4},
		"a canary":             {10, 10, 10, 1},
	} {
		members, total := pods(len(weights)), 0
		for i, w := range weights {
			members[i].Weight, total = w, total+w
		}
		shares := ring.Build(members).Shares()
		for _, m := range members {
			if r := shares[m.Name] * float64(total) / float64(m.Weight); r > 1.10 || r < 0.85 {
				t.Errorf("%s: %s with weight %d has %.3f of its share", name, m.Name, m.Weight, r)
			}
		}
	}
	// Raising a weight takes from the others only what it needs.
	raised := pods(3)
	raised[2].Weight = 2
	before, after := ring.Build(pods(3)), ring.Build(raised)
	for p := range 65537 {
		if a, b := before.Owner(p), after.Owner(p); a != b && b != "dovecot-backend-2" {
			t.Fatalf("partition %d went from %s to %s", p, a, b)
		}
	}
}

// TestOrderDoesNotMatter builds tables of random weights from two orders, one with duplicates.
func TestOrderDoesNotMatter(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 30 {
		members := pods(8)
		for i := range members {
			members[i].Weight = random.IntN(4) - 1
		}
		want := ring.Build(members).Checksum()
		random.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		if got := ring.Build(append(members, members[:3]...)).Checksum(); got != want {
			t.Fatalf("%v: %x in another order, want %x", members, got, want)
		}
	}
}

func TestAnyNumberOfMembers(t *testing.T) {
	sizes := []int{0, 1, 2, 3, 100, 201, 500, 1000, 0, 1}
	if *sweep {
		sizes = sizes[:0]
		for n := range 1001 {
			sizes = append(sizes, n)
		}
	}
	for _, n := range sizes {
		table := ring.Build(pods(n))
		proposed, ok := table.Propose("ada@example.org")
		if ok != (n > 0) || ok == (proposed == "") {
			t.Errorf("%d members: proposed %q, %v", n, proposed, ok)
		}
		if len(table.Shares()) != n {
			t.Errorf("%d members: %d shares", n, len(table.Shares()))
		}
		for backend, share := range table.Shares() {
			if share == 0 {
				t.Errorf("%d members: %s has nothing", n, backend)
			}
		}
	}
}

func TestLookupsDoNotAllocate(t *testing.T) {
	table := ring.Build(pods(10))
	rooms := roomsOf(10, func(i int) float64 { return float64(i) })
	if n := testing.AllocsPerRun(100, func() { table.Propose("ada@example.org") }); n != 0 {
		t.Errorf("Propose: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { table.Place("ada@example.org", rooms) }); n != 0 {
		t.Errorf("Place: %v allocations", n)
	}
}

// TestLookupsDuringRebuilds is for the race detector: tables are swapped while they are read.
func TestLookupsDuringRebuilds(t *testing.T) {
	var current atomic.Pointer[ring.Table]
	current.Store(ring.Build(pods(3)))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if _, ok := current.Load().Propose("ada@example.org"); !ok {
						t.Error("no proposal")
						return
					}
				}
			}
		})
	}
	for i := range 10 {
		current.Store(ring.Build(pods(3 + i%3)))
	}
	close(stop)
	wg.Wait()
}

func roomsOf(n int, free func(int) float64) []director.Room {
	rooms := make([]director.Room, n)
	for i := range rooms {
		rooms[i] = director.Room{Backend: fmt.Sprintf("dovecot-backend-%d", i), Free: free(i)}
	}
	return rooms
}

// TestPlacementDoesNotDependOnTheTable places by the table whose members the rooms are, in their order and in another, and by an
// empty one.
func TestPlacementDoesNotDependOnTheTable(t *testing.T) {
	own, empty := ring.Build(pods(10)), new(ring.Table)
	rooms := roomsOf(10, func(i int) float64 { return float64(i + 1) })
	reversed := slices.Clone(rooms)
	slices.Reverse(reversed)
	users(10_000, func(user string) {
		want, _ := empty.Place(user, rooms)
		for name, got := range map[string]func() (string, bool){
			"own":              func() (string, bool) { return own.Place(user, rooms) },
			"in another order": func() (string, bool) { return own.Place(user, reversed) },
		} {
			if backend, ok := got(); backend != want || !ok {
				t.Fatalf("%s: %s is placed on %s, want %s", name, user, backend, want)
			}
		}
	})
}

func TestPlacementFollowsTheRoom(t *testing.T) {
	const n = 100_000
	rooms := roomsOf(5, func(i int) float64 { return float64(i * 100) })
	placed := map[string]int{}
	var table ring.Table
	users(n, func(user string) {
		backend, _ := table.Place(user, rooms)
		placed[backend]++
	})
	for _, room := range rooms {
		want := room.Free / 1000 * n
		// Five standard deviations of a binomial count.
		if got := float64(placed[room.Backend]); math.Abs(got-want) > 5*math.Sqrt(want+1) {
			t.Errorf("%s with %v free of 1000 got %v of %d users", room.Backend, room.Free, got, n)
		}
	}
}

func TestPlacementMovesOnlyTheKeysOfARoomThatCloses(t *testing.T) {
	var table ring.Table
	before := roomsOf(5, func(int) float64 { return 10 })
	after := slices.Delete(slices.Clone(before), 2, 3)
	users(10_000, func(user string) {
		a, _ := table.Place(user, before)
		b, _ := table.Place(user, after)
		if a != b && a != "dovecot-backend-2" {
			t.Fatalf("%s went from %s to %s", user, a, b)
		}
	})
}

func TestPlacementIsIndependentOfOrderAndOfNonsense(t *testing.T) {
	var table ring.Table
	rooms := roomsOf(5, func(i int) float64 { return float64(i + 1) })
	users(1000, func(user string) {
		want, _ := table.Place(user, rooms)
		shuffled := slices.Clone(rooms)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		shuffled = append(shuffled, director.Room{Backend: "nan", Free: math.NaN()}, director.Room{Backend: "inf", Free: math.Inf(1)},
			director.Room{Backend: "less", Free: -1}, director.Room{Backend: "none"})
		if got, ok := table.Place(user, shuffled); got != want || !ok {
			t.Fatalf("%s: %s in one order, %s in another", user, want, got)
		}
	})
	if got, ok := table.Place("ada", nil); ok || got != "" {
		t.Errorf("placed %q in no room", got)
	}
}

// TestDifference holds how much two tables differ, and that it is what moves of the users.
func TestDifference(t *testing.T) {
	five, six, none := ring.Build(pods(5)), ring.Build(pods(6)), ring.Build(nil)
	for name, tc := range map[string]struct {
		a, b        *ring.Table
		least, most float64
	}{
		"itself":            {five, ring.Build(pods(5)), 0, 0},
		"none and none":     {none, ring.Build(nil), 0, 0},
		"none and some":     {none, five, 1, 1},
		"some and none":     {five, none, 1, 1},
		"all others":        {ring.Build(pods(1)), ring.Build(pods(2)[1:]), 1, 1},
		"one more of six":   {five, six, six.Shares()[pods(6)[5].Name], 0.25},
		"one fewer of six":  {six, five, six.Shares()[pods(6)[5].Name], 0.25},
		"one more of equal": {ring.Build(pods(1)), ring.Build(pods(2)), 0.45, 0.55},
	} {
		if d := tc.a.Difference(tc.b); d < tc.least-1e-9 || d > tc.most {
			t.Errorf("%s: %v, want %v to %v", name, d, tc.least, tc.most)
		}
	}
}
