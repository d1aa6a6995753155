package sim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"go.yaml.in/yaml/v3"
)

var errUnexpected = errors.New("unexpected value")

// maxBackends is how many backends a scenario may have.
const maxBackends = 1000

// longest is how long a scenario may be: entries of the calendar hold 49 days.
const longest = 45 * 24 * time.Hour

// Settings are those of serve that a simulation depends on.
type Settings struct {
	Users         director.UserFormat
	Policy        director.Policy
	Graces        director.Graces
	TouchInterval time.Duration
	Remember      int
}

// Settable takes settings by the names and in the form in which serve takes them.
type Settable interface {
	Set(name, value string) error
	Settings() Settings
}

// Scenario is a site and what happens to it.
type Scenario struct {
	// Name is the title, File where it stands.
	Name, File string
	// Users is how many users there are at the end.
	Users int
	// Duration is how long it takes.
	Duration time.Duration

	seed     uint64
	midnight moment // from midnight to the begin
	backends backends
	users    users
	logins   logins
	replicas replicas
	settings Settings
	timeline []event
	expect   []expectation
}

type backends struct {
	prefix  string   // of a StatefulSet's pods
	names   []string // or all names
	count   int
	weights map[int]int
	start   span // from created to ready
	stop    span // from deleted to ended; it serves meanwhile
}

type users struct {
	count, atStart int
	mapped         bool
	exponential    bool // growth
	connected      float64
	devices        int
	skew           float64
	domain         string
	// rows are users with their backends, in place of count.
	rows []row
}

type row struct{ user, backend string }

type logins struct {
	perDay    float64
	session   time.Duration
	curve     []float64
	reconnect time.Duration
	gaps      []time.Duration
	retry     span
}

type replicas struct {
	count     int
	lag       span
	evenAbove float64
}

// Mappings reads a file of users with their backends, and calls each for every one.
type Mappings func(file string, each func(user, backend string) error) error

// Load reads a scenario. Settings are given to settings; a file of users is read by mappings, under the name that the scenario
// gives it. The error is an *Error for what is wrong in the scenario.
func Load(file string, data []byte, settings Settable, mappings Mappings) (*Scenario, error) {
	var document yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&document); err != nil {
		return nil, syntaxError(file, data, err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, &Error{File: file, Line: 1, Column: 1, Message: "there is more than one document, or something is wrong after the first; write one scenario a file"}
	}
	s := &Scenario{
		File: file, seed: 1,
		backends: backends{prefix: "dovecot-backend", count: 3, weights: map[int]int{}, start: span{30 * time.Second, 60 * time.Second}, stop: span{2 * time.Second, 5 * time.Second}},
		users:    users{atStart: -1, mapped: true, exponential: true, connected: 0.45, devices: 3, skew: 0.9, domain: "example.org"},
		logins: logins{
			perDay: 4, session: 15 * time.Minute, curve: office, reconnect: 12 * time.Hour,
			gaps: []time.Duration{6 * time.Hour, 24 * time.Hour, 72 * time.Hour}, retry: span{5 * time.Second, 15 * time.Second},
		},
		replicas: replicas{count: 2, lag: span{0, 500 * time.Millisecond}},
	}
	root := node{document.Content[0], file}
	err := root.fields(
		field{"name", text(&s.Name)},
		field{"seed", into(&s.seed, "a whole number", func(v string) (uint64, error) { return strconv.ParseUint(v, 10, 64) })},
		field{"duration", duration(&s.Duration, time.Minute, longest)},
		field{"from", into(&s.midnight, "a time of day as 09:30", parseTimeOfDay)},
		field{"backends", s.backends.read},
		field{"users", func(n node) error { return s.users.read(n, mappings) }},
		field{"logins", s.logins.read},
		field{"directors", s.replicas.read},
		field{"settings", func(n node) error { return readSettings(n, settings) }},
		field{"timeline", func(node) error { return nil }}, // it needs the backends and the duration
		field{"expect", func(n node) error { return readExpectations(n, &s.expect) }},
	)
	if err != nil {
		return nil, err
	}
	if s.Duration == 0 {
		return nil, root.errorf("the duration is missing; expected is one from 1m to 45d")
	}
	if s.users.count == 0 {
		return nil, root.errorf("users are missing; expected are users with a count or a file")
	}
	if s.Name == "" {
		s.Name = file
	}
	if s.users.atStart < 0 {
		s.users.atStart = s.users.count
	}
	s.Users = s.users.count
	s.settings = settings.Settings()
	s.settings.Policy.EvenAbove = s.replicas.evenAbove
	_ = root.pairs(func(key, value node) error {
		if key.Value == "timeline" {
			err = s.readTimeline(value)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, s.checkRows()
}

// checkRows sees to it that the users of a file are on backends of the scenario.
func (s *Scenario) checkRows() error {
	known := make(map[string]bool, s.backends.count)
	for i := range s.backends.count {
		known[s.backends.name(i)] = true
	}
	for _, r := range s.users.rows {
		if !known[r.backend] {
			return &Error{File: s.File, Message: brief(fmt.Sprintf("user %q is on %q in the file of users; expected is one of the scenario's %d backends, %s to %s",
				r.user, r.backend, s.backends.count, s.backends.name(0), s.backends.name(s.backends.count-1)))}
		}
	}
	return nil
}

// syntaxError finds the place of the parser's error. It names a line, unless it is the first or an anchor is missing; what is wrong
// there begins with the line's text.
func syntaxError(file string, data []byte, err error) error {
	if errors.Is(err, io.EOF) {
		return &Error{File: file, Line: 1, Column: 1, Message: "the file is empty; expected is a map with duration, backends, users, timeline"}
	}
	e := &Error{File: file, Line: 1, Message: strings.TrimPrefix(err.Error(), "yaml: ")}
	if rest, ok := strings.CutPrefix(e.Message, "line "); ok {
		digits, what, _ := strings.Cut(rest, ": ")
		if line, err := strconv.Atoi(digits); err == nil {
			e.Line, e.Message = line, what
		}
	}
	lines := strings.Split(string(data), "\n")
	if anchor, ok := strings.CutPrefix(e.Message, "unknown anchor '"); ok {
		alias := "*" + strings.TrimSuffix(anchor, "' referenced")
		e.Line = max(0, slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, alias) })) + 1
		e.Column = strings.Index(lines[e.Line-1], alias) + 1
	} else if e.Line <= len(lines) {
		line := lines[e.Line-1]
		e.Column = len(line) - len(strings.TrimLeft(line, " \t")) + 1
	}
	e.Column = max(1, e.Column)
	e.Message += "; expected is YAML"
	return e
}

