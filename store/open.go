package store

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
)

// Config says which database. Either URL or Host is set.
type Config struct {
	// URL is postgres://USER:PASSWORD@HOST:PORT/NAME?PARAMETERS, as libpq and lib/pq understand it, or sqlite:PATH.
	URL string
	// Host is a host name, an address, or the directory of a Unix socket.
	Host, Port, Name, User string
	// Password is used with a URL too, if that has none.
	Password string
	// SSLMode is used with a URL too, if that has none: disable, allow, prefer, require, verify-ca or verify-full.
	SSLMode string
	// Replica is this replica's name, for the journal.
	Replica string
	// Meter is told of statements; may be nil.
	Meter Meter
	// Logger gets outages and their ends; nil discards.
	Logger *slog.Logger

	limits limits // the usual ones if there are none
}

// Open returns the store. It does not connect: Run does, and until then the store is down. The error says what is wrong
// with the configuration; it never shows the password.
func Open(c Config) (*DB, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.limits == (limits{}) {
		c.limits = usual
	}
	db, err := open(c)
	if err == nil {
		db.meter = c.Meter
	}
	return db, err
}

func open(c Config) (*DB, error) {
	if path, ok := strings.CutPrefix(c.URL, "sqlite:"); ok {
		return openSQLite(path, c)
	}
	if c.URL == "" {
		if c.Host == "" {
			return nil, errors.New("no database is configured")
		}
		return openPostgres(c)
	}
	scheme, _, _ := strings.Cut(c.URL, ":")
	if scheme != "postgres" && scheme != "postgresql" {
		return nil, errors.New("database-url: it must begin with postgres:// or sqlite: and a path")
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		// The parser's error quotes the URL, password and all, and then what it took for a port or a host, which may be part of one.
		if parse, ok := errors.AsType[*url.Error](err); ok {
			err = parse.Err
		}
		what, _, _ := strings.Cut(err.Error(), " \"")
		return nil, fmt.Errorf("database-url: it cannot be read (%s); write postgres://USER@HOST:PORT/NAME, and of a password # as %%23, / as %%2F, ? as %%3F and %% as %%25", what)
	}
	if _, has := u.User.Password(); !has && c.Password != "" {
		u.User = url.UserPassword(u.User.Username(), c.Password)
	}
	if q := u.Query(); !q.Has("sslmode") && c.SSLMode != "" {
		q.Set("sslmode", c.SSLMode)
		u.RawQuery = q.Encode()
	}
	c.URL = u.String()
	return openPostgres(c)
}

// redact removes what follows the user in a URL's authority from a message.
func redact(message, rawURL string) string {
	if _, rest, ok := strings.Cut(rawURL, "://"); ok {
		if i := strings.LastIndexByte(rest, '@'); i > 0 {
			if _, password, ok := strings.Cut(rest[:i], ":"); ok && password != "" {
				return strings.ReplaceAll(message, password, "xxxxx")
			}
		}
	}
	return message
}
