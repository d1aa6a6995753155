package director

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Ledger is where operators' orders are kept. Implementations are safe for concurrent use. Other errors than those named are
// ErrUnavailable and ErrUserRefused.
type Ledger interface {
	// Begin writes a move down, for any replica's mover to carry out. It returns ErrMoving, ErrMovedMeanwhile,
	// ErrNotQuiet or ErrNoMapping.
	Begin(ctx context.Context, m Move, deadline time.Duration) (Move, error)
	// MoveOf returns the user's move, nil for none.
	MoveOf(ctx context.Context, user string) (*Move, error)
	// Stand puts a standing in force, Standings returns all.
	Stand(ctx context.Context, s Standing) error
	Standings(ctx context.Context) ([]Standing, error)
	// Pin and Unpin report whether they changed anything.
	Pin(ctx context.Context, user, actor, note string) (bool, error)
	Unpin(ctx context.Context, user, actor, note string) (bool, error)
	Pinned(ctx context.Context, user string) (bool, error)
	// Note writes an entry into the journal, Journal reads: the newest first, of one user or all, before that number unless it is 0.
	Note(ctx context.Context, e Entry) error
	Journal(ctx context.Context, user string, before int64, most int) ([]Entry, error)
	Replicas(ctx context.Context) ([]Replica, error)
	ForgetReplica(ctx context.Context, name, actor string) (bool, error)
}

// RefusedError is an order that is not carried out, and nothing was changed.
type RefusedError struct {
	// NotFound says that there is no such thing as the order is about.
	NotFound bool
	// Message says why, and what could be done.
	Message string
}

func (e *RefusedError) Error() string { return e.Message }

