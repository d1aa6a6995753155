package director

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// linesPerSecond is how many decisions that changed something are logged in a second, and how many others; what is more in a storm is
	// counted. Users who wait ask again and again, and must not crowd out those who are moved.
	linesPerSecond = 100
	// leftOutAfter is how long after the first that was left out it is said how many were.
	leftOutAfter = 10 * time.Second
	// maxSession is how much of a session's name is logged. Dovecot's have 16 characters and, for parts of a session, a few more.
	maxSession = 64
)

// decisionLog writes a line for each lookup that changes something or does not let its user in. In a storm it writes some, and says how
// many it has left out.
type decisionLog struct {
	log *slog.Logger

	mu      sync.Mutex
	second  int64
	lines   map[bool]int // by whether they tell of a change
	leftOut map[Reason]int
	due     chan struct{} // received from when something was left out
}

func newDecisionLog(log *slog.Logger) *decisionLog {
	return &decisionLog{log: log, lines: make(map[bool]int), leftOut: make(map[Reason]int), due: make(chan struct{}, 1)}
}

// The messages, by what a lookup came to.
const (
	logAssigned    = "user mapped"
	logMoved       = "user moved from a lost backend"
	logProvisional = "user let in while the database is down; he is mapped when it is back"
	logHeld        = "user held; he gets a temporary failure"
	logRejected    = "unknown user turned away"
	logUnavailable = "lookup not answered; its user gets a temporary failure, unless another replica knows"
)

// assigned tells of a row that was written, or is to be.
func (l *decisionLog) assigned(at time.Time, user string, d Decision, r Request) {
	message := logAssigned
	switch d.Reason {
	case Renewed:
		return // nothing is new to who reads the log
	case Placed:
		message = logMoved
	case Provisional:
		if d.Verb == Serve {
			message = logProvisional
		}
	}
	l.line(at, message, d, user, r)
}

// answered tells of a lookup whose user was not let in.
func (l *decisionLog) answered(a Answer, r Request) {
	switch a.Verb {
	case Hold:
		l.line(a.At, logHeld, a.Decision, a.User, r)
	case Reject:
		l.line(a.At, logRejected, a.Decision, a.User, r)
	case Unavailable:
		l.line(a.At, logUnavailable, a.Decision, a.User, r)
	}
}

func (l *decisionLog) line(at time.Time, message string, d Decision, user string, r Request) {
	if !l.log.Enabled(context.Background(), slog.LevelInfo) || !l.pass(at, d) {
		return
	}
	attributes := []any{"user", user}
	said := [][2]string{{"from", d.From}, {"to", d.Backend}}
	if d.Verb != Assign {
		said = [][2]string{{"backend", d.Backend}}
	}
	said = append(said, [][2]string{{"reason", string(d.Reason)}, {"service", short(r.Protocol)}, {"session", short(r.Session)}}...)
	for _, a := range said {
		if a[1] != "" {
			attributes = append(attributes, a[0], a[1])
		}
	}
	if left := d.Until.Sub(at); left > 0 {
		attributes = append(attributes, "for", left.Round(time.Second))
	}
	if r.ReadOnly {
		attributes = append(attributes, "kind", "userdb")
	}
	l.log.Info(message, attributes...)
}

// short bounds what a proxy has sent.
func short(s string) string { return s[:min(len(s), maxSession)] }

// pass reports whether a line may be written now, and counts it if not.
func (l *decisionLog) pass(at time.Time, d Decision) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if second := at.Unix(); second != l.second {
		l.second = second
		clear(l.lines)
	}
	if change := d.Verb == Assign; l.lines[change] < linesPerSecond {
		l.lines[change]++
		return true
	}
	l.leftOut[d.Reason]++
	select {
	case l.due <- struct{}{}:
	default:
	}
	return false
}

// tell says how many lines were left out.
func (l *decisionLog) tell() {
	l.mu.Lock()
	leftOut := l.leftOut
	l.leftOut = make(map[Reason]int)
	l.mu.Unlock()
	if len(leftOut) == 0 {
		return
	}
	attributes := []any{"within", leftOutAfter}
	for _, reasons := range Outcomes {
		for _, reason := range reasons {
			if n := leftOut[reason]; n > 0 {
				attributes = append(attributes, string(reason), n)
				delete(leftOut, reason)
			}
		}
	}
	l.log.Info("there were more decisions than are logged; these were left out, by reason", attributes...)
}

// run tells now and then what was left out, until ctx ends.
func (l *decisionLog) run(ctx context.Context, after func(time.Duration) <-chan time.Time) {
	defer l.tell()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.due:
		}
		select {
		case <-ctx.Done():
			return
		case <-after(leftOutAfter):
			l.tell()
		}
	}
}
