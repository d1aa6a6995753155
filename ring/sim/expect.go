package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// expectation is a bound on a figure.
type expectation struct {
	figure  figure
	compare string
	bound   float64
	text    string
	line    int
}

// figure is one number of a phase.
type figure struct {
	name, what string
	of         func(*Phase) float64
}

// figures are what can be expected, and what the table of all figures shows.
var figures = []figure{
	{"users", "users with a backend at the end", func(p *Phase) float64 { return float64(p.Users) }},
	{"logins", "logins that succeeded", func(p *Phase) float64 { return float64(p.Logins) }},
	{"refused", "lookups that were told to try again", func(p *Phase) float64 { return float64(p.Refused) }},
	{"moves", "changes of a user's backend", func(p *Phase) float64 { return float64(p.Moves) }},
	{"moved_users", "users who were moved at least once", func(p *Phase) float64 { return float64(p.MovedUsers) }},
	{"moves_per_user", "moves divided by users", func(p *Phase) float64 { return p.perUser(float64(p.Moves)) }},
	{"least_moves", "users whose backend was lost for good and who logged in after", func(p *Phase) float64 { return float64(p.LeastMoves) }},
	{"moves_beyond_least", "moves that nobody's loss made necessary", func(p *Phase) float64 { return float64(p.Moves - p.LeastMoves) }},
	{"moves_vs_least", "moves divided by the least possible", func(p *Phase) float64 { return ratio(float64(p.Moves), float64(p.LeastMoves)) }},
	{"kicked_users", "times that a user's sessions were ended to move him", func(p *Phase) float64 { return float64(p.Kicked) }},
	{"kicks_per_user", "those divided by users", func(p *Phase) float64 { return p.perUser(float64(p.Kicked)) }},
	{"waited_users", "users who were told to try again at least once", func(p *Phase) float64 { return float64(p.WaitedUsers) }},
	{"wait_mean", "seconds that they were without a session, on average", func(p *Phase) float64 { return p.WaitMean }},
	{"wait_max", "the same of the one who waited longest", func(p *Phase) float64 { return p.WaitMax }},
	{"unavailable_per_user", "seconds without a session that a fault took, over all users", func(p *Phase) float64 { return p.perUser(p.Unavailable) }},
	{"split_users", "users who had sessions on two backends at a time", func(p *Phase) float64 { return float64(p.SplitUsers) }},
	{"users_peak", "users of the fullest backend at the end, divided by its share", func(p *Phase) float64 { return p.UsersLoad.Peak }},
	{"users_peak_worst", "the same at its worst", func(p *Phase) float64 { return p.UsersLoad.Worst }},
	{"sessions_peak", "sessions of the fullest backend at the end, divided by its share", func(p *Phase) float64 { return p.SessionsLoad.Peak }},
	{"sessions_peak_worst", "the same at its worst, as far as there are 1,000 sessions", func(p *Phase) float64 { return p.SessionsLoad.Worst }},
}

func ratio(a, b float64) float64 {
	if a == b {
		return 1
	}
	return a / b
}

func readExpectations(n node, into *[]expectation) error {
	return n.pairs(func(key, value node) error {
		i := slices.IndexFunc(figures, func(f figure) bool { return f.name == key.Value })
		if i < 0 {
			names := make([]string, len(figures))
			for i, f := range figures {
				names[i] = f.name
			}
			return key.errorf("%q is no figure; expected is one of %s", key.Value, strings.Join(names, ", "))
		}
		e := expectation{figure: figures[i], compare: "==", text: value.Value, line: key.Line}
		bound := value.Value
		for _, c := range []string{"<=", ">=", "<", ">", "=="} {
			if rest, ok := strings.CutPrefix(bound, c); ok {
				e.compare, bound = c, strings.TrimSpace(rest)
				break
			}
		}
		var err error
		if e.bound, err = strconv.ParseFloat(strings.ReplaceAll(bound, "_", ""), 64); err != nil {
			var d time.Duration
			if d, err = parseDuration(bound, 0, longest); err != nil {
				return value.errorf("%s where a bound is expected: a number or a duration, with <=, <, >= or > before it if it is no exact one", kindOf(value.Node))
			}
			e.bound = d.Seconds()
		}
		*into = append(*into, e)
		return nil
	})
}

// holds reports whether a phase is as expected.
func (e expectation) holds(p *Phase) bool {
	c := cmp.Compare(e.figure.of(p), e.bound)
	switch e.compare {
	case "<=":
		return c <= 0
	case ">=":
		return c >= 0
	case "<":
		return c < 0
	case ">":
		return c > 0
	}
	return c == 0
}

// check returns a sentence for each expectation that a phase does not meet.
func check(file string, expected []expectation, p *Phase) []string {
	var failed []string
	for _, e := range expected {
		if !e.holds(p) {
			failed = append(failed, fmt.Sprintf("%s:%d: phase %s: %s is %s, expected is %s", file, e.line, p.Name, e.figure.name, trim(e.figure.of(p)), e.text))
		}
	}
	return failed
}

// trim writes a number with three decimals at most.
func trim(v float64) string {
	s := strconv.FormatFloat(v, 'f', 3, 64)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}
