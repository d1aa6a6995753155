package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// state is what the page shows.
type state struct {
	At         time.Time
	Generation uint64
	// Live says that a script completes what is shown: what counts down is left to it, so that equal states are equal text.
	Live             bool
	Replica, Version string
	Search           search

	Troubles []trouble
	Grave    bool

	Outer, Inner          []arc
	Alive, All            int
	Users, Sessions, Ring string

	Backends []backendRow
	Charts   []chart
	Moves    []moveLine
	Journal  bool // it could be read

	Ledger *director.LedgerVitals
	Moving int
	Poll   *director.CensusReport
}

// backendRow is a line of the table.
type backendRow struct {
	Name, Class, Mark, State string
	Share                    string
	ShareWidth, UserWidth    float64 // of 100
	Users, Sessions          string
	Until                    int64 // in milliseconds; 0 if nobody waits, or nobody knows how long
	Wait                     string
}

const unknown = "–"

// build makes the state of everything that is known.
func build(v director.Vitals, a Around, shares map[string]float64, live bool) *state {
	s := &state{At: v.At, Live: live, Troubles: wrong(v, a), Moving: v.Moving, Ledger: v.Ledger, Poll: v.Poll, Users: unknown, Sessions: unknown}
	s.Grave = slices.ContainsFunc(s.Troubles, func(t trouble) bool { return t.Grave })
	if v.View == nil {
		return s
	}
	s.Generation, s.All = v.View.Generation, len(v.Backends)
	users, sessions, most := 0, 0, 0
	for _, b := range v.Backends {
		users += b.Users
		most = max(most, b.Users)
		if b.Alive {
			s.Alive++
		}
		if v.Poll != nil {
			sessions += v.Poll.Backends[b.Name].Sessions
		}
	}
	if v.Counted {
		s.Users = number(users + v.Elsewhere)
	}
	if v.Poll != nil {
		s.Sessions = number(sessions)
	}
	short := shortNames(v.Backends)
	var outer, inner []piece
	parts := make([]string, 0, len(v.Backends))
	for i, b := range v.Backends {
		row := rowOf(v, b, shares[b.Name], most, live)
		s.Backends = append(s.Backends, row)
		title := fmt.Sprintf("%s: %s, %s of the ring", b.Name, row.State, row.Share)
		outer = append(outer, piece{class: row.Class, title: title, label: short[i], size: shares[b.Name]})
		if v.Counted {
			inner = append(inner, piece{class: row.Class, title: fmt.Sprintf("%s: %s, %s users", b.Name, row.State, row.Users), size: float64(b.Users)})
		}
		parts = append(parts, title)
	}
	if v.Elsewhere > 0 {
		inner = append(inner, piece{class: "lost", title: count(v.Elsewhere, "user is", "users are") + " mapped elsewhere", size: float64(v.Elsewhere)})
	}
	s.Outer, s.Inner = arcs(outer, outerFar, outerNear), arcs(inner, innerFar, innerNear)
	s.Ring = strings.Join(parts, "; ")
	return s
}

func rowOf(v director.Vitals, b director.BackendVitals, share float64, most int, live bool) backendRow {
	r := backendRow{Name: b.Name, Share: percent(share), ShareWidth: round(100 * share), Users: unknown, Sessions: unknown}
	if v.Counted {
		r.Users = number(b.Users)
		r.UserWidth = round(100 * float64(b.Users) / float64(max(1, most)))
	}
	if v.Poll != nil {
		if c, asked := v.Poll.Backends[b.Name]; asked && c.Err == nil {
			r.Sessions = number(c.Sessions)
		}
	}
	switch {
	case !b.Alive:
		r.Class, r.Mark, r.State = "lost", "✕", "lost: "+b.Cause.String()
		loss := v.View.Loss(b.Name)
		switch {
		case b.Cause == director.Disabled:
			r.Class, r.Mark, r.State = "off", "–", "off"
		case !b.Waits:
			r.Wait = "no more"
		case loss.Serving:
			r.Wait = "until it has ended"
		default:
			r.Until = loss.Until.UnixMilli()
			if !live {
				r.Wait = left(b.Grace)
			}
		}
	case b.State == director.Drain:
		r.Class, r.Mark, r.State = "idle", "◐", "draining"
	case b.State == director.Standby:
		r.Class, r.Mark, r.State = "idle", "○", "standby"
	case b.Weight <= 0:
		r.Class, r.Mark, r.State = "idle", "◐", "takes no new users"
	default:
		r.Class, r.Mark, r.State = "alive", "●", "alive"
	}
	return r
}

// left writes how long something takes still, as the script does.
func left(d time.Duration) string {
	seconds := int((d + time.Second - 1) / time.Second)
	switch {
	case seconds < 60:
		return fmt.Sprintf("%d s", seconds)
	case seconds < 3600:
		return fmt.Sprintf("%d min %02d s", seconds/60, seconds%60)
	}
	return fmt.Sprintf("%d h %02d min", seconds/3600, seconds/60%60)
}

func percent(share float64) string {
	if share == 0 {
		return "0 %"
	}
	return fmt.Sprintf("%.1f %%", 100*share)
}

// shortNames are what tells names apart: what follows the last hyphen that all have in front of it, or else their end.
func shortNames(backends []director.BackendVitals) []string {
	const longest = 9
	short := make([]string, len(backends))
	common := 0
	if len(backends) > 0 {
		first := backends[0].Name
		common = len(first)
		for _, b := range backends[1:] {
			n := 0
			for n < min(common, len(b.Name)) && b.Name[n] == first[n] {
				n++
			}
			common = n
		}
		common = strings.LastIndex(first[:common], "-") + 1
	}
	for i, b := range backends {
		short[i] = cmp.Or(b.Name[common:], b.Name)
		if letters := []rune(short[i]); len(letters) > longest {
			short[i] = "…" + string(letters[len(letters)-longest+1:])
		}
	}
	return short
}
