package director

import (
	"context"
	"errors"
	"net/netip"
)

// Session is a connection of a user to a backend that is open now, as Dovecot's who shows it.
type Session struct {
	// User is the name as the backend knows it, which need not be the canonical one.
	User string
	// Service is Dovecot's name of the protocol: imap, pop3, sieve, submission.
	Service string
	// Client is where the session comes from; not valid if Dovecot does not say.
	Client netip.Addr
}

// The errors of asking for sessions. They are sentinels to be found with errors.Is; the wrapping error says more.
var (
	// ErrUnreachable reports that the backend does not answer: it cannot be known who has sessions there.
	ErrUnreachable = errors.New("the backend's sessions cannot be asked for")
	// ErrPattern reports a name that doveadm would take for a pattern or an address, so that others would be hit too.
	ErrPattern = errors.New("doveadm takes this user name for a pattern")
)

// Sessions is what is asked of the backends, and of the proxies in front of them. Implementations are safe for
// concurrent use and bound the time of every call themselves.
type Sessions interface {
	// Who returns all sessions that are open on a backend. It returns ErrUnreachable if that cannot be known.
	Who(ctx context.Context, backend Backend) ([]Session, error)

	// Find returns the sessions on a backend of the user with that canonical name. It returns ErrUnreachable.
	Find(ctx context.Context, backend Backend, user string) ([]Session, error)

	// Kick tells the backend to end these sessions' users. The sessions may go on for a while after it: only Find tells
	// that they have ended. It returns ErrUnreachable or ErrPattern.
	Kick(ctx context.Context, backend Backend, sessions []Session) error

	// Cut ends the sessions of a user, by all names that he is known under, to a backend's address at all proxies that are known. It is
	// for backends that cannot be asked. It returns how many proxies confirmed it, and an error if some did not.
	Cut(ctx context.Context, backend netip.Addr, user string) (proxies int, err error)
}