func parseTimeOfDay(v string) (moment, error) {
	t, err := time.Parse("15:04", v)
	return moment(t.Hour())*hour + moment(t.Minute())*60*second, err
}

func (b *backends) read(n node) error {
	var counted, named *yaml.Node
	err := n.fields(
		field{"name", text(&b.prefix)},
		field{"count", func(n node) error { counted = n.Node; return whole(&b.count, 1, maxBackends)(n) }},
		field{"names", func(n node) error {
			named = n.Node
			return n.items(func(i int, item node) error {
				if i == maxBackends {
					return item.errorf("more than %d backends", maxBackends)
				}
				name := ""
				if err := text(&name)(item); err != nil {
					return err
				}
				if slices.Contains(b.names, name) {
					return item.errorf("%q is here twice", name)
				}
				b.names = append(b.names, name)
				return nil
			})
		}},
		field{"weights", func(node) error { return nil }}, // they need the names
		field{"start", durations(&b.start, 0, 24*time.Hour)},
		field{"stop", durations(&b.stop, 0, time.Hour)},
	)
	switch {
	case err != nil:
		return err
	case named != nil && counted != nil:
		return n.errorf("both count and names are here; expected is one of them")
	case named != nil && len(b.names) == 0:
		return n.errorf("the list of names is empty")
	case named != nil:
		b.count = len(b.names)
	}
	return n.pairs(func(key, value node) error {
		if key.Value != "weights" {
			return nil
		}
		return value.pairs(func(key, value node) error {
			i, err := b.index(key)
			if err != nil {
				return err
			}
			weight := 0
			err = whole(&weight, 0, 100)(value)
			b.weights[i] = weight
			return err
		})
	})
}

// index reads which backend is meant: by its number, or by its name.
func (b *backends) index(n node) (int, error) {
	if n.Kind == yaml.ScalarNode {
		if i := slices.Index(b.names, n.Value); i >= 0 {
			return i, nil
		}
		digits := n.Value
		if b.names == nil {
			digits = strings.TrimPrefix(digits, b.prefix+"-")
		}
		if i, err := strconv.Atoi(digits); err == nil && i >= 0 && (b.names == nil && i < maxBackends || i < len(b.names)) {
			return i, nil
		}
	}
	return 0, n.errorf("%s where a backend is expected, by its name or its number", kindOf(n.Node))
}

