package director

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	// moversMost is how many moves a replica works at at once. Each takes six seconds at least, and waits for most of them.
	moversMost = 512
	// claimEvery is how often a replica looks for moves that nobody works at.
	claimEvery = time.Second
	// stepLimit is how long one step of a move may take.
	stepLimit = 5 * time.Second
)

// MoverConfig is what a Mover is made of.
type MoverConfig struct {
	Moves Moves
	// Sessions asks the backends; nil if they cannot be asked, which only forced moves survive.
	Sessions Sessions
	// View returns what is known of the backends.
	View func() *View
	// Tally counts; may be nil.
	Tally Tally
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// After is the timer; nil is time.After.
	After func(time.Duration) <-chan time.Time
	// Logger gets a line for each move that ended; nil discards.
	Logger *slog.Logger
}

// Mover carries out moves that others have begun, its own replica or one that has died.
type Mover struct {
	config MoverConfig
	log    *slog.Logger
	tally  Tally
	now    func() time.Time
	after  func(time.Duration) <-chan time.Time
	wake   chan struct{}
}

// NewMover returns a Mover. Run starts it.
func NewMover(c MoverConfig) *Mover {
	m := &Mover{config: c, log: c.Logger, tally: c.Tally, now: c.Now, after: c.After, wake: make(chan struct{}, 1)}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.now == nil {
		m.now = time.Now
	}
	if m.after == nil {
		m.after = time.After
	}
	if m.tally == nil {
		m.tally = untold{}
	}
	return m
}

// Wake makes the Mover look for moves soon. It does not block.
func (m *Mover) Wake() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run works at moves until ctx ends. What it leaves unfinished another replica goes on with. It returns nil.
func (m *Mover) Run(ctx context.Context) error {
	var working sync.WaitGroup
	defer working.Wait()
	free := make(chan struct{}, moversMost)
	for {
		most := cap(free) - len(free)
		moves, err := m.claim(ctx, most)
		if err != nil && ctx.Err() == nil {
			m.log.Debug("no moves can be claimed", "error", err)
		}
		for _, move := range moves {
			free <- struct{}{}
			working.Go(func() {
				m.carry(ctx, move)
				<-free
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-m.after(claimEvery):
		}
	}
}

func (m *Mover) claim(ctx context.Context, most int) ([]Move, error) {
	if most == 0 || m.config.View() == nil {
		return nil, nil // without a view, every backend looks as if it could not take anybody
	}
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	return m.config.Moves.Claim(ctx, most)
}

// carry works at one move until it has ended, or is another's, or ctx ends.
func (m *Mover) carry(ctx context.Context, move Move) {
	// Who has held the lookups for long does not say here which replicas have not heard.
	work := carriage{mover: m, move: move, fresh: move.Stage == MoveBegun}
	work.evidence.Kicked = -1
	for ctx.Err() == nil {
		over, err := work.step(ctx)
		switch {
		case over || errors.Is(err, ErrMoveOver):
			return
		case err != nil && ctx.Err() == nil:
			m.log.Warn("a step of a move failed; it is tried again until the move's deadline", "user", move.User, "from", move.From, "to", move.To, "error", err)
			m.pause(ctx, askLater)
		}
	}
}

func (m *Mover) pause(ctx context.Context, length time.Duration) {
	select {
	case <-ctx.Done():
	case <-m.after(length):
	}
}

// carriage is one move that is worked at.
type carriage struct {
	mover    *Mover
	move     Move
	evidence Evidence
	kicked   time.Time
	// fresh: the store has just said how the move is, and nothing was waited for since.
	fresh bool
}

// step takes the next step. Before each the claim is renewed, unless the last one has just done that, so that a replica that slept
// through the end of a move does nothing to the user any more.
func (c *carriage) step(ctx context.Context) (over bool, err error) {
	m := c.mover
	ctx, cancel := context.WithTimeout(ctx, settle+stepLimit)
	defer cancel()
	before := c.move.Stage
	if !c.fresh {
		if c.move, err = m.config.Moves.Renew(ctx, c.move); err != nil {
			return false, err
		}
	}
	c.fresh = false
	if c.move.Stage != before {
		c.evidence, c.kicked = Evidence{}, time.Time{}
	}
	view := m.config.View()
	c.evidence.Able = able(view, c.move.To)
	c.evidence.Kicked = -1
	if !c.kicked.IsZero() {
		c.evidence.Kicked = m.now().Sub(c.kicked)
	}
	switch step := c.move.Next(c.evidence); step.Verb {
	case StepHold:
		c.move, err = m.config.Moves.Hold(ctx, c.move)
		c.fresh = err == nil
	case StepWait:
		m.pause(ctx, step.For)
		c.evidence.Asked = false
	case StepAsk:
		c.evidence.Sessions, c.evidence.Err = c.find(ctx, view)
		c.evidence.Asked = true
	case StepKick:
		c.kicked = m.now()
		c.evidence.Err = m.config.Sessions.Kick(ctx, located(view, c.move.From), c.evidence.Sessions)
		c.evidence.Asked = c.evidence.Err != nil
	case StepCut:
		c.cut(ctx, view)
	case StepSwitch:
		c.move, err = m.config.Moves.Switch(ctx, c.move, step.Note)
		if errors.Is(err, ErrMovedMeanwhile) {
			return true, c.undo(ctx, err.Error())
		}
		if err == nil {
			c.evidence, c.kicked, c.fresh = Evidence{}, time.Time{}, true
			m.tally.Moved(c.move.Reason)
			m.log.Info("user moved", "user", c.move.User, "from", c.move.From, "to", c.move.To, "reason", c.move.Reason, "actor", c.move.Actor, "note", step.Note)
		}
	case StepUndo:
		return true, c.undo(ctx, step.Note)
	case StepFinish:
		return true, m.config.Moves.Finish(ctx, c.move)
	}
	return false, err
}

func (c *carriage) undo(ctx context.Context, why string) error {
	c.mover.log.Warn("a move was given up; the user stays where he was", "user", c.move.User, "from", c.move.From, "to", c.move.To, "reason", c.move.Reason, "why", why)
	err := c.mover.config.Moves.Undo(ctx, c.move, why)
	if err == nil {
		c.mover.tally.Undone(c.move.Reason)
	}
	return err
}

var errNoSessions = errors.New("backends cannot be asked for sessions: no doveadm key is configured")

func (c *carriage) find(ctx context.Context, view *View) ([]Session, error) {
	if c.mover.config.Sessions == nil {
		return nil, errNoSessions
	}
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	return c.mover.config.Sessions.Find(ctx, located(view, c.move.From), c.move.User)
}

// cut ends the user's sessions at the proxies.
func (c *carriage) cut(ctx context.Context, view *View) {
	c.evidence.Cut = true
	backend := located(view, c.move.From)
	switch {
	case c.mover.config.Sessions == nil:
		c.evidence.Cutting = "nothing was cut at the proxies"
	case !backend.Addr.IsValid():
		c.evidence.Cutting = "its address is not known, so nothing was cut at the proxies"
	default:
		proxies, err := c.mover.config.Sessions.Cut(ctx, backend.Addr, c.move.User)
		c.evidence.Cutting = cuttingNote(proxies, err)
	}
}
