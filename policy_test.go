package director_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	director "github.com/k-web-s/go-dovecot-director"
)

// Only commit changes of golden files if you understand what caused them and if they are desired.
var update = flag.Bool("update", false, "rewrite golden files")

var (
	t0     = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	graces = director.Graces{Restart: 120 * time.Second, Failover: 30 * time.Second, Panic: 5 * time.Minute}
)

// fixedRing proposes and places the first member.
type fixedRing []director.Member

func (r fixedRing) Propose(string) (string, bool) {
	if len(r) == 0 {
		return "", false
	}
	return r[0].Name, true
}

func (r fixedRing) Place(_ string, rooms []director.Room) (string, bool) {
	for _, room := range rooms {
		if room.Free > 0 {
			return room.Backend, true
		}
	}
	return "", false
}

func backend(n int) director.Backend {
	return director.Backend{
		Name:     fmt.Sprintf("dovecot-backend-%d", n),
		Addr:     netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + n)}),
		Weight:   1,
		Instance: fmt.Sprintf("uid-%d", n),
	}
}

func backends(n int) []director.Backend {
	all := make([]director.Backend, n)
	for i := range all {
		all[i] = backend(i)
	}
	return all
}

// with returns the backends, the one called n in another condition.
func with(all []director.Backend, n int, c director.Condition) []director.Backend {
	all = append([]director.Backend(nil), all...)
	all[n].Condition = c
	return all
}

// world is a named history of views, ending at now.
type world struct {
	name string
	view *director.View
	now  time.Time
}

// observe runs a tracker through snapshots, each at its second, and returns the last view.
func observe(steps map[int]director.Snapshot) *director.View {
	tracker := director.NewTracker(graces)
	var view *director.View
	for second := range 1000 {
		if s, ok := steps[second]; ok {
			s.CurrentAt = t0.Add(time.Duration(second) * time.Second)
			view = tracker.Observe(s.CurrentAt, s)
		}
	}
	return view
}

func at(second int) time.Time { return t0.Add(time.Duration(second) * time.Second) }

// worlds are the views of the table. The user's backend is dovecot-backend-1 throughout; it is lost at second 100.
func worlds() []world {
	all := backends(5)
	proof := func(s director.Snapshot) map[int]director.Snapshot {
		return map[int]director.Snapshot{0: {Backends: all}, 100: s, 900: s}
	}
	lostAt100 := func(s director.Snapshot) map[int]director.Snapshot {
		return map[int]director.Snapshot{0: {Backends: all}, 100: s}
	}
	failed := director.Snapshot{Backends: with(all, 1, director.NotReady)}
	vanished := director.Snapshot{Backends: append(backends(1), all[2:]...)}
	terminating := director.Snapshot{Backends: with(all, 1, director.Terminating)}
	stopping := director.Snapshot{Backends: with(all, 1, director.Stopping)}
	removed := director.Snapshot{Backends: append(backends(1), all[2:]...), StatefulSets: scaled(1), ListsTerminating: true}
	removing := director.Snapshot{Backends: with(all, 1, director.Terminating), StatefulSets: scaled(1), ListsTerminating: true}
	most := director.Snapshot{Backends: with(with(with(all, 1, director.NotReady), 2, director.NotReady), 3, director.NotReady)}
	everything := director.Snapshot{}
	return []world{
		{"no view yet", nil, at(0)},
		{"all alive", observe(map[int]director.Snapshot{0: {Backends: all}}), at(9)},
		{"all alive, started 3s ago", observe(map[int]director.Snapshot{0: {Backends: all}}), at(3)},
		{"all alive, view unproven for 10m", observe(map[int]director.Snapshot{0: {Backends: all}}), at(600)},
		{"not ready for 10s", observe(lostAt100(failed)), at(110)},
		{"not ready for 29s", observe(lostAt100(failed)), at(129)},
		{"not ready for 31s, view unproven for 31s", observe(lostAt100(failed)), at(131)},
		{"not ready for 800s", observe(proof(failed)), at(901)},
		{"back 3s ago after 797s", observe(map[int]director.Snapshot{0: {Backends: all}, 100: failed, 897: {Backends: all}}), at(900)},
		{"vanished for 10s", observe(lostAt100(vanished)), at(110)},
		{"vanished for 119s", observe(lostAt100(vanished)), at(219)},
		{"vanished for 800s", observe(proof(vanished)), at(901)},
		{"started 10s ago, one is not ready yet", observe(map[int]director.Snapshot{0: failed}), at(10)},
		{"terminating for 10s", observe(lostAt100(terminating)), at(110)},
		{"terminating for 800s and still serving", observe(proof(terminating)), at(901)},
		{"terminating for 800s, no longer serving", observe(proof(stopping)), at(901)},
		{"removed by a scale-down 1s ago, its end cannot be seen", observe(lostAt100(removed)), at(101)},
		{"removed by a scale-down 800s ago", observe(proof(removed)), at(901)},
		{"removed by a scale-down 800s ago and still serving", observe(proof(removing)), at(901)},
		{"removed by a scale-down, its end was seen 1s ago", observe(map[int]director.Snapshot{0: {Backends: all}, 100: removing, 105: removed}), at(106)},
		{"3 of 5 not ready for 31s", observe(lostAt100(most)), at(131)},
		{"3 of 5 not ready for 299s", observe(lostAt100(most)), at(399)},
		{"3 of 5 not ready for 800s", observe(proof(most)), at(901)},
		{"everything vanished 10s ago", observe(lostAt100(everything)), at(110)},
		{"everything vanished 800s ago", observe(proof(everything)), at(901)},
	}
}

