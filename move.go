package director

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Bounds of a move. They follow from how long lookups and logins take.
const (
	// settle is how long lookups have held before sessions are ended: a lookup that began before the hold takes up to 3 s to be
	// answered, and its proxy some time to log in. Sessions that are open go on meanwhile.
	settle = 4 * time.Second
	// switchMargin is how long before its deadline a move is given up. At the deadline lookups stop to hold by themselves, and no
	// switch may be under way then.
	switchMargin = 5 * time.Second
	// MoveDeadline is how long a move may take, as in Dovecot's Director.
	MoveDeadline = 30 * time.Second
	// kickAgain is how long sessions may take to end before they are told so once more.
	kickAgain = time.Second
	// askAgain is how often the backend is asked whether the sessions have ended, askLater how often when it does not answer.
	askAgain = 50 * time.Millisecond
	askLater = 500 * time.Millisecond
	// forceAfter is how long lookups have held before a forced move does without an answer of the old backend.
	forceAfter = 10 * time.Second
	// sweepAfter is how long after the switch the old backend is asked once more, and sweepUntil when that is given up.
	sweepAfter = 2 * time.Second
	sweepUntil = 15 * time.Second
)

// MoveStage is how far a move has come.
type MoveStage string

// The stages.
const (
	// MoveBegun: lookups of the user that read the row from now on hold. It is not known yet that this is on disk.
	MoveBegun MoveStage = "begun"
	// MoveHolding: from a known moment on, all lookups hold.
	MoveHolding MoveStage = "holding"
	// MoveSwitched: the row names the new backend and lookups hold no more.
	MoveSwitched MoveStage = "switched"
)

// Move is a move of one user that is under way. It is durable: whoever claims it goes on where another has stopped.
type Move struct {
	ID             int64
	User, From, To string
	Stage          MoveStage
	// Reason, Actor and Note say why, at whose order and what for.
	Reason      Reason
	Actor, Note string
	// Force moves the user although the old backend cannot be asked for sessions, or not all replicas have heard of the move.
	Force bool
	// IdleOnly gives the move up if the user has a session.
	IdleOnly bool
	// Quiet is how old the user's row has to be when the move begins.
	Quiet time.Duration
	// Held is how long all lookups have held, or, once switched, how long ago that was. Left is how long until the deadline.
	Held, Left time.Duration
	// Unheard are replicas that are not known to have heard of the move. While the database is down they would serve the
	// user as they remember him.
	Unheard []string
}

// The errors of moves. They are sentinels to be found with errors.Is; the wrapping error says more.
var (
	// ErrMoving reports that the user is being moved already.
	ErrMoving = errors.New("the user is being moved already")
	// ErrMovedMeanwhile reports that the user is not where the move starts.
	ErrMovedMeanwhile = errors.New("the user's mapping was changed meanwhile")
	// ErrNotQuiet reports that the user's row was written too short a time ago.
	ErrNotQuiet = errors.New("the user was mapped or seen a moment ago, and a login of his may be waiting")
	// ErrMoveOver reports that the move is not this replica's any more: another has taken it over, or it has ended.
	ErrMoveOver = errors.New("the move is over, or another replica's")
)

// Moves is where moves are kept. Implementations are safe for concurrent use. Times are by the store's clock. Other errors
// than those named are ErrUnavailable.
type Moves interface {
	// Claim gives this replica moves that nobody works at, for some seconds; every other call for one prolongs that.
	Claim(ctx context.Context, most int) ([]Move, error)
	// Renew returns the move as it is now. It returns ErrMoveOver.
	Renew(ctx context.Context, m Move) (Move, error)
	// Hold notes that all lookups hold from now on. It returns ErrMoveOver.
	Hold(ctx context.Context, m Move) (Move, error)
	// Switch maps the user to the new backend, provided that enough time is left and that the row still says From. It
	// returns ErrMoveOver or ErrMovedMeanwhile.
	Switch(ctx context.Context, m Move, note string) (Move, error)
	// Undo ends a move that was not switched; the user stays where he was.
	Undo(ctx context.Context, m Move, why string) error
	// Finish ends a move that was switched.
	Finish(ctx context.Context, m Move) error
}

// StepVerb is what comes next in a move.
type StepVerb string

// The steps.
const (
	StepHold   StepVerb = "hold"   // let lookups hold
	StepWait   StepVerb = "wait"   // for Step.For, then look at the move again
	StepAsk    StepVerb = "ask"    // the old backend for the user's sessions
	StepKick   StepVerb = "kick"   // end the sessions that were found
	StepCut    StepVerb = "cut"    // end them at the proxies, since the backend cannot be asked
	StepSwitch StepVerb = "switch" // map the user to the new backend
	StepUndo   StepVerb = "undo"   // leave the user where he was
	StepFinish StepVerb = "finish" // it is done
)

