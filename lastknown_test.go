package director

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestLastKnownRemembersTheNewestUsersOnly(t *testing.T) {
	const capacity = 16_000
	table := newLastKnown(capacity, nil)
	start := time.Unix(1_800_000_000, 5)
	at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Second) }
	for i := range 10 * capacity {
		table.learn(fmt.Sprintf("user-%d", i), fmt.Sprintf("backend-%d", i%7), at(i))
	}
	remembered, young := 0, 0
	for i := range 10 * capacity {
		r := table.recall(fmt.Sprintf("user-%d", i))
		if r == nil {
			continue
		}
		// Entries are as old as the tick that they were learnt in.
		if r.Backend != fmt.Sprintf("backend-%d", i%7) || r.At.After(at(i)) || at(i).Sub(r.At) >= tick {
			t.Fatalf("user-%d is remembered as %+v", i, r)
		}
		remembered++
		if i >= 10*capacity-capacity/4 {
			young++
		}
	}
	// Buckets fill unevenly: of the newest quarter hardly anybody is forgotten.
	if remembered > capacity || remembered < capacity*9/10 || young < capacity/4*99/100 {
		t.Errorf("%d of %d are remembered, and %d of the newest %d", remembered, capacity, young, capacity/4)
	}
}

// TestLastKnownMindsClocks holds that an entry is never taken for younger than it is.
func TestLastKnownMindsClocks(t *testing.T) {
	table := newLastKnown(16, nil)
	now := time.Unix(1_800_000_000, 99e6)
	for _, later := range []time.Duration{0, 50 * time.Millisecond, -time.Hour, time.Hour, 20 * 365 * 24 * time.Hour} {
		at := now.Add(later)
		table.learn("ada", "backend-0", at)
		r := table.recall("ada")
		if told := later >= 0 && later <= time.Hour; (r != nil) != told || told && (r.At.After(at) || at.Sub(r.At) >= tick) {
			t.Errorf("learnt at %s, remembered %+v", at, r)
		}
	}
}

func TestLastKnownMayRememberNobody(t *testing.T) {
	table := newLastKnown(0, nil)
	table.learn("ada", "backend-0", time.Unix(1_800_000_000, 0))
	if r := table.recall("ada"); r != nil {
		t.Errorf("remembers %+v", r)
	}
}

func TestLastKnownIsForMany(t *testing.T) {
	table := newLastKnown(100_000, nil)
	now := time.Unix(1_800_000_000, 0)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				user, backend := fmt.Sprintf("user-%d-%d", w, i), fmt.Sprintf("backend-%d", i%100)
				table.learn(user, backend, now)
				if r := table.recall(user); r == nil || r.Backend != backend {
					t.Errorf("%s on %s is remembered as %+v", user, backend, r)
				}
			}
		})
	}
	wg.Wait()
}

func TestLastKnownLearnsAnew(t *testing.T) {
	table := newLastKnown(100, nil)
	now := time.Unix(1_800_000_000, 0)
	table.learn("ada", "backend-0", now)
	table.learn("ada", "backend-1", now.Add(time.Minute))
	if r := table.recall("ada"); r.Backend != "backend-1" || now.Add(time.Minute).Sub(r.At).Abs() >= tick {
		t.Errorf("remembered %+v", r)
	}
	if r := table.recall("grace"); r != nil {
		t.Errorf("remembers somebody it never saw: %+v", r)
	}
}

// TestLastKnownForgetsOneOfABucket holds that its neighbours stay, and that it is known how many are remembered.
func TestLastKnownForgetsOneOfABucket(t *testing.T) {
	table := newLastKnown(4, nil)
	now := time.Unix(1_800_000_000, 0)
	is := func(size int64, users ...string) {
		t.Helper()
		for _, user := range users {
			if table.recall(user) == nil {
				t.Errorf("%s is not remembered", user)
			}
		}
		if n := table.size.Load(); n != size {
			t.Errorf("%d are remembered, want %d", n, size)
		}
	}
	for i, user := range []string{"ada", "bob", "cyd", "ada"} {
		table.learn(user, "backend-0", now.Add(time.Duration(i)*time.Second))
	}
	is(3, "ada", "bob", "cyd")
	table.forget("bob")
	table.forget("bob")
	is(2, "ada", "cyd")
	for i, user := range []string{"dan", "eve", "fay"} {
		table.learn(user, "backend-0", now.Add(time.Duration(10+i)*time.Second))
	}
	is(4, "ada", "dan", "eve", "fay") // the oldest has given way
}
