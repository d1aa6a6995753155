package status

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// seen returns a view at noon in which b0 is alive for sure, and the backends of lost were so a minute before.
func seen(lost ...string) *director.View {
	tracker := director.NewTracker(director.Graces{Restart: 5 * time.Minute, Failover: time.Minute, Panic: time.Hour})
	alive := []director.Backend{{Name: "b0", Addr: netip.MustParseAddr("192.0.2.1"), Weight: 1}, {Name: "b1", Addr: netip.MustParseAddr("192.0.2.2"), Weight: 1}}
	before := alive
	for i, name := range lost {
		before = append(before, director.Backend{Name: name, Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}), Weight: 1})
	}
	tracker.Observe(noon.Add(-2*time.Minute), director.Snapshot{Backends: before, CurrentAt: noon.Add(-2 * time.Minute)})
	return tracker.Observe(noon.Add(-time.Minute), director.Snapshot{Backends: alive, CurrentAt: noon.Add(-time.Minute)})
}

// well are vitals with two backends and nothing wrong.
func well() director.Vitals {
	return director.Vitals{
		At: noon, View: seen(), Counted: true, Ledger: &director.LedgerVitals{Replicas: 2}, UserPeak: 1, SessionPeak: 1,
		Backends: []director.BackendVitals{
			{Name: "b0", Alive: true, State: director.Active, Weight: 1, Users: 1000},
			{Name: "b1", Alive: true, State: director.Active, Weight: 1, Users: 1000},
		},
		Poll: &director.CensusReport{At: noon, Complete: true, Backends: map[string]director.Headcount{"b0": {Sessions: 500}, "b1": {Sessions: 500}}},
	}
}

func lose(v *director.Vitals, b director.BackendVitals, others ...string) {
	v.View = seen(append([]string{b.Name}, others...)...)
	v.Backends = append(v.Backends, b)
	for _, name := range others {
		b.Name = name
		v.Backends = append(v.Backends, b)
	}
}

