package doveadm

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// command is one of doveadm's commands with its parameters.
type command struct {
	name       string
	parameters map[string]any
}

// encode makes the body of a request. The tags are the commands' positions.
func encode(commands []command) ([]byte, error) {
	body := make([][3]any, len(commands))
	for i, c := range commands {
		body[i] = [3]any{c.name, c.parameters, strconv.Itoa(i)}
	}
	return json.Marshal(body)
}

// row is a line of a command's output. All of doveadm's values are strings.
type row map[string]string

// result is what one command was answered with.
type result struct {
	rows []row
	err  *commandError
}

// The kinds of commandError and the exit code that the client knows.
const (
	unknownMethod  = "unknownMethod"
	invalidRequest = "invalidRequest"
	exitCode       = "exitCode"

	exitNoUser = 68 // EX_NOUSER
)

// commandError is Dovecot's refusal to carry out a command, or the command's failure.
type commandError struct {
	Type     string `json:"type"`
	ExitCode int    `json:"exitCode"`
}

func (e *commandError) Error() string {
	switch e.Type {
	case exitCode:
		return fmt.Sprintf("doveadm failed with exit code %d; the server's log says why", e.ExitCode)
	case unknownMethod, invalidRequest:
		return fmt.Sprintf("its doveadm does not know the command or its parameters (%s); Dovecot 2.3 and 2.4 are known", e.Type)
	default:
		return fmt.Sprintf("doveadm reports %.60q; the server's log may say more", e.Type)
	}
}

// errShape is the error of an answer that is not what was asked for.
var errShape = errors.New("the answer is not that of doveadm's HTTP API")

// parse reads the answer to so many commands. An answer that does not fit in any way is no answer: nobody may be told that
// there are no sessions because of it.
func parse(body []byte, commands int) ([]result, error) {
	var answers [][]json.RawMessage
	if err := json.Unmarshal(body, &answers); err != nil {
		return nil, fmt.Errorf("%w: %w: %s", errShape, err, excerpt(body))
	}
	if len(answers) != commands {
		return nil, fmt.Errorf("%w: %d answers to %d commands: %s", errShape, len(answers), commands, excerpt(body))
	}
	results := make([]result, commands)
	for i, answer := range answers {
		if err := results[i].parse(answer, strconv.Itoa(i)); err != nil {
			return nil, fmt.Errorf("%w: %s", err, excerpt(body))
		}
	}
	return results, nil
}

// parse reads [kind, content, tag].
func (r *result) parse(answer []json.RawMessage, wantTag string) error {
	if len(answer) != 3 {
		return fmt.Errorf("%w: %d parts instead of 3", errShape, len(answer))
	}
	var kind, tag string
	if err := errors.Join(json.Unmarshal(answer[0], &kind), json.Unmarshal(answer[2], &tag)); err != nil {
		return fmt.Errorf("%w: %w", errShape, err)
	}
	if tag != wantTag {
		return fmt.Errorf("%w: it is tagged %.60q instead of %q", errShape, tag, wantTag)
	}
	var content any = &r.rows
	switch kind {
	case "doveadmResponse":
	case "error":
		r.err = &commandError{}
		content = r.err
	default:
		return fmt.Errorf("%w: %.60q is neither an answer nor an error", errShape, kind)
	}
	if err := json.Unmarshal(answer[1], content); err != nil {
		return fmt.Errorf("%w: %w", errShape, err)
	}
	if r.err == nil && r.rows == nil { // null
		return fmt.Errorf("%w: there is no list", errShape)
	}
	if r.err != nil && r.err.Type == "" {
		return fmt.Errorf("%w: an error of no type", errShape)
	}
	return nil
}

// needs reports an error unless each row has all of the fields.
func needs(rows []row, fields ...string) error {
	for _, r := range rows {
		for _, field := range fields {
			if _, ok := r[field]; !ok {
				return fmt.Errorf("%w: a session without %s: %s", errShape, field, excerpt(fmt.Append(nil, r)))
			}
		}
	}
	return nil
}

// excerpt is the beginning of an answer, for an error.
func excerpt(body []byte) string {
	const limit = 120
	if len(body) > limit {
		return fmt.Sprintf("%q and %d bytes more", body[:limit], len(body)-limit)
	}
	return strconv.Quote(string(body))
}

// version is how a proxy is to be spoken to.
type version uint8

const (
	v23 version = iota + 1
	v24
)

func (v version) String() string {
	if v == v24 {
		return "2.4"
	}
	return "2.3"
}

// parseVersion reads the list of a server's commands. What proxyKick takes is what matters, so it is what decides.
func parseVersion(body []byte) (version, error) {
	var commands []struct {
		Command    string
		Parameters []struct{ Name string }
	}
	if err := json.Unmarshal(body, &commands); err != nil {
		return 0, fmt.Errorf("%w: %w: %s", errShape, err, excerpt(body))
	}
	for _, c := range commands {
		if c.Command != "proxyKick" {
			continue
		}
		for _, p := range c.Parameters {
			switch p.Name {
			case "destHost":
				return v24, nil
			case "user":
				return v23, nil
			}
		}
	}
	return 0, fmt.Errorf("%w: its doveadm has no proxyKick that is known; Dovecot 2.3 and 2.4 are", errShape)
}
