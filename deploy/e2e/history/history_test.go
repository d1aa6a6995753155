package history_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/history"
)

// written is a history that is written down by hand. Times are in seconds; a grace is 10 s for backends that are not ready and 20 s for
// those that are gone.
type written struct {
	*history.History
	editions map[string]int
}

func write() *written {
	h := history.New(history.Config{Failover: 10 * time.Second, Restart: 20 * time.Second, Late: 3 * time.Second, MoveLimit: 30 * time.Second})
	return &written{h, map[string]int{}}
}

func at(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// addr is the address of the first instance of a backend that is named by one letter.
func addr(backend string) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, backend[0]}) }

// fed writes that a replica was told of a backend, and has read it a second later.
func (w *written) fed(seconds float64, replica, backend string, state history.State) {
	w.Feed(at(seconds), replica, backend, state, addr(backend))
	w.editions[replica]++
	w.Seen(at(seconds+1), replica, w.editions[replica])
}

// ready has replicas r and s see these backends from the begin.
func (w *written) ready(backends ...string) {
	for _, replica := range []string{"r", "s"} {
		for _, b := range backends {
			w.fed(-10, replica, b, history.Ready)
		}
	}
}

// passdb writes an answer, userdb another.
func (w *written) passdb(begin, end float64, replica, backend string) {
	w.answer(begin, end, replica, backend, false)
}

func (w *written) userdb(begin, end float64, replica, backend string) {
	w.answer(begin, end, replica, backend, true)
}

func (w *written) answer(begin, end float64, replica, backend string, userDB bool) {
	w.Add(history.Lookup{User: "ada", Replica: replica, UserDB: userDB, Begin: at(begin), End: at(end), Backend: backend, Addr: addr(backend)})
}