type row struct {
	name    string
	state   director.RowState
	mapping director.Mapping
	known   *director.Remembered
	outage  time.Duration
}

func rows(w world) []row {
	const day = 24 * time.Hour
	remembered := func(name string, ago time.Duration) *director.Remembered {
		return &director.Remembered{Backend: name, At: w.now.Add(-ago)}
	}
	return []row{
		{"no row", director.RowAbsent, director.Mapping{}, nil, 0},
		{"refused by the database", director.RowRefused, director.Mapping{}, nil, 0},
		{"row: backend-1, a day old", director.RowFound, director.Mapping{Backend: "dovecot-backend-1", Age: day}, nil, 0},
		{"row: backend-1, 2s old", director.RowFound, director.Mapping{Backend: "dovecot-backend-1", Age: 2 * time.Second}, nil, 0},
		{"row: address of backend-1, a day old", director.RowFound, director.Mapping{Backend: "192.0.2.11", Age: day}, nil, 0},
		{"row: never seen backend-9, a day old", director.RowFound, director.Mapping{Backend: "dovecot-backend-9", Age: day}, nil, 0},
		{"row: never seen backend-9, 2s old", director.RowFound, director.Mapping{Backend: "dovecot-backend-9", Age: 2 * time.Second}, nil, 0},
		{"row: address never seen, a day old", director.RowFound, director.Mapping{Backend: "198.51.100.7", Age: day}, nil, 0},
		{"store down for 1s, nothing remembered", director.RowUnavailable, director.Mapping{}, nil, time.Second},
		{"store down for 60s, nothing remembered", director.RowUnavailable, director.Mapping{}, nil, time.Minute},
		{"store down, backend-1 remembered 0s ago", director.RowUnavailable, director.Mapping{}, remembered("dovecot-backend-1", 0), time.Minute},
		{"store down, backend-1 remembered 61m ago", director.RowUnavailable, director.Mapping{}, remembered("dovecot-backend-1", 61*time.Minute), time.Minute},
	}
}

// TestPolicyTable enumerates the policy into a file that a person can read.
func TestPolicyTable(t *testing.T) {
	var out bytes.Buffer
	out.WriteString("# The whole table of Policy.Decide, made by TestPolicyTable. Five backends, dovecot-backend-0 to -4. The ring proposes\n" +
		"# backend-0 where it is alive. dovecot-backend-1 is lost at the time that the heading says. Waits: restart 120s, failover 30s,\n" +
		"# panic 5m. userdb lookups serve where passdb lookups assign, and are listed only where they differ otherwise.\n")
	for _, w := range worlds() {
		fmt.Fprintf(&out, "\n%s\n", w.name)
		for _, r := range rows(w) {
			if w.view == nil && r.state != director.RowAbsent {
				continue
			}
			facts := facts(w, r)
			decision := director.Policy{}.Decide(facts)
			fmt.Fprintf(&out, "  %-42s %s\n", r.name, describe(decision, w.now))
			facts.ReadOnly = true
			if got, want := (director.Policy{}).Decide(facts), readOnly(decision); got != want {
				fmt.Fprintf(&out, "  %-42s %s\n", "  userdb", describe(got, w.now))
			}
			facts.ReadOnly = false
			if strict := (director.Policy{RejectUnknown: true}).Decide(facts); strict != decision {
				fmt.Fprintf(&out, "  %-42s %s\n", "  unknown users rejected", describe(strict, w.now))
			}
		}
	}
	golden(t, "testdata/policy.golden", out.Bytes())
}

func facts(w world, r row) director.Facts {
	f := director.Facts{Now: w.now, View: w.view, Key: "ada@example.org", Row: r.state, Mapping: r.mapping, Remembered: r.known, Outage: r.outage}
	if w.view != nil {
		f.Ring = fixedRing(w.view.Members())
		// Only backend-2 and -3 have room, which tells placing from proposing.
		f.Rooms = director.Rooms(w.view, map[string]int{"dovecot-backend-0": 100, "dovecot-backend-4": 100})
	}
	return f
}

func readOnly(d director.Decision) director.Decision {
	if d.Verb == director.Assign {
		d.Verb = director.Serve
	}
	return d
}

func describe(d director.Decision, now time.Time) string {
	var details []string
	switch {
	case d.Verb == director.Assign && d.From != "":
		details = append(details, d.From+" -> "+d.Backend)
	case d.Backend != "":
		details = append(details, d.Backend)
	}
	if !d.Until.IsZero() {
		details = append(details, fmt.Sprintf("%s more", d.Until.Sub(now)))
	}
	if d.RetryAfter != 0 {
		details = append(details, fmt.Sprintf("ask again in %s", d.RetryAfter))
	}
	return strings.TrimRight(fmt.Sprintf("%-11s %-12s %s", d.Verb, d.Reason, strings.Join(details, ", ")), " ")
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; make it with: go test -run %s -update", err, t.Name())
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got); if that is desired: go test -run %s -update\n%s", file, t.Name(), diff)
	}
}
