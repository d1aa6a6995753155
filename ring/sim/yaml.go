package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Error is a fault in a scenario: where it is and what was expected there.
type Error struct {
	File         string
	Line, Column int
	Message      string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// node is a YAML node of a named file.
type node struct {
	*yaml.Node
	file string
}

func (n node) errorf(format string, args ...any) error {
	return &Error{File: n.file, Line: n.Line, Column: n.Column, Message: brief(fmt.Sprintf(format, args...))}
}

// brief cuts a message that quotes a scenario: what stands there may be of any length.
func brief(message string) string {
	const most = 600
	if len(message) <= most {
		return message
	}
	return strings.ToValidUTF8(message[:most], "") + "..."
}

// kindOf says in an operator's words what a node is.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	default:
		if n.Tag == "!!null" {
			return "nothing"
		}
		return strconv.Quote(n.Value)
	}
}

// field is one key of a map and how its value is read.
type field struct {
	name string
	read func(node) error
}

// fields reads a map whose keys are known. Others, and repeated ones, are errors.
func (n node) fields(known ...field) error {
	if n.Kind != yaml.MappingNode {
		names := make([]string, len(known))
		for i, f := range known {
			names[i] = f.name
		}
		return n.errorf("%s where a map is expected, with %s", kindOf(n.Node), strings.Join(names, ", "))
	}
	return n.pairs(func(key, value node) error {
		i := slices.IndexFunc(known, func(f field) bool { return f.name == key.Value })
		if i < 0 {
			names := make([]string, len(known))
			for i, f := range known {
				names[i] = f.name
			}
			return key.errorf("%q is not known here; expected is one of %s", key.Value, strings.Join(names, ", "))
		}
		return known[i].read(value)
	})
}

// pairs calls each for the keys of a map.
func (n node) pairs(each func(key, value node) error) error {
	if n.Kind != yaml.MappingNode {
		return n.errorf("%s where a map is expected", kindOf(n.Node))
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := node{n.Content[i], n.file}, node{n.Content[i+1], n.file}
		if key.Kind != yaml.ScalarNode {
			return key.errorf("%s where a name is expected", kindOf(key.Node))
		}
		if line, twice := seen[key.Value]; twice {
			return key.errorf("%q is here twice; the first time in line %d", key.Value, line)
		}
		seen[key.Value] = key.Line
		if err := each(key, value); err != nil {
			return err
		}
	}
	return nil
}

// items calls each for the elements of a list.
func (n node) items(each func(i int, item node) error) error {
	if n.Kind != yaml.SequenceNode {
		return n.errorf("%s where a list is expected", kindOf(n.Node))
	}
	for i, item := range n.Content {
		if err := each(i, node{item, n.file}); err != nil {
			return err
		}
	}
	return nil
}

// into returns the reader of a plain value that parse understands; its error completes "... where X is expected".
func into[T any](target *T, expected string, parse func(string) (T, error)) func(node) error {
	return func(n node) error {
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
			return n.errorf("%s where %s is expected", kindOf(n.Node), expected)
		}
		v, err := parse(n.Value)
		if err != nil {
			return n.errorf("%q where %s is expected", n.Value, expected)
		}
		*target = v
		return nil
	}
}

func text(target *string) func(node) error {
	return into(target, "a text of one line", func(s string) (string, error) {
		if strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) {
			return "", errUnexpected
		}
		return s, nil
	})
}

func choice(target *string, choices ...string) func(node) error {
	return into(target, "one of "+strings.Join(choices, ", "), func(s string) (string, error) {
		if !slices.Contains(choices, s) {
			return "", errUnexpected
		}
		return s, nil
	})
}

func whole(target *int, least, most int) func(node) error {
	return into(target, fmt.Sprintf("a whole number from %d to %d", least, most), func(s string) (int, error) {
		v, err := strconv.Atoi(strings.ReplaceAll(s, "_", ""))
		if err == nil && (v < least || v > most) {
			err = errUnexpected
		}
		return v, err
	})
}

// number reads a number, also as a percentage.
func number(target *float64, least, most float64) func(node) error {
	return into(target, fmt.Sprintf("a number from %v to %v, or a percentage", least, most), func(s string) (float64, error) {
		digits, percent := strings.CutSuffix(s, "%")
		v, err := strconv.ParseFloat(digits, 64)
		if percent {
			v /= 100
		}
		if err == nil && !(v >= least && v <= most) {
			err = errUnexpected
		}
		return v, err
	})
}

func yesNo(target *bool) func(node) error {
	return into(target, "true or false", strconv.ParseBool)
}

func duration(target *time.Duration, least, most time.Duration) func(node) error {
	return into(target, fmt.Sprintf("a duration from %s to %s", least, most), func(s string) (time.Duration, error) { return parseDuration(s, least, most) })
}

// parseDuration is time.ParseDuration with days.
func parseDuration(s string, least, most time.Duration) (time.Duration, error) {
	var days time.Duration
	if head, tail, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(head, 10, 16)
		if err != nil {
			return 0, err
		}
		if days, s = time.Duration(n)*24*time.Hour, tail; s == "" {
			s = "0s"
		}
	}
	v, err := time.ParseDuration(s)
	v += days
	if err == nil && (v < least || v > most) {
		err = errUnexpected
	}
	return v, err
}

// span is a range of durations; draws are even over it.
type span struct{ least, most time.Duration }

// durations reads a duration or a range of them, 30s..90s.
func durations(target *span, least, most time.Duration) func(node) error {
	return into(target, fmt.Sprintf("a duration or a range as 30s..90s, from %s to %s", least, most), func(s string) (span, error) {
		from, to, isRange := strings.Cut(s, "..")
		a, err := parseDuration(from, least, most)
		b := a
		if err == nil && isRange {
			if b, err = parseDuration(to, least, most); err == nil && b < a {
				err = errUnexpected
			}
		}
		return span{a, b}, err
	})
}