func (u *users) read(n node, mappings Mappings) error {
	var growth string
	var rows node
	err := n.fields(
		field{"count", whole(&u.count, 1, 10_000_000)},
		field{"at_start", whole(&u.atStart, 0, 10_000_000)},
		field{"growth", choice(&growth, "exponential", "linear")},
		field{"mapped", yesNo(&u.mapped)},
		field{"file", func(n node) error { rows = n; return nil }},
		field{"connected", number(&u.connected, 0, 1)},
		field{"devices", whole(&u.devices, 1, 10)},
		field{"skew", number(&u.skew, 0, 2)},
		field{"domain", text(&u.domain)},
	)
	switch {
	case err != nil:
		return err
	case rows.Node != nil && (u.count > 0 || u.atStart >= 0 || !u.mapped):
		return n.errorf("a file is here, and count, at_start or mapped; expected is the file alone")
	case rows.Node != nil:
		return u.readRows(rows, mappings)
	case u.count == 0:
		return n.errorf("the count is missing; expected is how many users there are")
	case u.atStart > u.count:
		return n.errorf("at_start is %d, which is more than the count, %d", u.atStart, u.count)
	}
	u.exponential = growth != "linear" && u.atStart > 0
	return nil
}

// readRows takes the users from a file.
func (u *users) readRows(n node, mappings Mappings) error {
	file := ""
	if err := text(&file)(n); err != nil {
		return err
	}
	err := mappings(file, func(user, backend string) error {
		u.rows = append(u.rows, row{user, backend})
		return nil
	})
	switch {
	case err != nil:
		return n.errorf("the users cannot be read: %v", err)
	case len(u.rows) == 0:
		return n.errorf("%s has no users", file)
	}
	u.count = len(u.rows)
	return nil
}

func (l *logins) read(n node) error {
	return n.fields(
		field{"per_day", number(&l.perDay, 0.01, 1000)},
		field{"session", duration(&l.session, time.Second, 24*time.Hour)},
		field{"curve", func(n node) error { return readCurve(n, &l.curve) }},
		field{"reconnect", duration(&l.reconnect, time.Minute, longest)},
		field{"gaps", func(n node) error {
			l.gaps = nil
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				return n.errorf("the list of gaps is empty")
			}
			return n.items(func(_ int, item node) error {
				var d time.Duration
				err := duration(&d, time.Minute, longest)(item)
				l.gaps = append(l.gaps, d)
				return err
			})
		}},
		field{"retry", durations(&l.retry, time.Second, time.Hour)},
	)
}

func readCurve(n node, curve *[]float64) error {
	if n.Kind == yaml.ScalarNode {
		var name string
		if err := choice(&name, "office", "flat")(n); err != nil {
			return n.errorf("%s where office, flat or a list of 24 numbers is expected", kindOf(n.Node))
		}
		*curve = map[string][]float64{"office": office, "flat": flat}[name]
		return nil
	}
	*curve = nil
	sum := 0.0
	err := n.items(func(_ int, item node) error {
		var v float64
		err := number(&v, 0, 1e6)(item)
		*curve = append(*curve, v)
		sum += v
		return err
	})
	if err == nil && (len(*curve) != 24 || sum == 0) {
		err = n.errorf("a list of %d numbers where 24 are expected, one for each hour, not all of them 0", len(*curve))
	}
	return err
}

func (r *replicas) read(n node) error {
	return n.fields(
		field{"replicas", whole(&r.count, 1, 20)},
		field{"lag", durations(&r.lag, 0, time.Minute)},
		field{"even_above", number(&r.evenAbove, 1, 10)},
	)
}

func readSettings(n node, settings Settable) error {
	return n.pairs(func(key, value node) error {
		if value.Kind != yaml.ScalarNode || value.Tag == "!!null" {
			return value.errorf("%s where the value of %s is expected", kindOf(value.Node), key.Value)
		}
		if err := settings.Set(key.Value, value.Value); err != nil {
			return key.errorf("%v", err)
		}
		return nil
	})
}

// name returns the name of a backend.
func (b *backends) name(i int) string {
	if b.names != nil {
		return b.names[i]
	}
	return fmt.Sprintf("%s-%d", b.prefix, i)
}