func TestWhatIsWrong(t *testing.T) {
	const fine = ""
	for name, test := range map[string]struct {
		change func(v *director.Vitals, a *Around)
		want   string // a line each, ! for what is grave
	}{
		"nothing":  {func(*director.Vitals, *Around) {}, fine},
		"no view":  {func(v *director.Vitals, a *Around) { *v, a.Source = director.Vitals{At: noon}, "file x" }, "! No complete view of the backends has been seen yet, so all lookups fail here: file x."},
		"unready":  {func(_ *director.Vitals, a *Around) { a.Unready = []string{"process: shutting down", "orders: none"} }, "! This director gets no lookups: process: shutting down; orders: none."},
		"no store": {func(_ *director.Vitals, a *Around) { a.StoreDown, a.StoreSince = true, noon }, "! The database does not answer since 12:00:00 UTC. Users whom this director remembers are served, others are told to try again later. /readyz?verbose says why."},
		"no store, no ledger": {
			func(v *director.Vitals, a *Around) { a.StoreDown, a.StoreSince, v.Ledger = true, noon, nil },
			"! The database does not answer since 12:00:00 UTC. Users whom this director remembers are served, others are told to try again later. /readyz?verbose says why.",
		},
		"source": {func(_ *director.Vitals, a *Around) { a.SourceFailing, a.Source = true, "no such file" }, "The backends are known as of 11:59:00 UTC; nobody is moved from a lost one until they are seen again: no such file."},
		"lost": {
			func(v *director.Vitals, _ *Around) {
				lose(v, director.BackendVitals{Name: "b2", Cause: director.Planned, Waits: true, Users: 12345})
			},
			"! b2 is lost since 11:59:00 UTC: it restarts; its 12\u202f345 users wait until 12:04:00 UTC.",
		},
		"lost, one user": {
			func(v *director.Vitals, _ *Around) {
				lose(v, director.BackendVitals{Name: "b2", Cause: director.Planned, Waits: true, Users: 1})
			},
			"! b2 is lost since 11:59:00 UTC: it restarts; its 1 user waits until 12:04:00 UTC.",
		},
		"lost, not counted": {func(v *director.Vitals, _ *Around) {
			lose(v, director.BackendVitals{Name: "b2", Cause: director.Failed, Waits: true})
			v.Counted = false
		}, "! b2 is lost since 11:59:00 UTC: it fails; its users wait until 12:04:00 UTC."},
		"lost for good": {
			func(v *director.Vitals, _ *Around) {
				lose(v, director.BackendVitals{Name: "b2", Cause: director.Failed, Users: 5})
			},
			"b2 is lost since 11:59:00 UTC: it fails; it is not waited for any more: its 5 users get another one at the next login.",
		},
		"switched off": {func(v *director.Vitals, _ *Around) {
			lose(v, director.BackendVitals{Name: "b2", Cause: director.Disabled})
		}, fine},
		"many lost": {func(v *director.Vitals, _ *Around) {
			lose(v, director.BackendVitals{Name: "b2", Cause: director.Failed}, "b3", "b4", "b5", "b6", "b7", "b8")
			v.Panic = true
		}, `! More than half of the backends are lost at once, which may be a fault of what observes them: their users wait longer, and are not moved.
b2*
b3*
b4*
b5*
b6*
2 backends more are lost too; see the table.`},
		"none alive": {func(v *director.Vitals, _ *Around) { v.Backends = nil }, "! No backend is alive: nobody can log in."},
		"all drained": {
			func(v *director.Vitals, _ *Around) { v.Backends[0].Weight, v.Backends[1].Weight = 0, 0 },
			"! No backend takes new users: all that are alive are drained or stand by.",
		},
		"doubled": {func(v *director.Vitals, _ *Around) { v.Poll.Doubled = []director.Doubled{{User: "ada"}} }, "! 1 user is on two backends at once, which damages mailboxes; the verb status names them."},
		"mute": {func(v *director.Vitals, _ *Around) {
			v.Poll.Backends = map[string]director.Headcount{"b0": {Err: errors.New("no")}, "b1": {Err: errors.New("no")}}
		}, "b0 and b1 cannot be asked for sessions: nobody is moved from there without a kick."},
		"elsewhere": {func(v *director.Vitals, _ *Around) { v.Elsewhere = 2 }, "! 2 users are mapped to backends that this director has never seen alive; they wait until 12:03:00 UTC."},
		"elsewhere, later": {
			func(v *director.Vitals, _ *Around) { v.Elsewhere, v.At = 1, noon.Add(time.Hour) },
			"1 user is mapped to backends that this director has never seen alive; they get another one at the next login.",
		},
		"crowded": {func(v *director.Vitals, _ *Around) { v.UserPeak = 1.4 }, "The fullest backend has 1.40 times its share of users; rebalance --dry-run says what would help."},
		"crowded by a few": {func(v *director.Vitals, _ *Around) {
			v.UserPeak, v.Backends[0].Users, v.Backends[1].Users = 1.4, 70, 30
		}, fine},
		"busy":          {func(v *director.Vitals, _ *Around) { v.SessionPeak = 1.5 }, "The busiest backend has 1.50 times its share of sessions."},
		"no ledger":     {func(v *director.Vitals, _ *Around) { v.Ledger = nil }, "Tasks and other directors are not known: they cannot be read from the database. If migrate never made their tables, it has to."},
		"no ledger yet": {func(v *director.Vitals, _ *Around) { v.Ledger, v.At = nil, noon.Add(-115*time.Second) }, fine},
		"disagree":      {func(v *director.Vitals, _ *Around) { v.Ledger.Disagreeing = 1 }, "1 director sees other backends than this one."},
		"silent":        {func(v *director.Vitals, _ *Around) { v.Ledger.Silent = 11 * time.Second }, "A director has not been heard of: no move begins until it is back, or was dropped with forget-replica."},
		"paused": {func(v *director.Vitals, _ *Around) {
			v.Ledger.Tasks = []director.TaskVitals{{Kind: director.Evacuate, Backend: "b0", Paused: true, Left: 7}, {Kind: director.Rebalance, Left: 1}}
		}, "The task evacuate b0 is paused, with 7 users to go."},
		"the worst first": {func(v *director.Vitals, a *Around) {
			v.Ledger.Disagreeing, a.StoreDown = 1, true
			lose(v, director.BackendVitals{Name: "b2", Cause: director.Failed, Users: 1}, "b3")
			v.Backends[3].Waits = true
		}, "! The database*\n! b3*\nb2*\n1 director sees*"},
	} {
		t.Run(name, func(t *testing.T) {
			v, a := well(), Around{}
			test.change(&v, &a)
			var got []string
			for _, trouble := range wrong(v, a) {
				text := trouble.Text
				if trouble.Grave {
					text = "! " + text
				}
				got = append(got, text)
			}
			want := strings.FieldsFunc(test.want, func(c rune) bool { return c == '\n' })
			if len(got) != len(want) {
				t.Fatalf("got %d: %q", len(got), got)
			}
			for i := range want {
				if begin, open := strings.CutSuffix(want[i], "*"); got[i] != want[i] && !(open && strings.HasPrefix(got[i], begin)) {
					t.Errorf("got  %s\nwant %s", got[i], want[i])
				}
			}
			later := v
			later.At = later.At.Add(time.Second)
			if again := wrong(later, a); len(again) != len(got) || len(again) > 0 && again[len(again)-1].Text != wrong(v, a)[len(got)-1].Text {
				t.Error("it is another text a second later, and would be read out again")
			}
		})
	}
}
