package status

import (
	"context"
	"sync"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

const (
	// journalEvery is how often the journal is read at most, and only while somebody looks; journalLimit how long that may take.
	journalEvery = time.Second
	journalLimit = 500 * time.Millisecond
	// entriesMost is how many of its newest entries are read, and movesMost how many lines are made of them.
	entriesMost = 200
	movesMost   = 30
	// together is how far apart moves of one kind may be that are shown in one line.
	together = time.Minute
)

// reader reads the journal.
type reader func(ctx context.Context, user string, before int64, most int) ([]director.Entry, error)

// moves are what the journal says.
type moves struct {
	read reader

	reading sync.Mutex // who looks at the same time, reads once
	mu      sync.Mutex
	at      time.Time
	lines   []moveLine
	known   bool
}

// moveLine is one or more entries of the journal that differ only in the user.
type moveLine struct {
	Subject       director.Subject
	From, To      string
	Reason        director.Reason
	Count         int
	First, Newest time.Time
}

// Users says how many.
func (l moveLine) Users() string { return count(l.Count, "user", "users") }

// What says what happened, besides from where and to where.
func (l moveLine) What() string {
	switch l.Subject {
	case director.AboutUser:
		if why, ok := reasons[l.Reason]; ok {
			return why
		}
		return string(l.Reason)
	case director.AboutUndone:
		return "given up: they stay where they are"
	case director.AboutBackend:
		return "an operator's order"
	case director.AboutTask:
		return "a task was ordered, changed or ended"
	}
	return string(l.Subject)
}

// reasons say why users are moved.
var reasons = map[director.Reason]string{
	director.Placed:     "their backend was lost",
	director.Moved:      "moved by an operator",
	director.Evacuated:  "their backend is being emptied",
	director.Rebalanced: "their backend had more than its share",
	director.Evened:     "their backend was crowded",
	director.Renamed:    "the row had its address",
}

// fresh reads the journal, if that is some time ago, and returns what it says. known is false if it cannot be read.
func (m *moves) fresh(ctx context.Context) (lines []moveLine, known bool) {
	m.reading.Lock()
	defer m.reading.Unlock()
	m.mu.Lock()
	at := m.at
	m.mu.Unlock()
	if time.Since(at) >= journalEvery {
		ctx, cancel := context.WithTimeout(ctx, journalLimit)
		entries, err := m.read(ctx, "", 0, entriesMost)
		cancel()
		m.mu.Lock()
		m.at, m.lines, m.known = time.Now(), lined(entries), err == nil
		m.mu.Unlock()
	}
	return m.last()
}

// last returns what the journal has said.
func (m *moves) last() (lines []moveLine, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lines, m.known
}

// lined makes lines of entries, the newest first.
func lined(entries []director.Entry) (lines []moveLine) {
	type kind struct {
		subject  director.Subject
		from, to string
		reason   director.Reason
	}
	open := map[kind]int{}
	for _, e := range entries {
		switch e.Subject {
		case director.AboutUser, director.AboutUndone, director.AboutBackend, director.AboutTask:
		default:
			continue // a pin or a kick is about one user
		}
		k := kind{e.Subject, e.From, e.To, e.Reason}
		if i, ok := open[k]; ok && lines[i].First.Sub(e.At) <= together {
			lines[i].Count++
			lines[i].First = e.At
			continue
		}
		if len(lines) == movesMost {
			break
		}
		open[k] = len(lines)
		lines = append(lines, moveLine{Subject: e.Subject, From: e.From, To: e.To, Reason: e.Reason, Count: 1, First: e.At, Newest: e.At})
	}
	return lines
}
