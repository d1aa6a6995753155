package director

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"
)

const (
	// conductEvery is how often moves of tasks are begun.
	conductEvery = time.Second
	// listAgain is how long a list of users to be moved is good for: who is on it may log in or out meanwhile.
	listAgain = time.Minute
	// listLimit is how long making one may take, and asking the backends who is logged in.
	listLimit = 30 * time.Second
	// lookEvery is how often it is looked whether there is something to even out, if that is done by itself.
	lookEvery = 10 * time.Minute
	// movesAtOnce is how many moves of a task are under way at once at most: each takes some seconds.
	movesAtOnce = 500
)

// ConductorConfig is what a Conductor is made of.
type ConductorConfig struct {
	Director *Director
	Tasks    Tasks
	// Sessions tells who is logged in; nil if nobody can be asked, and then nobody is moved.
	Sessions Sessions
	// Auto is a rebalance that is begun whenever it would move somebody, and its Rate is over 0.
	Auto Task
	// Lazy evens out between logins.
	Lazy Lazy
	// Budget is how many users are moved for balance in an hour at most, 0 for any number.
	Budget int
	// Stay is how long users stay where they were moved to before they are moved for balance again.
	Stay time.Duration
	// Begun is called when moves were begun; may be nil.
	Begun func()
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// After is the timer; nil is time.After.
	After func(time.Duration) <-chan time.Time
	// Logger gets the begin and the end of tasks; nil discards.
	Logger *slog.Logger
}

// Conductor works at tasks: it begins moves, at each task's rate. Of all replicas one does so.
type Conductor struct {
	config ConductorConfig
	log    *slog.Logger
	now    func() time.Time
	after  func(time.Duration) <-chan time.Time
	lists  map[string]*list
	looked time.Time // for something to even out
	evened time.Time // as of which poll of the sessions
}

// list are the users whom a task is about to move.
type list struct {
	made       time.Time
	users      []PlannedMove
	begun      time.Time // until when moves were allowed for
	allowed    float64
	complained string
}

// NewConductor returns a Conductor. Run starts it.
func NewConductor(c ConductorConfig) *Conductor {
	k := &Conductor{config: c, log: c.Logger, now: c.Now, after: c.After, lists: make(map[string]*list)}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if k.now == nil {
		k.now = time.Now
	}
	if k.after == nil {
		k.after = time.After
	}
	return k
}

// Run works at tasks until ctx ends. It returns nil.
func (k *Conductor) Run(ctx context.Context) error {
	for {
		k.turn(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-k.after(conductEvery):
		}
	}
}

// turn begins the moves that are due.
func (k *Conductor) turn(ctx context.Context) {
	tasks, err := k.config.Tasks.Tasks(ctx)
	if err != nil || k.config.Director.View() == nil {
		return
	}
	if auto, lazy := k.config.Auto.Rate > 0, k.config.Lazy.Above > 0; auto || lazy || len(tasks) > 0 {
		if lead, err := k.config.Tasks.Lead(ctx); err != nil || !lead {
			clear(k.lists)
			return
		}
		if auto {
			k.look(ctx, tasks)
		}
		if lazy {
			k.even(ctx)
		}
	}
	for name := range k.lists {
		if !slices.ContainsFunc(tasks, func(t Task) bool { return t.Name() == name }) {
			delete(k.lists, name)
		}
	}
	for _, t := range tasks {
		switch {
		case k.config.takesUsersAgain(t):
			if _, err := k.config.Tasks.End(ctx, t.Name(), "", "the backend takes users again"); err == nil {
				k.log.Info("an evacuation has ended, since the backend takes users again", "task", t.Name())
			}
			delete(k.lists, t.Name())
		case t.Paused:
			delete(k.lists, t.Name())
		case ctx.Err() == nil:
			k.work(ctx, t)
		}
	}
}

// look begins a rebalance if none is under way and it would move somebody.
func (k *Conductor) look(ctx context.Context, tasks []Task) {
	now := k.now()
	if now.Sub(k.looked) < lookEvery || slices.ContainsFunc(tasks, func(t Task) bool { return t.Kind == Rebalance }) {
		return
	}
	k.looked = now
	limited, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	task := k.config.Auto
	plan, _, err := k.config.balance(limited, task.Slack, k.config.Director.View())
	if task.Total = len(plan.Moves); err == nil && task.Total > 0 {
		err = k.config.Tasks.Order(limited, task, nil)
	}
	if err != nil && ctx.Err() == nil {
		k.log.Warn("it could not be looked whether users are evenly spread; it is tried again", "after", lookEvery, "error", err)
	}
}

