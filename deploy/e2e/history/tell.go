package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// around is how much of a user's history is told, before a violation and after it.
const (
	around = 15 * time.Second
	most   = 40 // lines of lookups
)

// violation tells what led to it: the user's lookups, rows and orders around it, and all that was fed of the backends in them.
func (h *History) violation(rule, user string, at time.Duration, what, backend string) Violation {
	type line struct {
		at   time.Duration
		text string
	}
	var lines []line
	backends := map[string]bool{backend: true}
	for _, l := range h.lookups {
		if l.User != user || l.End < at-around || l.Begin > at+around {
			continue
		}
		kind, answer := "passdb", l.Outcome.String()+" "+l.Detail
		if l.UserDB {
			kind = "userdb"
		}
		if l.Outcome == Served {
			answer = fmt.Sprintf("%s at %s", l.Backend, l.Addr)
			backends[l.Backend] = true
		}
		lines = append(lines, line{l.Begin, fmt.Sprintf("%s-%s  %s asked by client %d, %s: %s", stamp(l.Begin), stamp(l.End), l.Replica, l.Client, kind, answer)})
	}
	for _, s := range h.rows[user] {
		if s.last.end >= at-around && s.first.begin <= at+around {
			lines = append(lines, line{s.first.begin, fmt.Sprintf("%s-%s  the table says %s", stamp(s.first.begin), stamp(s.last.end), cmp.Or(s.backend, "nothing"))})
			backends[s.backend] = true
		}
	}
	for _, o := range h.orders[user] {
		lines = append(lines, line{o.begun, fmt.Sprintf("%s  ordered to %s", stamp(o.begun), o.to)})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.at, b.at) })
	var text strings.Builder
	fmt.Fprintf(&text, "%s, at %s: %s %s\n", rule, stamp(at), user, what)
	// What is nearest to it matters.
	first, _ := slices.BinarySearchFunc(lines, at, func(l line, at time.Duration) int { return cmp.Compare(l.at, at) })
	low, high := max(0, first-most/2), min(len(lines), first+most/2)
	if low > 0 {
		fmt.Fprintf(&text, "  (%d lines before)\n", low)
	}
	for _, l := range lines[low:high] {
		fmt.Fprintf(&text, "  %s\n", l.text)
	}
	if high < len(lines) {
		fmt.Fprintf(&text, "  (%d lines after)\n", len(lines)-high)
	}
	for _, replica := range h.replicas() {
		for _, name := range slices.Sorted(maps.Keys(h.feeds[replica])) {
			changes := h.feeds[replica][name]
			if !backends[name] {
				continue
			}
			fmt.Fprintf(&text, "  %s was fed of %s:", replica, name)
			for i, c := range changes {
				if i > 0 {
					text.WriteString(";")
				}
				fmt.Fprintf(&text, " %s %s", stamp(c.fed), c.state)
				if c.state == Ready {
					fmt.Fprintf(&text, " at %s", c.addr)
				}
				if c.seen == never {
					text.WriteString(" (not read)")
				} else {
					fmt.Fprintf(&text, " (read by %s)", stamp(c.seen))
				}
			}
			text.WriteString("\n")
		}
	}
	return Violation{Rule: rule, User: user, At: at, Text: text.String()}
}

func stamp(d time.Duration) string { return fmt.Sprintf("%.3fs", d.Seconds()) }