// row writes what the table says of ada, nothing for none.
func (w *written) row(seconds float64, backend string) {
	rows := map[string]string{}
	if backend != "" {
		rows["ada"] = backend
	}
	w.Look(at(seconds), at(seconds+0.1), rows)
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		write func(w *written)
		rule  string // that is broken, none if it is empty
	}{
		"one backend": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.passdb(2, 3, "s", "a")
			w.row(4, "a")
		}, ""},
		"another backend": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.passdb(3, 4, "s", "b")
		}, history.RuleMoved},
		"two at once": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.passdb(1, 2, "s", "b")
		}, history.RuleMoved},
		"another in the table": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.row(3, "b")
		}, history.RuleMoved},
		"nobody was told of the first": {func(w *written) {
			w.ready("a", "b")
			w.Add(history.Lookup{User: "ada", Replica: "r", Begin: at(1), End: at(2), Outcome: history.Unavailable})
			w.Add(history.Lookup{User: "ada", Replica: "s", Begin: at(1), End: at(2), Outcome: history.Held})
			w.passdb(3, 4, "s", "b")
		}, ""},
		"lost for the grace": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.fed(3, "r", "a", history.NotReady)
			w.passdb(12.9, 13.1, "r", "b")
			w.passdb(14, 15, "s", "b")
		}, ""},
		"answered after the return, and moved by who has not heard": {func(w *written) {
			w.ready("a", "b")
			w.fed(3, "r", "a", history.NotReady)
			w.fed(3, "s", "a", history.NotReady)
			w.fed(14, "r", "a", history.Ready)
			w.passdb(15, 15.1, "r", "a")
			w.passdb(16, 16.1, "s", "b")
			w.fed(17, "s", "a", history.Ready)
		}, history.RuleMoved},
		"the same, and his address is another": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.fed(3, "s", "a", history.NotReady)
			w.Feed(at(3), "r", "a", history.Gone, addr("a"))
			w.Seen(at(4), "r", 3)
			w.Feed(at(14), "r", "a", history.Ready, addr("z"))
			w.Seen(at(15), "r", 4)
			w.Add(history.Lookup{User: "ada", Replica: "r", Begin: at(14.5), End: at(14.6), Backend: "a", Addr: addr("z")})
			w.passdb(16, 16.1, "s", "b")
		}, history.RuleMoved},
		"moved while he was answered after the return": {func(w *written) {
			w.ready("a", "b")
			w.fed(3, "r", "a", history.NotReady)
			w.fed(3, "s", "a", history.NotReady)
			w.fed(14, "r", "a", history.Ready)
			w.passdb(15, 15.1, "s", "b")
			w.passdb(16, 16.1, "r", "b")
		}, ""},
		"answered after the return, and lost again": {func(w *written) {
			w.ready("a", "b")
			w.fed(3, "r", "a", history.NotReady)
			w.fed(14, "r", "a", history.Ready)
			w.passdb(15, 15.1, "r", "a")
			w.fed(20, "s", "a", history.NotReady)
			w.passdb(31, 31.1, "s", "b")
		}, ""},
		"answered after the return by who may not have heard of it": {func(w *written) {
			w.ready("a", "b")
			w.fed(3, "s", "a", history.NotReady)
			w.fed(11, "r", "a", history.NotReady)
			w.fed(14, "r", "a", history.Ready)
			w.passdb(14.5, 14.6, "r", "a")
			w.passdb(16, 16.1, "s", "b")
		}, ""},
		"looked at and asked for after the return, not answered": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.fed(3, "r", "a", history.NotReady)
			w.fed(3, "s", "a", history.NotReady)
			w.fed(14, "r", "a", history.Ready)
			w.userdb(15, 15.1, "r", "a")
			w.row(15.2, "a")
			w.passdb(16, 16.1, "s", "b")
		}, ""},
		"lost for less": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.fed(3, "r", "a", history.NotReady)
			w.passdb(12, 12.9, "r", "b")
		}, history.RuleMoved},
		"gone for the grace of those that fail": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.fed(3, "r", "a", history.Gone)
			w.passdb(14, 15, "r", "b")
		}, history.RuleMoved},
		"failed, then gone": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.fed(3, "r", "a", history.NotReady)
			w.fed(8, "r", "a", history.Gone)
			w.passdb(14, 15, "r", "b")
		}, ""},
		"one replica alone saw the loss": {func(w *written) {
			w.ready("a", "b")
			w.fed(3, "r", "a", history.NotReady)
			w.passdb(13, 13.1, "s", "a") // as it should
			w.passdb(13, 13.5, "r", "b")
			w.passdb(14, 15, "s", "b")
		}, ""},
		"back at the old one": {func(w *written) {
			w.ready("a", "b")
			w.fed(3, "r", "a", history.NotReady)
			w.passdb(1, 2, "r", "a")
			w.passdb(13, 13.5, "r", "b")
			w.passdb(14, 15, "s", "a")
		}, history.RuleMoved},
		"it came back in time": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.fed(3, "r", "a", history.NotReady)
			w.fed(11, "r", "a", history.Ready) // read by 12
			w.passdb(14, 15, "r", "b")
		}, history.RuleMoved},
		"it came back, but nobody knew": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.fed(3, "r", "a", history.NotReady)
			w.fed(12.5, "r", "a", history.Ready) // read by 13.5
			w.passdb(13.1, 13.4, "r", "b")
		}, ""},
		"lost long ago": {func(w *written) {
			w.ready("a", "b")
			w.fed(3, "r", "a", history.NotReady)
			w.fed(20, "r", "a", history.Ready)
			w.passdb(30, 31, "r", "a")
			w.passdb(32, 33, "r", "b")
		}, history.RuleMoved},
		"never seen is not lost": {func(w *written) {
			w.ready("b")
			w.fed(-10, "r", "a", history.Ready)
			w.passdb(40, 41, "r", "a")
			w.passdb(42, 43, "s", "b") // s was never told of a
		}, history.RuleMoved},
		"starting is not lost": {func(w *written) {
			w.ready("b")
			w.fed(-10, "r", "a", history.Ready)
			w.fed(1, "s", "a", history.NotReady)
			w.passdb(40, 41, "r", "a")
			w.passdb(42, 43, "s", "b")
		}, history.RuleMoved},
		"lost twice": {func(w *written) {
			w.ready("a", "b", "c")
			w.passdb(1, 2, "r", "a")
			w.fed(3, "r", "a", history.NotReady)
			w.fed(4, "r", "b", history.NotReady)
			w.passdb(15, 16, "r", "c") // perhaps by way of b
		}, ""},
		"ordered": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.Order(at(3), "ada", "b")
			w.passdb(4, 5, "r", "a")
			w.passdb(6, 7, "s", "b")
		}, ""},
		"ordered elsewhere": {func(w *written) {
			w.ready("a", "b", "c")
			w.passdb(1, 2, "r", "a")
			w.Order(at(3), "ada", "c")
			w.passdb(6, 7, "s", "b")
		}, history.RuleMoved},
		"ordered and refused": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.Order(at(3), "ada", "b")()
			w.passdb(6, 7, "s", "b")
		}, history.RuleMoved},
		"ordered too late": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.passdb(6, 7, "s", "b")
			w.Order(at(8), "ada", "b")
		}, history.RuleMoved},
		"ordered long ago": {func(w *written) {
			w.ready("a", "b")
			w.Order(at(3), "ada", "b")
			w.passdb(40, 41, "r", "a")
			w.passdb(42, 43, "s", "b")
		}, history.RuleMoved},
		"served from memory after the move": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "r", "a")
			w.Order(at(3), "ada", "b")
			w.passdb(8, 9, "r", "b")
			w.passdb(10, 11, "s", "a")
		}, history.RuleMoved},
		"old and new while it changes": {func(w *written) {
			w.ready("a", "b")
			w.Order(at(3), "ada", "b")
			w.passdb(1, 2, "r", "a")
			w.passdb(7, 9, "s", "a") // began before it changed
			w.passdb(7, 8, "r", "b")
			w.passdb(8, 9, "s", "b")
		}, ""},
		"new, then old, both while it changes": {func(w *written) {
			w.ready("a", "b")
			w.Order(at(3), "ada", "b")
			w.passdb(1, 2, "r", "a")
			w.passdb(7, 8, "r", "b")
			w.passdb(8.1, 9, "s", "a")
		}, history.RuleMoved},
		"a proposal binds nobody": {func(w *written) {
			w.ready("a", "b")
			w.userdb(1, 2, "r", "a")
			w.passdb(3, 4, "s", "b")
		}, ""},
		"a proposal for who is mapped": {func(w *written) {
			w.ready("a", "b")
			w.passdb(1, 2, "s", "b")
			w.userdb(3, 4, "r", "a")
		}, history.RuleMoved},
		"a proposal for whose backend is lost": {func(w *written) {
			w.ready("a", "b", "c")
			w.passdb(1, 2, "r", "a")
			w.fed(3, "r", "a", history.NotReady)
			w.userdb(14, 15, "r", "b")
			w.passdb(14, 15, "s", "a")
			w.passdb(16, 17, "r", "c")
		}, ""},
		"the row has gone": {func(w *written) {
			w.ready("a")
			w.row(1, "a")
			w.row(2, "")
			w.row(3, "a")
		}, history.RuleLost},
		"there was never a row": {func(w *written) {
			w.ready("a")
			w.passdb(1, 2, "r", "a")
			w.row(3, "")
		}, history.RuleLost},
		"no row yet": {func(w *written) {
			w.ready("a")
			w.row(0.5, "")
			w.row(1.9, "")
			w.passdb(1, 2, "r", "a")
			w.row(3, "a")
		}, ""},
		"who only looked needs no row": {func(w *written) {
			w.ready("a")
			w.userdb(1, 2, "r", "a")
			w.row(3, "")
		}, ""},
		"a backend that is not there": {func(w *written) {
			w.ready("a")
			w.fed(1, "r", "a", history.NotReady) // read by 2, and acted on by 5
			w.passdb(6, 7, "r", "a")
		}, history.RuleAddress},
		"a backend that has just gone": {func(w *written) {
			w.ready("a")
			w.fed(1, "r", "a", history.NotReady)
			w.passdb(4, 5, "r", "a")
		}, ""},
		"an old address": {func(w *written) {
			w.ready("a")
			w.Feed(at(1), "r", "a", history.Ready, addr("z"))
			w.Seen(at(2), "r", 2)
			w.passdb(6, 7, "r", "a")
		}, history.RuleAddress},
		"an address from the future": {func(w *written) {
			w.ready("b")
			w.fed(5, "r", "a", history.Ready)
			w.passdb(1, 2, "r", "a")
		}, history.RuleAddress},
		"a wrong password": {func(w *written) {
			w.Add(history.Lookup{User: "ada", Replica: "r", Begin: at(1), End: at(2), Outcome: history.Refused, Detail: `200 OK {"code":0}`})
		}, history.RuleRefused},
	} {
		t.Run(name, func(t *testing.T) {
			w := write()
			c.write(w)
			got := w.Check().Violations
			switch {
			case c.rule == "" && len(got) > 0:
				t.Errorf("nothing is wrong, but:\n%s", got[0].Text)
			case c.rule != "" && (len(got) != 1 || got[0].Rule != c.rule):
				t.Errorf("got %v, want one violation of %q", got, c.rule)
			}
		})
	}
}

