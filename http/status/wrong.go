package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

const (
	// crowded is how many times its fair share a backend may have before that is worth a word, and countable how many users or sessions per
	// backend there have to be for that: of few, shares are chance.
	crowded   = 1.25
	countable = 100
	// silentAfter is how long a director may not be heard of before moves do not begin.
	silentAfter = 10 * time.Second
	// beginning is how long after its start a director may not know yet what the database says of tasks.
	beginning = 10 * time.Second
	// namesMost is how many of several backends are named.
	namesMost = 5
)

// Around is what a director's vitals do not say.
type Around struct {
	// Unready is why this replica gets no lookups, empty if it does.
	Unready []string
	// Source says where the backends are observed, or why they cannot be.
	Source        string
	SourceFailing bool
	// StoreDown is set while the database does not answer, and StoreSince is since when.
	StoreDown  bool
	StoreSince time.Time
}

// trouble is one thing that is wrong. Its text does not change while nothing else does: it is read out when it changes.
type trouble struct {
	// Grave is what users feel now.
	Grave bool
	Text  string
}

// wrong says what is wrong, the worst first.
func wrong(v director.Vitals, a Around) []trouble {
	var all []trouble
	grave := func(format string, args ...any) { all = append(all, trouble{true, fmt.Sprintf(format, args...)}) }
	minor := func(format string, args ...any) { all = append(all, trouble{false, fmt.Sprintf(format, args...)}) }

	if v.View == nil {
		grave("No complete view of the backends has been seen yet, so all lookups fail here: %s.", a.Source)
	}
	if len(a.Unready) > 0 {
		grave("This director gets no lookups: %s.", strings.Join(a.Unready, "; "))
	}
	if a.StoreDown {
		grave("The database does not answer since %s. Users whom this director remembers are served, others are told to try again later. /readyz?verbose says why.", clock(a.StoreSince))
	}
	if v.View != nil {
		if a.SourceFailing {
			minor("The backends are known as of %s; nobody is moved from a lost one until they are seen again: %s.", clock(v.View.CurrentAt), a.Source)
		}
		all = append(all, wrongBackends(v)...)
	}
	if v.Poll != nil {
		if n := len(v.Poll.Doubled); n > 0 {
			grave("%s on two backends at once, which damages mailboxes; the verb status names them.", count(n, "user is", "users are"))
		}
		var mute []string
		for _, b := range v.Backends {
			if b.Alive && v.Poll.Backends[b.Name].Err != nil {
				mute = append(mute, b.Name)
			}
		}
		if len(mute) > 0 {
			minor("%s cannot be asked for sessions: nobody is moved from there without a kick.", names(mute))
		}
	}
	if v.Elsewhere > 0 {
		unseen := count(v.Elsewhere, "user is", "users are") + " mapped to backends that this director has never seen alive"
		if until := v.View.Loss("").Until; v.At.Before(until) {
			grave("%s; they wait until %s.", unseen, clock(until))
		} else {
			minor("%s; they get another one at the next login.", unseen)
		}
	}
	return append(all, wrongLedger(v, a)...)
}

// wrongBackends says what is wrong with the backends.
func wrongBackends(v director.Vitals) (all []trouble) {
	grave := func(format string, args ...any) { all = append(all, trouble{true, fmt.Sprintf(format, args...)}) }
	minor := func(format string, args ...any) { all = append(all, trouble{false, fmt.Sprintf(format, args...)}) }
	alive, open, users, sessions := 0, 0, 0, 0
	for _, b := range v.Backends {
		if b.Alive {
			alive++
			users += b.Users
			if b.Weight > 0 {
				open++
			}
			if v.Poll != nil {
				sessions += v.Poll.Backends[b.Name].Sessions
			}
		}
	}
	switch {
	case alive == 0:
		grave("No backend is alive: nobody can log in.")
	case open == 0:
		grave("No backend takes new users: all that are alive are drained or stand by.")
	}
	if v.Panic {
		grave("More than half of the backends are lost at once, which may be a fault of what observes them: their users wait longer, and are not moved.")
	}
	var lost []trouble
	for _, b := range v.Backends {
		if b.Alive || b.Cause == director.Disabled {
			continue
		}
		loss := v.View.Loss(b.Name)
		wait, get := "its users wait", "its users get"
		if v.Counted {
			wait, get = "its "+count(b.Users, "user waits", "users wait"), "its "+count(b.Users, "user gets", "users get")
		}
		switch text := fmt.Sprintf("%s is lost since %s: %s", b.Name, clock(loss.Since), causes[b.Cause]); {
		case b.Waits && loss.Serving:
			lost = append(lost, trouble{true, fmt.Sprintf("%s; %s until it has ended, and then for its return.", text, wait)})
		case b.Waits:
			lost = append(lost, trouble{true, fmt.Sprintf("%s; %s until %s.", text, wait, clock(loss.Until))})
		default:
			lost = append(lost, trouble{false, fmt.Sprintf("%s; it is not waited for any more: %s another one at the next login.", text, get)})
		}
	}
	slices.SortStableFunc(lost, func(a, b trouble) int { return order(a) - order(b) })
	if n := len(lost) - namesMost; n > 0 {
		lost = append(lost[:namesMost], trouble{lost[namesMost].Grave, fmt.Sprintf("%s too; see the table.", count(n, "backend more is lost", "backends more are lost"))})
	}
	all = append(all, lost...)
	if v.Counted && v.UserPeak > crowded && users >= countable*alive {
		minor("The fullest backend has %.2f times its share of users; rebalance --dry-run says what would help.", v.UserPeak)
	}
	if v.SessionPeak > crowded && sessions >= countable*alive {
		minor("The busiest backend has %.2f times its share of sessions.", v.SessionPeak)
	}
	return all
}

// wrongLedger says what is wrong with tasks and other directors.
func wrongLedger(v director.Vitals, a Around) (all []trouble) {
	minor := func(format string, args ...any) { all = append(all, trouble{false, fmt.Sprintf(format, args...)}) }
	l := v.Ledger
	if l == nil {
		if !a.StoreDown && v.View != nil && v.At.Sub(v.View.StartedAt) > beginning {
			minor("Tasks and other directors are not known: they cannot be read from the database. If migrate never made their tables, it has to.")
		}
		return all
	}
	if l.Disagreeing > 0 {
		minor("%s other backends than this one.", count(l.Disagreeing, "director sees", "directors see"))
	}
	if l.Silent > silentAfter {
		minor("A director has not been heard of: no move begins until it is back, or was dropped with forget-replica.")
	}
	for _, t := range l.Tasks {
		if t.Paused {
			minor("The task %s is paused, with %s to go.", director.Task{Kind: t.Kind, Backend: t.Backend}.Name(), count(t.Left, "user", "users"))
		}
	}
	return all
}

func order(t trouble) int {
	if t.Grave {
		return 0
	}
	return 1
}

// causes say why a backend is lost.
var causes = map[director.Cause]string{
	director.Failed:   "it fails",
	director.Planned:  "it restarts",
	director.Removed:  "it was scaled away",
	director.Unseen:   "it was never seen alive",
	director.Disabled: "it was switched off",
}

// clock writes a moment of today.
func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

// count writes a number and what there are so many of.
func count(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + more
}

// number writes a number with thin spaces between thousands.
func number(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}

// names writes some names.
func names(all []string) string {
	if n := len(all) - namesMost; n > 1 {
		all = append(slices.Clone(all[:namesMost]), fmt.Sprintf("%d more", n))
	}
	if len(all) == 1 {
		return all[0]
	}
	return strings.Join(all[:len(all)-1], ", ") + " and " + all[len(all)-1]
}
