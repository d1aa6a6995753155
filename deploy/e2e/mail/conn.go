package mail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"syscall"
	"time"
)

// timeout limits each exchange. It is longer than anything that a Dovecot proxy waits for here (30 s to connect a
// backend), so it only ends tests that would hang.
const timeout = 45 * time.Second

// ErrTemporary and ErrRefused are the two kinds of failure that a mail program or a mail server tells apart.
var (
	// ErrTemporary says "try later": IMAP NO [UNAVAILABLE], POP3 -ERR [SYS/TEMP], LMTP 4xx.
	ErrTemporary = errors.New("temporary failure")
	// ErrRefused says "wrong password" or "no such user": IMAP NO [AUTHENTICATIONFAILED], POP3 -ERR [AUTH], LMTP 5xx.
	ErrRefused = errors.New("refused")
)

// conn is a line-based connection whose every exchange has a time limit.
type conn struct {
	raw net.Conn
	*textproto.Conn
}

// dial connects to addr ("host:port").
func dial(ctx context.Context, addr string) (conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return conn{}, err
	}
	c := conn{raw: raw, Conn: textproto.NewConn(raw)}
	return c, c.extend()
}

// extend gives the next exchange its time.
func (c conn) extend() error { return c.raw.SetDeadline(time.Now().Add(timeout)) }

// send writes one line.
func (c conn) send(format string, args ...any) error {
	if err := c.extend(); err != nil {
		return err
	}
	return c.PrintfLine(format, args...)
}

// Ended waits until the server has closed the connection, whatever it says before.
func (c conn) Ended() error {
	if err := c.extend(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, c.R)
	if errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return err
}

// refusal wraps a server's reply in the kind of failure that it is; other replies stay errors without a kind.
func refusal(kind error, reply string) error {
	if kind == nil {
		return fmt.Errorf("unexpected reply %q", reply)
	}
	return fmt.Errorf("%w: %s", kind, reply)
}
