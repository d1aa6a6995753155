package director

import (
	"fmt"
	"testing"
	"time"
)

func TestLastKnownRemembersTheNewestUsersOnly(t *testing.T) {
	const capacity = 1000
	table := newLastKnown(capacity)
	start := time.Unix(1_800_000_000, 5)
	for i := range 10 * capacity {
		table.learn(fmt.Sprintf("user-%d", i), fmt.Sprintf("backend-%d", i%7), start.Add(time.Duration(i)))
		if n := table.size(); n > capacity {
			t.Fatalf("%d entries after %d users, %d is the bound", n, i+1, capacity)
		}
	}
	for i := 10*capacity - capacity/2; i < 10*capacity; i++ {
		r := table.recall(fmt.Sprintf("user-%d", i))
		if r == nil || r.Backend != fmt.Sprintf("backend-%d", i%7) || !r.At.Equal(start.Add(time.Duration(i))) {
			t.Fatalf("user-%d is remembered as %+v", i, r)
		}
	}
	if r := table.recall("user-0"); r != nil {
		t.Errorf("the oldest user is still remembered: %+v", r)
	}
}

func TestLastKnownLearnsAnew(t *testing.T) {
	table := newLastKnown(100)
	now := time.Unix(1_800_000_000, 0)
	table.learn("ada", "backend-0", now)
	table.learn("ada", "backend-1", now.Add(time.Minute))
	if r := table.recall("ada"); r.Backend != "backend-1" || !r.At.Equal(now.Add(time.Minute)) {
		t.Errorf("remembered %+v", r)
	}
	if r := table.recall("grace"); r != nil {
		t.Errorf("remembers somebody it never saw: %+v", r)
	}
}
