package director_test

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"

	director "github.com/k-web-s/go-dovecot-director"
	"pgregory.net/rapid"
)

// hashRing proposes by a hash of the key alone, so that proposals are spread.
type hashRing []director.Member

func (r hashRing) Propose(key string) (string, bool) {
	h := uint32(2166136261)
	for _, c := range []byte(key) {
		h = (h ^ uint32(c)) * 16777619
	}
	return r[h%uint32(len(r))].Name, true
}

func (r hashRing) Place(string, []director.Room) (string, bool) { panic("a plan places nobody") }

// residing makes members of weight 1 with so many users each.
func residing(users ...int) (members []director.Member, residents []director.Resident) {
	for m, n := range users {
		name := fmt.Sprintf("b%d", m)
		members = append(members, director.Member{Name: name, Weight: 1})
		for i := range n {
			user := fmt.Sprintf("user-%d-%d", m, i)
			residents = append(residents, director.Resident{User: user, Key: user, Backend: name, Load: 1})
		}
	}
	return members, residents
}

// TestTheManualsExample is "Rebalancing Backends" of Dovecot's manual for its Director, which makes 97 moves.
func TestTheManualsExample(t *testing.T) {
	members, residents := residing(80, 70, 60, 10, 10)
	for _, tc := range []struct {
		slack float64
		moves int
		peak  float64
	}{{2.0 / 46, 66, 48.0 / 46}, {0, 72, 1}, {1, 0, 80.0 / 46}} {
		plan := director.Planner{Slack: tc.slack}.Plan(members, hashRing(members), residents)
		if peak := director.Peak(plan.After); len(plan.Moves) != tc.moves || plan.Least != tc.moves || math.Abs(peak-tc.peak) > 1e-9 {
			t.Errorf("slack %.3f: %d moves of at least %d, peak %.3f; want %d moves, peak %.3f", tc.slack, len(plan.Moves), plan.Least, peak, tc.moves, tc.peak)
		}
	}
}

// applied is what a plan leads to; it fails if the plan moves somebody who is not there.
func applied(t *rapid.T, residents []director.Resident, plan director.Plan) map[string]float64 {
	at := map[string]director.Resident{}
	for _, r := range residents {
		at[r.User] = r
	}
	for _, m := range plan.Moves {
		if at[m.User] != m.Resident || m.To == m.Backend {
			t.Fatalf("%v moves, who is %v", m, at[m.User])
		}
		r := m.Resident
		r.Backend = m.To
		at[m.User] = r
	}
	has := map[string]float64{}
	for _, r := range at {
		has[r.Backend] += r.Load
	}
	return has
}

// TestPlansOfEqualUsers holds for any site: the least number of moves, all within their limits after it, none twice.
func TestPlansOfEqualUsers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, residents := residing(rapid.SliceOfN(rapid.IntRange(0, 60), 1, 8).Draw(t, "users")...)
		weights := 0
		for i := range members {
			members[i].Weight = rapid.IntRange(1, 3).Draw(t, "weight")
			weights += members[i].Weight
		}
		slack := rapid.SampledFrom([]float64{0, 0.05, 0.1, 0.25}).Draw(t, "slack")
		planner := director.Planner{Slack: slack, IdleFirst: rapid.Bool().Draw(t, "idle first")}
		for i := range residents {
			residents[i].Idle = rapid.Bool().Draw(t, "idle")
		}
		plan := planner.Plan(members, hashRing(members), residents)
		has := applied(t, residents, plan)
		want, whole := 0, true
		before := map[string]float64{}
		for _, r := range residents {
			before[r.Backend]++
		}
		for i, m := range members {
			limit := (1 + slack) * float64(len(residents)) * float64(m.Weight) / float64(weights)
			floor := math.Floor(limit + 1e-6)
			want += max(0, int(before[m.Name]-floor))
			whole = whole && limit-floor < 1e-6
			if has[m.Name] > max(floor, before[m.Name]) {
				t.Fatalf("%s has %v, its limit is %v", m.Name, has[m.Name], limit)
			}
			if plan.After[i].Has != has[m.Name] || plan.Before[i].Has != before[m.Name] {
				t.Fatalf("%s: the plan says %v to %v, it is %v to %v", m.Name, plan.Before[i], plan.After[i], before[m.Name], has[m.Name])
			}
			if whole && slack >= 0.05 && has[m.Name] > floor {
				t.Fatalf("%s has %v after it, its limit is %v", m.Name, has[m.Name], limit)
			}
		}
		if plan.Least != want || len(plan.Moves) > want {
			t.Fatalf("%d moves, the least is %d; it should be %d", len(plan.Moves), plan.Least, want)
		}
		if whole && len(plan.Moves) != want {
			t.Fatalf("%d moves where %d are needed", len(plan.Moves), want)
		}
		slices.Reverse(residents)
		if again := planner.Plan(members, hashRing(members), residents); !reflect.DeepEqual(plan, again) {
			t.Fatal("another order of users makes another plan")
		}
	})
}