// work begins the moves of one task that are due.
func (k *Conductor) work(ctx context.Context, t Task) {
	l := k.lists[t.Name()]
	if l == nil {
		l = &list{begun: k.now()}
		k.lists[t.Name()] = l
	}
	now := k.now()
	if len(l.users) == 0 || now.Sub(l.made) >= listAgain {
		if !k.renew(ctx, t, l) {
			return
		}
	}
	// What was not begun while nothing could be, is not made up for.
	elapsed := min(now.Sub(l.begun), 2*conductEvery)
	l.begun = now
	l.allowed = min(l.allowed+float64(t.PerMinute(len(l.users)))*elapsed.Minutes(), movesAtOnce)
	begun := 0
	free := movesAtOnce - len(k.config.Director.orders.Load().moving)
	members := k.config.Director.state.Load().members
	for l.allowed >= 1 && begun < free && len(l.users) > 0 && ctx.Err() == nil {
		u := l.users[0]
		if !slices.ContainsFunc(members, func(m Member) bool { return m.Name == u.To }) {
			l.users = nil // the backend takes no users any more
			break
		}
		l.users = l.users[1:]
		err := k.begin(ctx, Move{User: u.User, From: u.Backend, To: u.To, Reason: t.reason(), Actor: t.Actor, Note: t.Note, IdleOnly: u.Idle})
		switch {
		case errors.Is(err, ErrMoving), errors.Is(err, ErrMovedMeanwhile), errors.Is(err, ErrNoMapping):
			continue // he is elsewhere, or will be
		case errors.Is(err, ErrNotQuiet):
			continue // his turn comes with the next list
		case err != nil:
			k.complain(ctx, t, l, err)
			l.users = nil
			return
		}
		l.allowed--
		begun++
	}
	if begun > 0 && k.config.Begun != nil {
		k.config.Begun()
	}
}

// standingLag is for how long a replica may not know yet how a backend was left when its evacuation was ordered.
const standingLag = 10 * time.Second

// takesUsersAgain says that a backend which is being evacuated was activated, or is wanted by its StatefulSet again and has come back: to
// go on would empty it of users whom it has just been given.
func (c ConductorConfig) takesUsersAgain(t Task) bool {
	if t.Kind != Evacuate || t.Age < standingLag || c.Director.standing(t.Backend).State != Active {
		return false
	}
	view := c.Director.View()
	_, _, alive := view.Backend(t.Backend)
	claim, _ := claim(view.sets, t.Backend)
	return alive && claim != unwanted
}

func (t Task) reason() Reason {
	if t.Kind == Rebalance {
		return Rebalanced
	}
	return Evacuated
}

// renew makes the list of users to be moved. It ends the task if there are none any more.
func (k *Conductor) renew(ctx context.Context, t Task, l *list) (ok bool) {
	if len(l.users) == 0 && !l.made.IsZero() && k.now().Sub(l.made) < listAgain/10 {
		return false
	}
	limited, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	view := k.config.Director.View()
	l.made = k.now()
	plan, left, err := k.next(limited, t, view)
	if err != nil {
		l.users = nil // the backend may have ended: users would be held for moves that come to nothing
		k.complain(ctx, t, l, err)
		return false
	}
	l.complained = ""
	l.users = plan.Moves
	if left == 0 {
		if _, err := k.config.Tasks.End(ctx, t.Name(), "", "done"); err == nil {
			k.log.Info("a task is done", "task", t.Name(), "users", t.Total, "took", t.Age)
			delete(k.lists, t.Name())
		}
		return false
	}
	return len(l.users) > 0
}

// next says who a task moves next, if anybody may be moved now, and how many are left to be moved now or later.
func (k *Conductor) next(ctx context.Context, t Task, view *View) (plan Plan, left int, err error) {
	if err := nobodySilent(ctx, k.config.Tasks); err != nil {
		return plan, 0, err
	}
	plan, left, err = k.config.plan(ctx, t, view)
	if err != nil || t.Kind != Rebalance {
		return plan, left, err
	}
	budget, err := k.budget(ctx)
	if err == nil && budget == 0 && len(plan.Moves) > 0 {
		err = refuse("the %d users who may be moved for balance in an hour (--rebalance-budget) have been moved", k.config.Budget)
	}
	plan.Moves = plan.Moves[:min(len(plan.Moves), budget)]
	return plan, left, err
}

// begin begins a move, unless a login of the user may be waiting.
func (k *Conductor) begin(ctx context.Context, m Move) error {
	m.Quiet = k.config.Director.config.Storm.Quiet()
	_, err := k.config.Tasks.Begin(ctx, m, MoveDeadline)
	return err
}

// budget returns how many users may be moved for balance now.
func (k *Conductor) budget(ctx context.Context) (int, error) {
	if k.config.Budget == 0 {
		return math.MaxInt, nil
	}
	moved, err := k.config.Tasks.Balanced(ctx, time.Hour)
	return max(0, k.config.Budget-moved), err
}

