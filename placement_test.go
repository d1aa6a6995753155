package director_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	director "github.com/k-web-s/go-dovecot-director"
)

func TestRooms(t *testing.T) {
	weighted := backends(3)
	weighted[2].Weight = 2
	drained := backends(3)
	drained[1].Weight = 0
	for name, tc := range map[string]struct {
		backends []director.Backend
		counts   map[string]int
		want     map[string]float64
	}{
		"the users of a lost backend count into the shares": {
			backends(2),
			map[string]int{"dovecot-backend-0": 10, "dovecot-backend-1": 10, "dovecot-backend-2": 10},
			map[string]float64{"dovecot-backend-0": 5, "dovecot-backend-1": 5},
		},
		"the emptiest has the most room, the fullest none": {
			backends(3),
			map[string]int{"dovecot-backend-0": 60, "dovecot-backend-1": 30},
			map[string]float64{"dovecot-backend-0": 0, "dovecot-backend-1": 0, "dovecot-backend-2": 30},
		},
		"a weight of two gets a double share": {
			weighted,
			map[string]int{"gone": 40},
			map[string]float64{"dovecot-backend-0": 10, "dovecot-backend-1": 10, "dovecot-backend-2": 20},
		},
		"rows with an address count for its backend": {
			backends(2),
			map[string]int{"192.0.2.10": 8, "192.0.2.99": 2},
			map[string]float64{"dovecot-backend-0": 0, "dovecot-backend-1": 5},
		},
		"a drained backend has no room": {
			drained,
			map[string]int{"gone": 10},
			map[string]float64{"dovecot-backend-0": 5, "dovecot-backend-2": 5},
		},
		"without counts all are equal": {
			backends(2), nil,
			map[string]float64{"dovecot-backend-0": 1, "dovecot-backend-1": 1},
		},
		"nobody alive": {nil, map[string]int{"gone": 1}, map[string]float64{}},
	} {
		t.Run(name, func(t *testing.T) {
			view := director.NewTracker(graces).Observe(t0, director.Snapshot{Backends: tc.backends})
			got := map[string]float64{}
			for _, r := range director.Rooms(view, tc.counts) {
				got[r.Backend] = r.Free
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
