package history

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// The rules.
const (
	RuleMoved   = "moved"
	RuleLost    = "lost"
	RuleAddress = "address"
	RuleRefused = "refused"
)

// searchLimit is how long the search for one history's order may take. It is a matter of milliseconds for each user.
const searchLimit = 2 * time.Minute

// Violation is a broken promise.
type Violation struct {
	Rule, User string
	At         time.Duration
	// Text tells the story.
	Text string
}

// Report is what came of a check.
type Report struct {
	Violations []Violation
	// Moves counts how often somebody was answered with another backend than before.
	Moves int
}

// Check checks the whole history. The violations are in the order of time.
func (h *History) Check() Report {
	c := h.copied()
	var r Report
	byUser := make(map[string][]Lookup)
	for _, l := range c.lookups {
		byUser[l.User] = append(byUser[l.User], l)
	}
	for user := range c.rows {
		if _, asked := byUser[user]; !asked {
			byUser[user] = nil
		}
	}
	for _, user := range slices.Sorted(maps.Keys(byUser)) {
		lookups := byUser[user]
		r.Violations = append(r.Violations, c.lost(user, lookups)...)
		for _, l := range lookups {
			r.Violations = append(r.Violations, c.answer(l)...)
		}
		r.Violations = append(r.Violations, c.owner(user, lookups)...)
		r.Moves += moves(lookups)
	}
	slices.SortStableFunc(r.Violations, func(a, b Violation) int { return cmp.Compare(a.At, b.At) })
	return r
}

// answer checks what can be said of one answer alone.
func (h *History) answer(l Lookup) []Violation {
	switch {
	case l.Outcome == Refused:
		return []Violation{h.violation(RuleRefused, l.User, l.Begin, "was told something that is neither an answer nor a temporary failure: "+l.Detail, l.Backend)}
	case l.Outcome == Served && !h.listed(l):
		return []Violation{h.violation(RuleAddress, l.User, l.Begin, "was sent to "+l.Backend+" at "+l.Addr.String()+", where "+l.Replica+"'s feed does not list it", l.Backend)}
	}
	return nil
}

// listed reports whether the answer was in its replica's feed, or had been until a moment ago.
func (h *History) listed(l Lookup) bool {
	changes := h.feeds[l.Replica][l.Backend]
	for i, c := range changes {
		if c.state == Ready && c.addr == l.Addr && c.fed <= l.End && (i+1 == len(changes) || h.late(changes[i+1].seen) >= l.Begin) {
			return true
		}
	}
	return false
}

// late is until when a replica may act on what it knew before it read its feed.
func (h *History) late(seen time.Duration) time.Duration {
	if seen == never {
		return never
	}
	return seen + h.config.Late
}

// lost checks that the user's row is there whenever it has to be.
func (h *History) lost(user string, lookups []Lookup) (found []Violation) {
	answered := never // when it was first certain that there is a row
	for _, l := range lookups {
		if l.Outcome == Served && !l.UserDB {
			answered = min(answered, l.End)
		}
	}
	spans := h.rows[user]
	for i, s := range spans {
		if s.backend == "" && i > 0 {
			found = append(found, h.violation(RuleLost, user, s.first.begin, "had a row that named "+spans[i-1].backend+", and has none", spans[i-1].backend))
		}
	}
	if len(found) > 0 {
		return found
	}
	for _, at := range h.looks {
		if at.begin > answered && (len(spans) == 0 || at.end < spans[0].first.begin) {
			return []Violation{h.violation(RuleLost, user, at.begin, "was answered, and has no row", "")}
		}
	}
	return nil
}

// reign is the register of one user: the owner, and what is known of its being it.
type reign struct {
	backend string // "" before the first
	// seen is the latest begin of a read of it: no change can have come before.
	seen time.Duration
	// answer is the last answer to a passdb lookup; its replica is "" before the first.
	answer read
}

// read is one read of the register. Those of userdb lookups may be of what would come of a passdb lookup.
type read struct {
	backend    string
	replica    string // "" for a look at the table
	addr       netip.Addr
	userDB     bool
	begin, end time.Duration
}

