package mail

import (
	"context"
	"fmt"
	"strings"
)

// POP3 is a logged-in POP3 session.
type POP3 struct{ conn }

// LoginPOP3 opens a session at addr. The error wraps ErrTemporary or ErrRefused when the server says so.
func LoginPOP3(ctx context.Context, addr, user, password string) (*POP3, error) {
	c, err := dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("pop3 %s: %w", addr, err)
	}
	s := &POP3{conn: c}
	if _, err := s.reply(); err != nil {
		s.Close()
		return nil, fmt.Errorf("pop3 %s: greeting: %w", addr, err)
	}
	for _, line := range []string{"USER " + user, "PASS " + password} {
		if err = s.send("%s", line); err == nil {
			_, err = s.reply()
		}
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("pop3 %s: login of %s: %w", addr, user, err)
		}
	}
	return s, nil
}

// UIDs returns the unique id of every message.
func (s *POP3) UIDs() ([]string, error) {
	if err := s.send("UIDL"); err != nil {
		return nil, err
	}
	if _, err := s.reply(); err != nil {
		return nil, fmt.Errorf("pop3 uidl: %w", err)
	}
	lines, err := s.ReadDotLines()
	if err != nil {
		return nil, fmt.Errorf("pop3 uidl: %w", err)
	}
	ids := make([]string, 0, len(lines))
	for _, line := range lines {
		_, id, _ := strings.Cut(line, " ")
		ids = append(ids, id)
	}
	return ids, nil
}

// Noop asks whether the session is alive.
func (s *POP3) Noop() error {
	if err := s.send("NOOP"); err != nil {
		return err
	}
	_, err := s.reply()
	return err
}

// reply reads one line of status.
func (s *POP3) reply() (string, error) {
	line, err := s.ReadLine()
	switch {
	case err != nil:
		return "", err
	case strings.HasPrefix(line, "+OK"):
		return line, nil
	case strings.HasPrefix(line, "-ERR [SYS/TEMP]"):
		return "", refusal(ErrTemporary, line)
	case strings.HasPrefix(line, "-ERR [AUTH]"):
		return "", refusal(ErrRefused, line)
	default:
		return "", refusal(nil, line)
	}
}
