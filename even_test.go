package director_test

import (
	"testing"
	"testing/synctest"

	director "github.com/k-web-s/go-dovecot-director"
)

// TestEveningOut holds who is moved at a login, and who never is. fixedRing places in the first room that has any.
func TestEveningOut(t *testing.T) {
	view := observe(map[int]director.Snapshot{0: {Backends: backends(4)}})
	facts := func(on string, change func(*director.Facts)) director.Facts {
		f := director.Facts{
			Now: at(1), View: view, Ring: fixedRing(view.Members()), Key: "ada", Row: director.RowFound, Mapping: director.Mapping{Backend: on},
			Load: &director.Load{Idle: true, Expected: 2, Typical: 2, Sessions: map[string]float64{
				"dovecot-backend-0": 100, "dovecot-backend-1": 160, "dovecot-backend-2": 40, "dovecot-backend-3": 100,
			}},
		}
		if change != nil {
			change(&f)
		}
		return f
	}
	const crowded, full, empty = "dovecot-backend-1", "dovecot-backend-0", "dovecot-backend-2"
	for _, tc := range []struct {
		name  string
		f     director.Facts
		above float64
		to    string // empty: stays
	}{
		{"on the crowded one", facts(crowded, nil), 1.1, empty},
		{"it is not wanted", facts(crowded, nil), 0, ""},
		{"on one that has its share", facts(full, nil), 1.1, ""},
		{"crowded, but not above the limit", facts(crowded, nil), 1.7, ""},
		{"at the limit", facts(crowded, nil), 1.6, ""},
		{"a session is open", facts(crowded, func(f *director.Facts) { f.Load.Idle = false }), 1.1, ""},
		{"weighs too little", facts(crowded, func(f *director.Facts) { f.Load.Expected = 0.49 }), 1.1, ""},
		{"nothing is known", facts(crowded, func(f *director.Facts) { f.Load = nil }), 1.1, ""},
		{"only looked at", facts(crowded, func(f *director.Facts) { f.ReadOnly = true }), 1.1, ""},
		{"hardly any sessions", facts(crowded, func(f *director.Facts) { f.Load.Sessions = map[string]float64{crowded: 1e-300} }), 1.1, full},
		{"no sessions at all", facts(crowded, func(f *director.Facts) { f.Load.Sessions = nil }), 1.1, ""},
	} {
		d := director.Policy{EvenAbove: tc.above}.Decide(tc.f)
		want := director.Decision{Verb: director.Serve, Reason: director.Mapped, Backend: tc.f.Mapping.Backend}
		if tc.to != "" {
			want = director.Decision{Verb: director.Assign, Reason: director.Evened, Backend: tc.to, From: tc.f.Mapping.Backend}
		}
		if d != want {
			t.Errorf("%s: %+v, want %+v", tc.name, d, want)
		}
	}
}

// chance places in the room that has more; it draws nothing.
type chance struct{ fixedRing }

func (c chance) Place(_ string, rooms []director.Room) (string, bool) {
	best := director.Room{}
	for _, r := range rooms {
		if r.Free > best.Free {
			best = r
		}
	}
	return best.Backend, best.Free > 0
}

// TestLightUsersAreDrawn holds that who weighs little is moved with a chance of less than a half, as chance sees it.
func TestLightUsersAreDrawn(t *testing.T) {
	view := observe(map[int]director.Snapshot{0: {Backends: backends(2)}})
	for expected, moves := range map[float64]bool{0.5: false, 1.2: false, 1.3: true, 2: true, 3: true} {
		d := director.Policy{EvenAbove: 1.1}.Decide(director.Facts{
			Now: at(1), View: view, Ring: chance{fixedRing(view.Members())}, Row: director.RowFound, Mapping: director.Mapping{Backend: "dovecot-backend-0"},
			Load: &director.Load{Idle: true, Expected: expected, Typical: 2, Sessions: map[string]float64{"dovecot-backend-0": 10}},
		})
		if (d.Reason == director.Evened) != moves { // (1.26/2)^1.5 is a half
			t.Errorf("%v of 2 sessions: %+v", expected, d)
		}
	}
}

// TestEvenedOutForGood holds that the move is written and answered, once.
func TestEvenedOutForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		store.put("ada", "dovecot-backend-1")
		b := newBench(t, store, func(c *director.Config) {
			c.Policy.EvenAbove = 1.1
			c.Load = func(user string) *director.Load {
				return &director.Load{Idle: true, Expected: 1, Typical: 1, Sessions: map[string]float64{"dovecot-backend-1": 10}}
			}
		})
		b.see(backends(3))
		b.want("ada", director.Serve, director.Evened, "dovecot-backend-0")
		b.want("ada", director.Serve, director.Mapped, "dovecot-backend-0")
		if got := store.row("ada"); got != "dovecot-backend-0" {
			t.Errorf("the row says %s", got)
		}
	})
}