func refuse(format string, args ...any) error {
	return &RefusedError{Message: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) error {
	return &RefusedError{NotFound: true, Message: fmt.Sprintf(format, args...)}
}

// OperatorConfig is what an Operator is made of.
type OperatorConfig struct {
	Director *Director
	Ledger   Ledger
	Tasks    Tasks
	// Replica is this replica's name.
	Replica string
	// Stay is how long users stay where they were moved to before they are moved for balance again.
	Stay time.Duration
	// Sessions asks the backends; nil if they cannot be asked.
	Sessions Sessions
	// Census knows how many sessions there are; nil if nobody counts them.
	Census *Census
	// Begun is called when a move was begun; may be nil.
	Begun func()
}

// Operator does what operators ask for. It is safe for concurrent use.
type Operator struct{ config OperatorConfig }

// NewOperator returns an Operator.
func NewOperator(c OperatorConfig) *Operator { return &Operator{c} }

// MoveOrder asks for one user to be moved.
type MoveOrder struct {
	// User is the name in any form that is canonical after the user format. To is a backend, empty for one that the director chooses.
	User, To string
	// Force moves the user although the old backend cannot be asked.
	Force bool
	Actor string
	Note  string
}

// MoveState is what became of a MoveOrder so far.
type MoveState struct {
	User string `json:"user"`
	From string `json:"from"`
	To   string `json:"to"`
	// Stage is empty when the move has ended.
	Stage MoveStage `json:"stage,omitempty"`
	// LeftSeconds is how long the move may take still.
	LeftSeconds float64 `json:"left_seconds,omitempty"`
	// Waiting are replicas that have not heard of the move.
	Waiting []string `json:"waiting_for,omitempty"`
	Actor   string   `json:"actor,omitempty"`
	Note    string   `json:"note,omitempty"`
}

func stateOf(m Move) *MoveState {
	return &MoveState{User: m.User, From: m.From, To: m.To, Stage: m.Stage, LeftSeconds: rounded(m.Left), Waiting: m.Unheard, Actor: m.Actor, Note: m.Note}
}

func rounded(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// Move begins to move a user. The move is carried out by any replica; UserOf tells how far it is. The errors are *InvalidUserError,
// *RefusedError, ErrMoving and ErrUnavailable.
func (o *Operator) Move(ctx context.Context, order MoveOrder) (*MoveState, error) {
	user, view, err := o.user(order.User)
	if err != nil {
		return nil, err
	}
	mapping, err := o.config.Director.config.Mappings.Get(ctx, user.Name)
	switch {
	case errors.Is(err, ErrNoMapping):
		return nil, notFound("%s has no backend yet: it gets one at its first login", user.Name)
	case err != nil:
		return nil, err
	}
	if order.To == "" {
		if order.To, err = o.choose(user, view, mapping.Backend); err != nil {
			return nil, err
		}
	}
	from := located(view, mapping.Backend)
	switch {
	case !able(view, order.To):
		return nil, refuse("backend %s cannot take %s: it is not alive; alive are %s", order.To, user.Name, aliveNames(view))
	case from.Name == order.To:
		return nil, refuse("%s is on %s already", user.Name, order.To)
	case o.config.Sessions == nil && !order.Force:
		return nil, refuse("it cannot be known whether %s has sessions on %s: no doveadm key is configured (--doveadm-key-file); with force the user is moved all the same, and two backends may serve the mailbox for a while", user.Name, from.Name)
	}
	if !order.Force {
		if err := nobodySilent(ctx, o.config.Ledger); err != nil {
			return nil, err
		}
	}
	m := Move{User: user.Name, From: mapping.Backend, To: order.To, Reason: Moved, Actor: order.Actor, Note: order.Note, Force: order.Force}
	if !order.Force {
		m.Quiet = o.config.Director.config.Storm.Quiet()
	}
	m, err = o.config.Ledger.Begin(ctx, m, MoveDeadline)
	switch {
	case errors.Is(err, ErrNotQuiet):
		return nil, refuse("%v; try again in %s, or use force", err, o.config.Director.config.Storm.Quiet())
	case errors.Is(err, ErrMovedMeanwhile):
		return nil, refuse("%v; try again", err)
	case err != nil:
		return nil, err
	}
	if o.config.Begun != nil {
		o.config.Begun()
	}
	return stateOf(m), nil
}

// silentAfter is how long a replica may not be heard of before moves are not begun, which would wait for it in vain.
const silentAfter = 10 * time.Second

// nobodySilent refuses to move anybody while replicas are silent.
func nobodySilent(ctx context.Context, from interface {
	Replicas(ctx context.Context) ([]Replica, error)
},
) error {
	replicas, err := from.Replicas(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, r := range replicas {
		if r.Silent > silentAfter {
			names = append(names, fmt.Sprintf("%s (for %s)", r.Name, r.Silent.Round(time.Second)))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return refuse("nobody is moved, since these directors are silent and may serve users from memory as they were: %s; if they have ended, forget them (forget-replica), else see why they do not reach the database", strings.Join(names, ", "))
}

// choose returns the backend that a user is moved to when the operator does not care: the ring's proposal, or by room if he is there.
func (o *Operator) choose(user User, view *View, from string) (string, error) {
	d := o.config.Director
	st := d.state.Load()
	if to, ok := st.ring.Propose(user.Key); ok && to != located(view, from).Name {
		return to, nil
	}
	rooms := slices.DeleteFunc(slices.Clone(d.rooms(st)), func(r Room) bool { return r.Backend == located(view, from).Name })
	if to, ok := st.ring.Place(user.Key, rooms); ok {
		return to, nil
	}
	for _, m := range st.members {
		if m.Name != located(view, from).Name {
			return m.Name, nil
		}
	}
	return "", refuse("there is no other backend that takes users: alive are %s", aliveNames(view))
}

func aliveNames(v *View) string {
	names := make([]string, len(v.alive))
	for i, b := range v.alive {
		names[i] = b.Name
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// user checks a name, and that there is a view.
func (o *Operator) user(name string) (User, *View, error) {
	user, err := o.config.Director.config.Users.Canonical(name)
	if err != nil {
		return user, nil, err
	}
	view, err := o.view()
	return user, view, err
}

// view returns what is known of the backends. It returns ErrUnavailable before anything is.
func (o *Operator) view() (*View, error) {
	view := o.config.Director.View()
	if view == nil {
		return nil, fmt.Errorf("%w: this replica does not know the backends yet; try again", ErrUnavailable)
	}
	return view, nil
}

// Pin keeps a user where he is when users are moved for balance, or ends that. It reports whether anything changed.
func (o *Operator) Pin(ctx context.Context, name string, pinned bool, actor, note string) (changed bool, err error) {
	user, err := o.config.Director.config.Users.Canonical(name)
	switch {
	case err != nil:
		return false, err
	case pinned:
		return o.config.Ledger.Pin(ctx, user.Name, actor, note)
	}
	return o.config.Ledger.Unpin(ctx, user.Name, actor, note)
}

// Kick ends the user's sessions on all backends. He may log in again at once, on the same backend. It returns how many sessions there were.
func (o *Operator) Kick(ctx context.Context, name, actor, note string) (sessions int, err error) {
	user, view, err := o.user(name)
	if err != nil {
		return 0, err
	}
	if o.config.Sessions == nil {
		return 0, refuse("sessions cannot be ended: no doveadm key is configured (--doveadm-key-file)")
	}
	var errs []error
	for _, f := range o.find(ctx, view, user.Name) {
		if f.err == nil && len(f.sessions) > 0 {
			f.err = o.config.Sessions.Kick(ctx, f.backend, f.sessions)
			sessions += len(f.sessions)
		}
		errs = append(errs, f.err)
	}
	if sessions > 0 {
		if err := o.config.Ledger.Note(ctx, Entry{Subject: AboutKick, User: user.Name, Actor: actor, Note: fmt.Sprintf("%d sessions ended%s", sessions, colon(note))}); err != nil {
			errs = append(errs, fmt.Errorf("the sessions were ended, the journal could not be written: %w", err))
		}
	}
	return sessions, errors.Join(errs...)
}

func colon(note string) string {
	if note == "" {
		return ""
	}
	return ": " + note
}

// found are a user's sessions on one backend.
type found struct {
	backend  Backend
	sessions []Session
	err      error
}

// find asks all backends that are alive for a user's sessions.
func (o *Operator) find(ctx context.Context, view *View, user string) []found {
	all := make([]found, len(view.alive))
	var asking sync.WaitGroup
	for i, b := range view.alive {
		asking.Go(func() {
			all[i].backend = b
			all[i].sessions, all[i].err = o.config.Sessions.Find(ctx, b, user)
		})
	}
	asking.Wait()
	return all
}

// StandOrder asks for a backend's state or weight to be changed.
type StandOrder struct {
	Backend string
	// State is the new one, empty to leave it. Weight is the new one, 0 for what the source of backends says; nil leaves it.
	State  State
	Weight *int
	// Force switches a backend off that is alive, and orders something for one that nobody has seen.
	Force       bool
	Actor, Note string
}

// Stand changes what is wanted of a backend. All replicas follow within a second.
func (o *Operator) Stand(ctx context.Context, order StandOrder) (Standing, error) {
	view, err := o.view()
	if err != nil {
		return Standing{}, err
	}
	_, _, alive := view.Backend(order.Backend)
	_, lost := view.losses[order.Backend]
	standings, err := o.config.Ledger.Standings(ctx)
	if err != nil {
		return Standing{}, err
	}
	s := Standing{Backend: order.Backend, State: Active}
	i := slices.IndexFunc(standings, func(s Standing) bool { return s.Backend == order.Backend })
	if i >= 0 {
		s = standings[i]
	}
	switch {
	case order.Backend == "" || len(order.Backend) > 253:
		return s, refuse("the name of the backend is missing, or too long")
	case !alive && !lost && i < 0 && !order.Force:
		return s, notFound("no backend %s is known; alive are %s; with force the order waits for it", order.Backend, aliveNames(view))
	case order.State == Off && !alive && !order.Force && !view.Loss(order.Backend).Final(o.config.Director.now()):
		return s, refuse("the users of backend %s still wait for it, since sessions may go on there (%s); use force if you know that it serves nobody", order.Backend, o.condition(view, Standing{}, order.Backend))
	case order.State == Off && alive && !order.Force:
		return s, refuse("backend %s is alive: switched off, its users would be mapped to others while their sessions there go on; evacuate or drain it first, or use force if you know that it serves nobody", order.Backend)
	case order.Weight != nil && (*order.Weight < 0 || *order.Weight > MaxWeight):
		return s, refuse("weight %d is out of bounds; the least is 1, the most is %d, and 0 is what the source of backends says; a backend that shall take no new users is drained", *order.Weight, MaxWeight)
	case order.State == "" && order.Weight == nil:
		return s, refuse("nothing is ordered: neither a state nor a weight")
	}
	if order.State != "" {
		if _, err := ParseState(string(order.State)); err != nil {
			return s, refuse("%v", err)
		}
		s.State = order.State
	}
	if order.Weight != nil {
		s.Weight = *order.Weight
	}
	s.Age, s.Actor, s.Note = 0, order.Actor, order.Note
	return s, o.config.Ledger.Stand(ctx, s)
}

// Journal returns entries, the newest first, of one user if a name is given.
func (o *Operator) Journal(ctx context.Context, name string, before int64, most int) ([]Entry, error) {
	if name != "" {
		user, err := o.config.Director.config.Users.Canonical(name)
		if err != nil {
			return nil, err
		}
		name = user.Name
	}
	return o.config.Ledger.Journal(ctx, name, before, most)
}

// ForgetReplica drops a replica that has died, so that moves do not wait for it.
func (o *Operator) ForgetReplica(ctx context.Context, name, actor string) error {
	replicas, err := o.config.Ledger.Replicas(ctx)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(replicas, func(r Replica) bool { return r.Name == name }); i >= 0 && replicas[i].Silent <= silentAfter {
		return refuse("replica %s is there: it was heard of %s ago; one that has ended can be forgotten %s later", name, replicas[i].Silent.Round(time.Second), silentAfter)
	}
	forgotten, err := o.config.Ledger.ForgetReplica(ctx, name, actor)
	if err == nil && !forgotten {
		return notFound("no replica %q is known", name)
	}
	return err
}

// UserReport is all that is known of a user.
type UserReport struct {
	User   string `json:"user"`
	Pinned bool   `json:"pinned"`
	// Backend is where the user is mapped, empty for nowhere; SinceSeconds is how long ago the row was written or touched.
	Backend      string  `json:"backend,omitempty"`
	SinceSeconds float64 `json:"since_seconds,omitempty"`
	// Condition is how that backend is.
	Condition string `json:"condition,omitempty"`
	// Proposal is where the ring would have the user.
	Proposal string `json:"proposal,omitempty"`
	// Next is what the next lookup would answer.
	Next NextAnswer `json:"next"`
	// Sessions are those that are open now; Unasked are backends that could not be asked, with the reason.
	Sessions []LiveSession     `json:"sessions"`
	Unasked  map[string]string `json:"unasked,omitempty"`
	Move     *MoveState        `json:"move,omitempty"`
	// History are the newest entries of the journal about the user.
	History []Entry `json:"history"`
}

// NextAnswer is what a lookup would answer.
type NextAnswer struct {
	Verb    string     `json:"verb"`
	Reason  Reason     `json:"reason"`
	Backend string     `json:"backend,omitempty"`
	Address netip.Addr `json:"address,omitzero"`
	Detail  string     `json:"detail,omitempty"`
}

// LiveSession is an open session.
type LiveSession struct {
	Backend string     `json:"backend"`
	Name    string     `json:"name"`
	Service string     `json:"service"`
	Client  netip.Addr `json:"client,omitzero"`
}

// historyLength is how many entries of the journal are shown of a user.
const historyLength = 10

// UserOf says all that is known of a user. It changes nothing.
func (o *Operator) UserOf(ctx context.Context, name string) (*UserReport, error) {
	user, view, err := o.user(name)
	if err != nil {
		return nil, err
	}
	d := o.config.Director
	answer, facts, err := d.Explain(ctx, name)
	if err != nil {
		return nil, err
	}
	r := &UserReport{User: user.Name, Sessions: []LiveSession{}, History: []Entry{}}
	r.Next = NextAnswer{Verb: answer.Verb.String(), Reason: answer.Reason, Backend: answer.Backend, Address: answer.Addr, Detail: answer.Detail()}
	if facts.Row == RowFound {
		r.Backend, r.SinceSeconds = facts.Mapping.Backend, rounded(facts.Mapping.Age)
		r.Condition = o.condition(view, d.standing(located(view, r.Backend).Name), r.Backend)
	}
	r.Proposal, _ = facts.Ring.Propose(user.Key)
	if o.config.Sessions != nil {
		for _, f := range o.find(ctx, view, user.Name) {
			if f.err != nil {
				if r.Unasked == nil {
					r.Unasked = map[string]string{}
				}
				r.Unasked[f.backend.Name] = f.err.Error()
			}
			for _, s := range f.sessions {
				r.Sessions = append(r.Sessions, LiveSession{Backend: f.backend.Name, Name: s.User, Service: s.Service, Client: s.Client})
			}
		}
	}
	if r.Pinned, err = o.config.Ledger.Pinned(ctx, user.Name); err != nil {
		return nil, err
	}
	move, err := o.config.Ledger.MoveOf(ctx, user.Name)
	if err != nil {
		return nil, err
	}
	if move != nil {
		r.Move = stateOf(*move)
	}
	r.History, err = o.config.Ledger.Journal(ctx, user.Name, 0, historyLength)
	return r, err
}

// condition says in words how a backend is.
func (o *Operator) condition(view *View, s Standing, name string) string {
	b, _, alive := view.Backend(name)
	if !alive {
		b, alive = view.ByAddr(name)
	}
	if alive {
		text := "alive"
		if s.State != "" && s.State != Active {
			text += ", " + string(s.State)
		}
		if b.Name != name {
			text += ", named by its address"
		}
		return text
	}
	l := view.Loss(name)
	text := "lost: " + l.Cause.String()
	if left := l.Until.Sub(o.config.Director.now()); left > 0 {
		text += fmt.Sprintf(", its users wait %s more", left.Round(time.Second))
	} else if l.Serving {
		text += ", its users wait until it has ended"
	}
	return text
}

// BackendReport is all that is known of a backend.
type BackendReport struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address,omitzero"`
	Zone    string     `json:"zone,omitempty"`
	// Condition is how it is, State and Weight what is wanted of it.
	Condition string `json:"condition"`
	State     State  `json:"state"`
	Weight    int    `json:"weight"`
	// Leaving says that its StatefulSet does not want it any more: it will not come back.
	Leaving bool `json:"leaving,omitempty"`
	// GraceSeconds is how long its users wait for it still.
	GraceSeconds float64 `json:"grace_seconds,omitempty"`
	// Users are mapped to it, Share is their part of all; Fair is what it would have by its weight.
	Users int     `json:"users"`
	Share float64 `json:"share"`
	Fair  float64 `json:"fair"`
	// Sessions are open on it, of so many users: now if that was asked for, else at the last poll. They are missing if that did not
	// answer, and then Unasked says why, or was not made.
	Sessions *int   `json:"sessions,omitempty"`
	LoggedIn *int   `json:"logged_in,omitempty"`
	Unasked  string `json:"unasked,omitempty"`
	// Actor and Note say who ordered the state, and why.
	Actor string `json:"actor,omitempty"`
	Note  string `json:"note,omitempty"`
}

// ReplicaReport is what is known of a replica.
type ReplicaReport struct {
	Name          string  `json:"name"`
	Version       string  `json:"version"`
	Generation    uint64  `json:"generation"`
	Fingerprint   string  `json:"fingerprint"`
	Alive         int     `json:"alive"`
	Lost          int     `json:"lost"`
	SilentSeconds float64 `json:"silent_seconds"`
	// Agrees says that it sees the same backends as the replica that was asked.
	Agrees bool `json:"agrees"`
}

// StatusReport is how everything is.
type StatusReport struct {
	Generation uint64          `json:"generation"`
	Backends   []BackendReport `json:"backends"`
	Replicas   []ReplicaReport `json:"replicas"`
	Tasks      []TaskReport    `json:"tasks"`
	Users      int             `json:"users"`
	// Elsewhere are users whose row names a backend that is not known.
	Elsewhere int `json:"elsewhere"`
	// PolledSeconds is how long ago the backends were last polled for sessions; missing if they were not.
	PolledSeconds *float64 `json:"polled_seconds,omitempty"`
	// Doubled are users who were on more than one backend at once at that poll.
	Doubled []DoubledReport `json:"doubled"`
}

// DoubledReport is a user who is on more than one backend at once.
type DoubledReport struct {
	User         string   `json:"user"`
	Backends     []string `json:"backends"`
	SinceSeconds float64  `json:"since_seconds"`
}

// Status says how everything is. With sessions it asks the backends for those.
func (o *Operator) Status(ctx context.Context, sessions bool) (*StatusReport, error) {
	d := o.config.Director
	view, err := o.view()
	if err != nil {
		return nil, err
	}
	users, err := o.users(ctx, view)
	if err != nil {
		return nil, err
	}
	replicas, err := o.config.Ledger.Replicas(ctx)
	if err != nil {
		return nil, err
	}
	report := &StatusReport{Generation: view.Generation, Replicas: []ReplicaReport{}}
	for _, r := range replicas {
		if r.Name == o.config.Replica {
			// What it said of itself a second ago may be old.
			self := d.Self()
			self.Name, self.Version, self.Silent = r.Name, r.Version, 0
			r = self
		}
		report.Replicas = append(report.Replicas, ReplicaReport{
			Name: r.Name, Version: r.Version, Generation: r.Generation, Fingerprint: r.Fingerprint, Alive: r.Alive, Lost: r.Lost,
			SilentSeconds: rounded(r.Silent), Agrees: r.Fingerprint == view.Fingerprint(),
		})
	}
	for _, n := range users {
		report.Users += n
	}
	fair := make(map[string]float64)
	members := view.Members()
	for _, s := range sharesOf(members, func(string) float64 { return 1 }) {
		fair[s.Backend] = s.Fair / float64(len(members))
	}
	if report.Tasks, err = o.tasks(ctx, users); err != nil {
		return nil, err
	}
	report.Elsewhere = report.Users
	for _, b := range o.all(view) {
		s := d.standing(b.Name)
		r := BackendReport{Name: b.Name, Address: b.Addr, Zone: b.Zone, Condition: o.condition(view, Standing{}, b.Name), State: s.State, Weight: b.Weight, Users: users[b.Name], Fair: fair[b.Name], Actor: s.Actor, Note: s.Note}
		claim, _ := claim(view.sets, b.Name)
		r.Leaving = claim == unwanted
		if l, lost := view.losses[b.Name]; lost {
			r.GraceSeconds = max(0, rounded(l.Until.Sub(d.now())))
		}
		if report.Users > 0 {
			r.Share = float64(r.Users) / float64(report.Users)
		}
		report.Elsewhere -= r.Users
		report.Backends = append(report.Backends, r)
	}
	o.polled(report)
	if sessions {
		o.countSessions(ctx, view, report.Backends)
	}
	return report, nil
}

// polled reports what the last poll of the sessions has found.
func (o *Operator) polled(report *StatusReport) {
	report.Doubled = []DoubledReport{}
	census := o.config.Census.Report()
	if census == nil {
		return
	}
	now := o.config.Director.now()
	report.PolledSeconds = new(rounded(now.Sub(census.At)))
	for _, d := range census.Doubled {
		report.Doubled = append(report.Doubled, DoubledReport{User: d.User, Backends: d.Backends, SinceSeconds: rounded(now.Sub(d.Since))})
	}
	for i := range report.Backends {
		b := &report.Backends[i]
		if count, asked := census.Backends[b.Name]; asked {
			b.count(count)
		}
	}
}

func (r *BackendReport) count(c Headcount) {
	if c.Err != nil {
		r.Sessions, r.LoggedIn, r.Unasked = nil, nil, c.Err.Error()
		return
	}
	r.Sessions, r.LoggedIn, r.Unasked = &c.Sessions, &c.Users, ""
}

// all returns the backends that are alive or lost, sorted by name.
func (o *Operator) all(view *View) []Backend {
	all := slices.Clone(view.alive)
	for _, l := range view.Losses() {
		all = append(all, l.Backend)
	}
	slices.SortFunc(all, func(a, b Backend) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// countSessions asks the backends that are alive.
func (o *Operator) countSessions(ctx context.Context, view *View, reports []BackendReport) {
	var asking sync.WaitGroup
	for i := range reports {
		r := &reports[i]
		b, _, alive := view.Backend(r.Name)
		switch {
		case o.config.Sessions == nil:
			r.Unasked = errNoSessions.Error()
		case alive:
			asking.Go(func() {
				_, count := count(ctx, o.config.Sessions, o.config.Director.config.Users, b)
				r.count(count)
			})
		}
	}
	asking.Wait()
}