// unequal makes users of whom the k-th weighs 400/k sessions, on members of which the later are empty; most are idle.
func unequal(users, members, filled int) ([]director.Member, []director.Resident) {
	all, _ := residing(make([]int, members)...)
	residents := make([]director.Resident, users)
	for i := range residents {
		user := fmt.Sprintf("user-%d", i)
		k := i*7919%users + 1
		residents[i] = director.Resident{User: user, Key: user, Backend: all[i%filled].Name, Load: 400 / float64(k), Idle: i*31%10 > 1}
	}
	return all, residents
}

// TestPlansOfUnequalUsers holds what goals there are: the heaviest first comes within 2 % of the least, and who has no session goes
// before who has while that is enough.
func TestPlansOfUnequalUsers(t *testing.T) {
	members, residents := unequal(50_000, 10, 5)
	heavy := director.Planner{Slack: 0.1}.Plan(members, hashRing(members), residents)
	if peak := director.Peak(heavy.After); peak > 1.1+1e-6 || float64(len(heavy.Moves)) > 1.02*float64(heavy.Least) || heavy.Least == 0 {
		t.Errorf("heaviest first: %d moves of at least %d, peak %.3f", len(heavy.Moves), heavy.Least, peak)
	}
	idle := director.Planner{Slack: 0.1, IdleFirst: true}.Plan(members, hashRing(members), residents)
	kicks := 0
	for _, m := range idle.Moves {
		if !m.Idle {
			kicks++
		}
	}
	if peak := director.Peak(idle.After); peak > 1.1+1e-6 || float64(kicks) > 0.001*float64(len(residents)) {
		t.Errorf("idle first: %d moves, %d of them kicks, peak %.3f", len(idle.Moves), kicks, peak)
	}
}

// TestAPlanMindsTheRing holds that users go where they would be proposed, as far as there is room.
func TestAPlanMindsTheRing(t *testing.T) {
	members, residents := residing(3000, 0, 0)
	plan := director.Planner{Slack: 0.1}.Plan(members, hashRing(members), residents)
	proposed := 0
	for _, m := range plan.Moves {
		if to, _ := hashRing(members).Propose(m.Key); to == m.To {
			proposed++
		}
	}
	if part := float64(proposed) / float64(len(plan.Moves)); part < 0.95 {
		t.Errorf("%.2f of %d moves are to where the ring proposes", part, len(plan.Moves))
	}
}

// TestWhomAPlanLeavesAlone: users of no load, users of backends that are no members, and everybody if there is nothing to do.
func TestWhomAPlanLeavesAlone(t *testing.T) {
	members, residents := residing(10, 0)
	for i := range residents {
		residents[i].Load = 0
	}
	residents = append(residents, director.Resident{User: "elsewhere", Backend: "lost", Load: 1})
	if plan := (director.Planner{}).Plan(members, hashRing(members), residents); len(plan.Moves) != 0 || plan.Least != 0 || director.Peak(plan.Before) != 0 {
		t.Errorf("%+v", plan)
	}
	if plan := (director.Planner{}).Plan(nil, hashRing(nil), residents); len(plan.Moves) != 0 {
		t.Errorf("no members: %+v", plan)
	}
	members, residents = residing(7, 7, 7)
	slices.SortFunc(residents, func(a, b director.Resident) int { return cmp.Compare(b.User, a.User) })
	if plan := (director.Planner{}).Plan(members, hashRing(members), residents); len(plan.Moves) != 0 {
		t.Errorf("even already: %+v", plan.Moves)
	}
}

// TestUsersWithoutALoadStay holds that nobody is moved in vain, be he the first in line or on a backend that is not a member.
func TestUsersWithoutALoadStay(t *testing.T) {
	members := []director.Member{{Name: "b-0", Weight: 1}, {Name: "b-1", Weight: 1}}
	var residents []director.Resident
	for i := range 8 {
		residents = append(residents,
			director.Resident{User: fmt.Sprintf("idle-%d", i), Backend: "b-0", Idle: true},
			director.Resident{User: fmt.Sprintf("user-%d", i), Backend: "b-0", Load: 1},
			director.Resident{User: fmt.Sprintf("else-%d", i), Backend: "b-9", Load: 1})
	}
	plan := director.Planner{IdleFirst: true}.Plan(members, fixedRing(members), residents)
	if len(plan.Moves) != 4 || plan.Least != 4 {
		t.Errorf("%d moves, %d at least", len(plan.Moves), plan.Least)
	}
	for _, m := range plan.Moves {
		if m.Load == 0 || m.Backend != "b-0" || m.To != "b-1" {
			t.Errorf("%+v", m)
		}
	}
}