// complain tells, once, why a task does not go on: in the log, and in the journal, where operators see it whichever replica they ask.
func (k *Conductor) complain(ctx context.Context, t Task, l *list, err error) {
	if l.complained == err.Error() {
		return
	}
	l.complained = err.Error()
	k.log.Warn("a task cannot go on; it is tried again", "task", t.Name(), "error", err)
	note := fmt.Sprintf("%s cannot go on, it is tried again: %v", t.Name(), err)
	if err := k.config.Tasks.Note(ctx, Entry{Subject: AboutTask, From: t.Backend, Note: note}); err != nil {
		k.log.Debug("the journal could not be written", "error", err)
	}
}

// plan says who a task moves next, and how many are left to be moved now or later.
func (c ConductorConfig) plan(ctx context.Context, t Task, view *View) (plan Plan, left int, err error) {
	if c.Sessions == nil {
		return plan, 1, errNoSessions
	}
	if t.Kind == Rebalance {
		// It has not ended while some are on their way: who is not moved after all makes room for another.
		plan, left, err = c.balance(ctx, t.Slack, view)
		return plan, left + len(plan.Moves), err
	}
	if _, _, alive := view.Backend(t.Backend); !alive && view.Loss(t.Backend).Final(c.Director.now()) {
		return plan, 0, nil // its users are moved as they log in
	}
	names := []string{t.Backend}
	if b, _, alive := view.Backend(t.Backend); alive {
		names = append(names, b.Addr.String())
	}
	counts, err := c.Director.config.Counter.Counts(ctx)
	if err != nil {
		return plan, 0, err
	}
	for _, name := range names {
		left += counts[name]
	}
	residents, err := c.Tasks.Residents(ctx, names)
	if err != nil {
		return plan, left, err
	}
	if err := c.ask(ctx, view, residents); err != nil {
		return plan, left, err
	}
	residents = slices.DeleteFunc(residents, func(r Resident) bool { return r.Stays })
	slices.SortStableFunc(residents, func(a, b Resident) int {
		switch {
		case a.Idle == b.Idle:
			return 0
		case a.Idle:
			return -1
		}
		return 1
	})
	st := c.Director.state.Load()
	rooms := slices.DeleteFunc(Rooms(view, counts), func(r Room) bool { return r.Backend == t.Backend })
	for _, r := range residents {
		to, ok := st.ring.Place(r.Key, rooms)
		if !ok {
			return plan, left, refuse("there is no backend that takes the users of %s: alive are %s", t.Backend, aliveNames(view))
		}
		plan.Moves = append(plan.Moves, PlannedMove{Resident: r, To: to})
	}
	return plan, left, nil
}

// balance plans how to even users out, and counts those who are being moved for that.
func (c ConductorConfig) balance(ctx context.Context, slack float64, view *View) (plan Plan, moving int, err error) {
	st := c.Director.state.Load()
	var names []string
	for _, m := range st.members {
		names = append(names, m.Name)
		if b, _, ok := view.Backend(m.Name); ok {
			names = append(names, b.Addr.String())
		}
	}
	residents, err := c.Tasks.Residents(ctx, names)
	if err != nil {
		return plan, 0, err
	}
	settled, err := c.Tasks.Settled(ctx, c.Stay)
	if err != nil {
		return plan, 0, err
	}
	if err := c.ask(ctx, view, residents); err != nil {
		return plan, 0, err
	}
	rows := make(map[string]string, len(residents)) // as they name the backend
	for i := range residents {
		r := &residents[i]
		rows[r.User] = r.Backend
		r.Backend = located(view, r.Backend).Name
		r.Load, r.Stays = 1, r.Stays || settled[r.User]
		if r.Moving == Rebalanced {
			moving++
		}
	}
	plan = Planner{Slack: slack, IdleFirst: true}.Plan(st.members, st.ring, residents)
	for i := range plan.Moves {
		plan.Moves[i].Backend = rows[plan.Moves[i].User]
	}
	return plan, moving, nil
}

// ask finds out who of the residents has no session open on his backend, and fills in what the ring hashes.
func (c ConductorConfig) ask(ctx context.Context, view *View, residents []Resident) error {
	users := c.Director.config.Users
	connected := make(map[string]bool)
	asked := make(map[string]bool)
	for i := range residents {
		r := &residents[i]
		user, err := users.Canonical(r.User)
		if err != nil {
			r.Stays = true // it is no name: nobody can log in by it
			continue
		}
		r.Key = user.Key
		backend := located(view, r.Backend)
		if asked[backend.Name] || c.Sessions == nil {
			continue
		}
		asked[backend.Name] = true
		sessions, err := c.Sessions.Who(ctx, backend)
		if err != nil {
			return err
		}
		for _, s := range sessions {
			if user, err := users.Canonical(s.User); err == nil {
				connected[user.Name] = true
			}
		}
	}
	for i := range residents {
		residents[i].Idle = !connected[residents[i].User]
	}
	return nil
}