// Whoever reads of a violation sees what led to it.
func TestViolationTellsTheStory(t *testing.T) {
	w := write()
	w.ready("a", "b")
	w.passdb(1, 2, "r", "a")
	w.fed(3, "r", "a", history.NotReady)
	w.Order(at(1.5), "ada", "c")
	w.Add(history.Lookup{User: "ada", Replica: "r", Begin: at(4), End: at(4.5), Outcome: history.Held, Detail: "in_grace"})
	w.row(5, "a")
	w.passdb(6, 7, "s", "b")
	w.passdb(6, 7, "s", "b")
	found := w.Check().Violations
	if len(found) != 1 {
		t.Fatalf("%d violations", len(found))
	}
	want := strings.TrimPrefix(`
moved, at 6.000s: ada is on b after a, which was not lost for its grace in any replica's feed since he was answered with it, and was not ordered there
  1.000s-2.000s  r asked by client 0, passdb: a at 127.0.0.97
  1.500s  ordered to c
  4.000s-4.500s  r asked by client 0, passdb: held in_grace
  5.000s-5.100s  the table says a
  6.000s-7.000s  s asked by client 0, passdb: b at 127.0.0.98
  6.000s-7.000s  s asked by client 0, passdb: b at 127.0.0.98
  r was fed of a: -10.000s ready at 127.0.0.97 (read by -9.000s); 3.000s not ready (read by 4.000s)
  r was fed of b: -10.000s ready at 127.0.0.98 (read by -9.000s)
  s was fed of a: -10.000s ready at 127.0.0.97 (read by -9.000s)
  s was fed of b: -10.000s ready at 127.0.0.98 (read by -9.000s)
`, "\n")
	if found[0].Text != want {
		t.Errorf("got\n%swant\n%s", found[0].Text, want)
	}
}

// Moves are counted. That a replica has not heard of a loss, and answers as ever, keeps nobody from moving its users.
func TestMovesAreCounted(t *testing.T) {
	w := write()
	w.ready("a", "b", "c")
	w.passdb(1, 2, "r", "a")
	w.fed(3, "r", "a", history.NotReady)
	w.passdb(14, 15, "r", "b")
	w.fed(15, "r", "b", history.NotReady)
	w.passdb(26, 27, "s", "b") // it never heard of the loss
	w.passdb(27.5, 28, "r", "c")
	r := w.Check()
	if len(r.Violations) > 0 || r.Moves != 2 {
		t.Errorf("got %+v, want 2 moves", r)
	}
	if c, want := w.Count(at(2), at(27.2)), (history.Counts{Lookups: 2, Answered: 2, Slowest: time.Second}); c != want {
		t.Errorf("got %+v, want %+v", c, want)
	}
}
