package mail

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// IMAP is a logged-in IMAP session.
type IMAP struct {
	conn
	tag int
}

// LoginIMAP opens a session at addr. The error wraps ErrTemporary or ErrRefused when the server says so.
func LoginIMAP(ctx context.Context, addr, user, password string) (*IMAP, error) {
	c, err := dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("imap %s: %w", addr, err)
	}
	s := &IMAP{conn: c}
	if greeting, err := s.ReadLine(); err != nil || !strings.HasPrefix(greeting, "* OK") {
		s.Close()
		return nil, fmt.Errorf("imap %s: greeting %q: %w", addr, greeting, err)
	}
	if _, err := s.command(`LOGIN "%s" "%s"`, user, password); err != nil {
		s.Close()
		return nil, fmt.Errorf("imap %s: login of %s: %w", addr, user, err)
	}
	return s, nil
}

// Mailboxes returns the names of all mailboxes.
func (s *IMAP) Mailboxes() ([]string, error) {
	lines, err := s.command(`LIST "" "*"`)
	if err != nil {
		return nil, fmt.Errorf("imap list: %w", err)
	}
	var names []string
	for _, line := range lines {
		if rest, ok := strings.CutPrefix(line, "* LIST "); ok {
			names = append(names, strings.Trim(rest[strings.LastIndexByte(rest, ' ')+1:], `"`))
		}
	}
	return names, nil
}

// Noop asks whether the session is alive.
func (s *IMAP) Noop() error {
	_, err := s.command("NOOP")
	return err
}

// Idle selects the inbox and waits for news there, until Done.
func (s *IMAP) Idle() error {
	if _, err := s.command("SELECT INBOX"); err != nil {
		return fmt.Errorf("imap select: %w", err)
	}
	s.tag++
	if err := s.send("t%d IDLE", s.tag); err != nil {
		return err
	}
	line, err := s.ReadLine()
	if err == nil && !strings.HasPrefix(line, "+") {
		err = refusal(nil, line)
	}
	if err != nil {
		return fmt.Errorf("imap idle: %w", err)
	}
	return nil
}

// Done ends Idle.
func (s *IMAP) Done() error {
	if err := s.send("DONE"); err != nil {
		return err
	}
	if _, err := s.result(fmt.Sprintf("t%d ", s.tag)); err != nil {
		return fmt.Errorf("imap idle: %w", err)
	}
	return nil
}

// Logout ends the session as a mail program does.
func (s *IMAP) Logout() error {
	if _, err := s.command("LOGOUT"); err != nil {
		return fmt.Errorf("imap logout: %w", errors.Join(err, s.Close()))
	}
	return s.Close()
}

// command sends one command and returns the untagged lines before its tagged reply.
func (s *IMAP) command(format string, args ...any) (untagged []string, err error) {
	s.tag++
	tag := fmt.Sprintf("t%d ", s.tag)
	if err := s.send(tag+format, args...); err != nil {
		return nil, err
	}
	return s.result(tag)
}

// result reads until the reply with the tag.
func (s *IMAP) result(tag string) (untagged []string, err error) {
	for {
		line, err := s.ReadLine()
		if err != nil {
			return nil, err
		}
		reply, tagged := strings.CutPrefix(line, tag)
		switch {
		case !tagged:
			untagged = append(untagged, line)
		case strings.HasPrefix(reply, "OK"):
			return untagged, nil
		case strings.HasPrefix(reply, "NO [UNAVAILABLE]"):
			return nil, refusal(ErrTemporary, reply)
		case strings.HasPrefix(reply, "NO [AUTHENTICATIONFAILED]"):
			return nil, refusal(ErrRefused, reply)
		default:
			return nil, refusal(nil, reply)
		}
	}
}
