package http

import (
	"log/slog"
	"sync"
	"time"
)

// limitedLog logs one line per kind and interval and says how many it left out: what a broken client does ten thousand
// times must not fill the disk.
type limitedLog struct {
	log   *slog.Logger
	every time.Duration

	mu    sync.Mutex
	kinds map[string]*logKind
}

type logKind struct {
	next    time.Time
	leftOut int
}

func newLimitedLog(log *slog.Logger, every time.Duration) *limitedLog {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &limitedLog{log: log, every: every, kinds: make(map[string]*logKind)}
}

func (l *limitedLog) warn(kind, message string, args ...any) {
	if leftOut, ok := l.pass(kind); ok {
		l.log.Warn(message, append(args, "left_out", leftOut)...)
	}
}

func (l *limitedLog) error(kind, message string, args ...any) {
	if leftOut, ok := l.pass(kind); ok {
		l.log.Error(message, append(args, "left_out", leftOut)...)
	}
}

// pass reports whether a line of this kind may be logged now, and how many were left out since the last one. Kinds come
// from the program, so there are few.
func (l *limitedLog) pass(kind string) (leftOut int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kinds[kind]
	if k == nil {
		k = &logKind{}
		l.kinds[kind] = k
	}
	now := time.Now()
	if now.Before(k.next) {
		k.leftOut++
		return 0, false
	}
	leftOut, k.leftOut, k.next = k.leftOut, 0, now.Add(l.every)
	return leftOut, true
}