// Step is what comes next in a move, and why.
type Step struct {
	Verb StepVerb
	For  time.Duration
	Note string
}

// Evidence is what is known of the user's sessions on the old backend while a move is under way.
type Evidence struct {
	// Able says that the new backend may take the user.
	Able bool
	// Asked says that the old backend was asked after the lookups had held for long enough, or after the switch. Sessions and Err are
	// its answer.
	Asked    bool
	Sessions []Session
	Err      error
	// Kicked is how long ago the sessions were told to end, negative when never; Cut says that they were cut at the proxies, Cutting
	// what came of it.
	Kicked  time.Duration
	Cut     bool
	Cutting string
}

// Next returns the next step. It is pure. The steps are those of Dovecot's Director: hold the user's logins, end his sessions, see that
// they have ended, and only then let him log in elsewhere. What cannot be confirmed until the deadline is undone.
func (m Move) Next(e Evidence) Step {
	switch m.Stage {
	case MoveBegun:
		return Step{Verb: StepHold}
	case MoveSwitched:
		return m.sweep(e)
	}
	switch {
	case m.Left <= switchMargin:
		return Step{Verb: StepUndo, Note: "no time is left: " + m.trouble(e)}
	case !e.Able:
		return Step{Verb: StepUndo, Note: fmt.Sprintf("backend %s cannot take the user: it is not ready, or switched off", m.To)}
	case m.Held < settle:
		return Step{Verb: StepWait, For: settle - m.Held}
	case len(m.Unheard) > 0 && !m.Force:
		return Step{Verb: StepWait, For: askLater}
	case !e.Asked:
		return Step{Verb: StepAsk}
	case errors.Is(e.Err, ErrPattern) && !m.Force:
		return Step{Verb: StepUndo, Note: e.Err.Error()}
	case e.Err != nil && (!m.Force || m.Held < forceAfter):
		return Step{Verb: StepWait, For: askLater}
	case e.Err != nil && !e.Cut:
		return Step{Verb: StepCut}
	case e.Err != nil:
		return Step{Verb: StepSwitch, Note: fmt.Sprintf("forced, it is not known that no session goes on: %v; %s", e.Err, e.Cutting)}
	case len(e.Sessions) > 0 && m.IdleOnly:
		return Step{Verb: StepUndo, Note: "the user has logged in"}
	case len(e.Sessions) > 0 && (e.Kicked < 0 || e.Kicked >= kickAgain):
		return Step{Verb: StepKick}
	case len(e.Sessions) > 0:
		return Step{Verb: StepWait, For: askAgain}
	}
	return Step{Verb: StepSwitch}
}

// sweep looks, after the switch, for a login that was under way all the time.
func (m Move) sweep(e Evidence) Step {
	switch {
	case m.Held < sweepAfter:
		return Step{Verb: StepWait, For: sweepAfter - m.Held}
	case !e.Asked && m.Held < sweepUntil:
		return Step{Verb: StepAsk}
	case e.Err == nil && len(e.Sessions) > 0 && m.Held < sweepUntil && (e.Kicked < 0 || e.Kicked >= kickAgain):
		return Step{Verb: StepKick}
	case e.Err == nil && len(e.Sessions) > 0 && m.Held < sweepUntil:
		return Step{Verb: StepWait, For: askAgain}
	}
	return Step{Verb: StepFinish}
}

// trouble says what a move is waiting for.
func (m Move) trouble(e Evidence) string {
	switch {
	case len(m.Unheard) > 0 && !m.Force:
		return "these replicas have not heard of the move: " + strings.Join(slices.Sorted(slices.Values(m.Unheard)), ", ")
	case e.Err != nil:
		return e.Err.Error()
	case len(e.Sessions) > 0:
		return fmt.Sprintf("%d sessions on %s did not end", len(e.Sessions), m.From)
	}
	return "it was begun too late, or taken over too late from a replica that ended"
}

func cuttingNote(proxies int, err error) string {
	note := fmt.Sprintf("cut at %d proxies", proxies)
	if err != nil {
		note += ", not at all: " + err.Error()
	}
	return note
}

// able reports whether a backend may take users who are moved there.
func able(v *View, name string) bool {
	if v == nil {
		return false
	}
	_, _, alive := v.Backend(name)
	return alive
}

// located returns the backend that a row names, with the address that it has or had last.
func located(v *View, name string) Backend {
	if v == nil {
		return Backend{Name: name}
	}
	if b, _, ok := v.Backend(name); ok {
		return b
	}
	if b, ok := v.ByAddr(name); ok {
		return b
	}
	return v.Loss(name).Backend
}
