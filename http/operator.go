package http

import (
	"context"

	director "github.com/k-web-s/go-dovecot-director"
)

// Operator does what operators ask for: *director.Operator here, *Client far away. Implementations are safe for concurrent use.
// Errors are those of *director.Operator; what the admin API makes of each is in its document.
type Operator interface {
	Status(ctx context.Context, sessions bool) (*director.StatusReport, error)
	UserOf(ctx context.Context, name string) (*director.UserReport, error)
	Move(ctx context.Context, order director.MoveOrder) (*director.MoveState, error)
	Pin(ctx context.Context, name string, pinned bool, actor, note string) (changed bool, err error)
	Kick(ctx context.Context, name, actor, note string) (sessions int, err error)
	Stand(ctx context.Context, order director.StandOrder) (director.Standing, error)
	Journal(ctx context.Context, name string, before int64, most int) ([]director.Entry, error)
	ForgetReplica(ctx context.Context, name, actor string) error
	Evacuate(ctx context.Context, backend string, order director.TaskOrder) (*director.TaskReport, error)
	Rebalance(ctx context.Context, order director.TaskOrder) (*director.TaskReport, error)
	Plan(ctx context.Context, slack float64) (*director.PlanReport, error)
	Cancel(ctx context.Context, kind director.TaskKind, backend, actor, note string) error
}

var (
	_ Operator = (*director.Operator)(nil)
	_ Operator = (*Client)(nil)
)

// The answers of the admin API that are not reports of the domain.
type (
	// PinAnswer says whether a user is pinned now, and whether he was not so before.
	PinAnswer struct {
		User    string `json:"user"`
		Pinned  bool   `json:"pinned"`
		Changed bool   `json:"changed"`
	}

	// KickAnswer says how many sessions were ended.
	KickAnswer struct {
		User     string `json:"user"`
		Sessions int    `json:"sessions"`
	}

	// StandAnswer says what is wanted of a backend now. Weight is 0 for what the source of backends says.
	StandAnswer struct {
		Backend string         `json:"backend"`
		State   director.State `json:"state"`
		Weight  int            `json:"weight"`
		Actor   string         `json:"actor,omitempty"`
		Note    string         `json:"note,omitempty"`
	}

	// JournalAnswer holds entries, the newest first.
	JournalAnswer struct {
		Entries []director.Entry `json:"entries"`
	}

	// ForgetAnswer names the replica that was forgotten.
	ForgetAnswer struct {
		Replica string `json:"replica"`
	}

	// CancelAnswer names the task that was ended.
	CancelAnswer struct {
		Task string `json:"task"`
	}

	// errorAnswer is the answer to all that fails.
	errorAnswer struct {
		Error string `json:"error"`
	}
)

// AnswerOf writes a standing as the admin API does.
func AnswerOf(s director.Standing) StandAnswer {
	return StandAnswer{Backend: s.Backend, State: s.State, Weight: s.Weight, Actor: s.Actor, Note: s.Note}
}

// The orders that come in a body. What is missing is the zero value.
type (
	moveOrder struct {
		To    *string `json:"to,omitempty"`
		Force bool    `json:"force,omitempty"`
		Note  string  `json:"note,omitempty"`
	}

	noteOrder struct {
		Note string `json:"note,omitempty"`
	}

	standOrder struct {
		State  director.State `json:"state,omitempty"`
		Weight *int           `json:"weight,omitempty"`
		Force  bool           `json:"force,omitempty"`
		Note   string         `json:"note,omitempty"`
	}

	evacuationOrder struct {
		Rate   *int    `json:"rate,omitempty"`
		By     *string `json:"by,omitempty"`
		Paused bool    `json:"paused,omitempty"`
		Note   string  `json:"note,omitempty"`
	}

	rebalanceOrder struct {
		Rate   *int     `json:"rate,omitempty"`
		By     *string  `json:"by,omitempty"`
		Slack  *float64 `json:"slack,omitempty"`
		Paused bool     `json:"paused,omitempty"`
		Note   string   `json:"note,omitempty"`
	}
)
