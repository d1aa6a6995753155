package director

import (
	"context"
	"time"
)

// TaskKind is what a task does.
type TaskKind string

// The kinds of tasks.
const (
	// Evacuate moves all users off a backend that is drained.
	Evacuate TaskKind = "evacuate"
	// Rebalance moves users off backends that have more than their share.
	Rebalance TaskKind = "rebalance"
)

// Task is something that moves many users, at a rate. It is durable: if the replica that works at it dies, another goes on.
type Task struct {
	Kind TaskKind
	// Backend is the one that is evacuated, empty for a rebalance.
	Backend string
	// Rate is how many users are moved in a minute. With 0 it follows from By.
	Rate int
	// By is how long from now it should have ended, 0 for no matter when.
	By time.Duration
	// Slack is how much more than its share a backend may have after a rebalance: 0.05 for a twentieth.
	Slack float64
	// Paused tasks begin no moves.
	Paused bool
	// Total is how many users there were to move when it began.
	Total int
	// Age is how long ago that was, by the store's clock.
	Age         time.Duration
	Actor, Note string
}

// Name tells tasks apart: there is one rebalance, and one evacuation per backend.
func (t Task) Name() string {
	if t.Backend == "" {
		return string(t.Kind)
	}
	return string(t.Kind) + " " + t.Backend
}

// PerMinute is how many users are moved in a minute when so many are left.
func (t Task) PerMinute(left int) int {
	if t.Rate > 0 {
		return t.Rate
	}
	if t.By <= 0 {
		return DefaultRate // it is late, which is no reason to hurry
	}
	minutes := max(t.By, time.Second).Minutes()
	return max(1, min(MaxRate, int(float64(left)/minutes)+1))
}

// The bounds of a task's rate, in users per minute. What the backends' sessions may be asked for is the upper one.
const (
	MaxRate     = 6000
	DefaultRate = 50
)

// Tasks is where tasks are kept. Implementations are safe for concurrent use.
type Tasks interface {
	// Lead reports whether this replica is the one that works at tasks, and makes it so for some seconds if there is none.
	Lead(ctx context.Context) (bool, error)
	// Tasks returns all, in the order of their begin.
	Tasks(ctx context.Context) ([]Task, error)
	// Order begins a task, or changes the one of that name, and with it puts a standing in force unless that is nil.
	Order(ctx context.Context, t Task, s *Standing) error
	// End removes a task and notes why. It reports whether there was one.
	End(ctx context.Context, name, actor, note string) (bool, error)
	// Residents returns the users of backends, as rows name them. Who is being moved counts where he goes, and stays there; who was to
	// be moved a short time ago, and was not, stays too.
	Residents(ctx context.Context, backends []string) ([]Resident, error)
	// Settled returns the users who are not moved for balance: those who are pinned, those who were moved within that time, but by
	// the loss or the evacuation of a backend, which may be back, and those who were to be moved a short time ago, and were not.
	Settled(ctx context.Context, within time.Duration) (map[string]bool, error)
	// Balanced returns how many users were moved for balance within that time, or are being.
	Balanced(ctx context.Context, within time.Duration) (int, error)
	// Replicas returns those that have been heard of in the last hour.
	Replicas(ctx context.Context) ([]Replica, error)
	// Note writes an entry into the journal.
	Note(ctx context.Context, e Entry) error
	// Begin begins a move, as of Ledger.
	Begin(ctx context.Context, m Move, deadline time.Duration) (Move, error)
}
