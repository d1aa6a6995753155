package mail

import (
	"context"
	"errors"
	"fmt"
	"net/textproto"
)

// Deliver hands one small message for user to the LMTP server at addr. The error wraps ErrTemporary (4xx: the sending
// server keeps the message and tries again) or ErrRefused (5xx: it bounces) when the server says so.
func Deliver(ctx context.Context, addr, user, subject string) error {
	c, err := dial(ctx, addr)
	if err != nil {
		return fmt.Errorf("lmtp %s: %w", addr, err)
	}
	defer c.Close()
	err = c.expect(220)
	for _, step := range []struct {
		line string
		code int
	}{
		{"LHLO client.example.org", 250},
		{"MAIL FROM:<sender@example.org>", 250},
		{"RCPT TO:<" + user + ">", 250},
		{"DATA", 354},
		{"From: sender@example.org\r\nSubject: " + subject + "\r\n\r\nHello.\r\n.", 250},
	} {
		if err == nil {
			err = c.send("%s", step.line)
		}
		if err == nil {
			err = c.expect(step.code)
		}
	}
	if err != nil {
		return fmt.Errorf("lmtp %s: delivery to %s: %w", addr, user, err)
	}
	return nil
}

// expect reads one reply, over as many lines as it has.
func (c conn) expect(code int) error {
	_, _, err := c.ReadResponse(code)
	if reply := (*textproto.Error)(nil); errors.As(err, &reply) {
		switch reply.Code / 100 {
		case 4:
			return refusal(ErrTemporary, reply.Error())
		case 5:
			return refusal(ErrRefused, reply.Error())
		}
	}
	return err
}