// owner checks that the user's answers and rows can be put into an order in which the owner changes with reason only.
func (h *History) owner(user string, lookups []Lookup) []Violation {
	var reads []porcupine.Operation
	add := func(v read) {
		reads = append(reads, porcupine.Operation{Input: v, Call: int64(v.begin), Return: int64(v.end)})
	}
	for _, l := range lookups {
		if l.Outcome == Served {
			add(read{l.Backend, l.Replica, l.Addr, l.UserDB, l.Begin, l.End})
		}
	}
	for _, s := range h.rows[user] {
		if s.backend == "" {
			continue
		}
		add(read{backend: s.backend, begin: s.first.begin, end: s.first.end})
		if s.last != s.first {
			add(read{backend: s.backend, begin: s.last.begin, end: s.last.end})
		}
	}
	model := porcupine.Model{
		Init: func() any { return reign{} },
		Step: func(state, input, _ any) (bool, any) {
			ok, next := h.step(user, state.(reign), input.(read))
			return ok, next
		},
	}
	result, info := porcupine.CheckOperationsVerbose(model, reads, searchLimit)
	var longest []porcupine.Operation
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, partial := range partition {
			if len(partial) > len(longest) {
				longest = partial
			}
		}
	}
	var now reign
	for _, op := range longest {
		_, now = h.step(user, now, op.Input.(read))
	}
	switch result {
	case porcupine.Illegal:
		blamed := blame(reads, longest)
		return []Violation{h.violation(RuleMoved, user, blamed.begin,
			"is on "+blamed.backend+" after "+now.backend+", which was not lost for its grace in any replica's feed since he was answered with it, and was not ordered there", now.backend)}
	case porcupine.Unknown:
		return []Violation{h.violation(RuleMoved, user, reads[0].Input.(read).begin, "was asked for so often at once that no order of the answers was found in time", "")}
	}
	return nil
}

// moves counts how often a user was answered with another backend than before.
func moves(lookups []Lookup) (n int) {
	var before Lookup
	for _, l := range slices.SortedStableFunc(slices.Values(lookups), func(a, b Lookup) int { return cmp.Compare(a.Begin, b.Begin) }) {
		if l.Outcome != Served || l.UserDB {
			continue
		}
		if before.User != "" && l.Backend != before.Backend {
			n++
		}
		before = l
	}
	return n
}

// blame is the first read that no order explains.
func blame(all, explained []porcupine.Operation) read {
	left := make(map[read]int)
	for _, op := range all {
		left[op.Input.(read)]++
	}
	for _, op := range explained {
		left[op.Input.(read)]--
	}
	maps.DeleteFunc(left, func(_ read, n int) bool { return n == 0 })
	return slices.MinFunc(slices.Collect(maps.Keys(left)), func(a, b read) int { return cmp.Compare(a.end, b.end) })
}

// step is the rule.
//
//	nobody is the owner             passdb, row  the one who is read becomes it
//	the owner is read               all          he stays
//	another is read, with reason    passdb, row  that one becomes the owner
//	another is read, with reason    userdb       nothing: it says what a passdb lookup would lead to, and does not
//	another is read                 all          broken
func (h *History) step(user string, r reign, v read) (ok bool, next reign) {
	switch {
	case r.backend == "" && v.userDB:
		return true, r
	case r.backend != "" && r.backend != v.backend && !h.justified(user, r, v):
		return false, r
	case r.backend != "" && r.backend != v.backend && v.userDB:
		return true, r
	}
	next = reign{v.backend, max(r.seen, v.begin), v}
	if r.backend == v.backend && (v.userDB || v.replica == "") {
		next.answer = r.answer
	}
	return true, next
}

// justified reports whether the user's owner may have changed since it was last seen.
func (h *History) justified(user string, r reign, v read) bool {
	if h.final(r.backend, r.seen, v.end, r.answer) {
		return true
	}
	for _, o := range h.orders[user] {
		// Where he was ordered may have been lost again before anybody saw him there.
		if o.begun <= v.end && o.until >= r.seen && (o.to == v.backend || o.to != r.backend && h.final(o.to, max(r.seen, o.begun), v.end, read{})) {
			return true
		}
	}
	return false
}

// final reports whether a replica may have moved a user from a backend between two times, since its feed had not shown it for its grace. If
// he was answered with it when it was back, he is not moved for that loss any more.
//
// A loss begins when it was fed, since it may have been read at once, and ends when the return is known to have been read.
func (h *History) final(backend string, after, before time.Duration, answer read) bool {
	for _, feed := range h.feeds {
		there, lost, grace := false, never, h.config.Restart
		for i, c := range feed[backend] {
			if c.state == Ready {
				there, lost = true, never
				continue
			}
			if !there {
				continue // what was never there cannot be lost
			}
			if lost == never {
				lost, grace = c.fed, h.config.Restart
			}
			if c.state == NotReady {
				grace = min(grace, h.config.Failover)
			}
			back := never // when the replica knew that this was over
			if i+1 < len(feed[backend]) {
				back = feed[backend][i+1].seen
			}
			if due := lost + grace; due <= before && due <= back && h.late(back) >= after && !h.returned(answer, lost) {
				return true
			}
		}
	}
	return false
}

// returned reports whether an answer comes from a replica that knew of the backend's return, and that it had been lost. One that has missed
// the loss cannot know that others have moved users, or are about to.
func (h *History) returned(answer read, lost time.Duration) (knew bool) {
	changes := h.feeds[answer.replica][answer.backend]
	for i, c := range changes {
		if c.state != Ready || c.addr != answer.addr || c.fed > answer.end || i+1 < len(changes) && h.late(changes[i+1].seen) < answer.begin {
			continue
		}
		if c.fed <= lost || i == 0 || changes[i-1].state == Ready || changes[i-1].seen > c.fed {
			return false
		}
		knew = true
	}
	return knew
}
