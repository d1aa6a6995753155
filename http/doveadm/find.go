package doveadm

import (
	"context"
	"fmt"
	"slices"

	director "github.com/k-web-s/go-dovecot-director"
)

// search is who is looked for at one server by one request.
type search struct {
	users    []string
	done     chan struct{} // closed when the rest is there
	sessions []director.Session
	err      error
}

// Find returns the sessions on a backend of the user with that canonical name, as they were after it was called. Those who are looked for
// while a server is being asked share the next request, which then lists all sessions: Dovecot takes one name or none, and goes through
// all of them anyway. So it does for a name that Dovecot would take for a pattern, or knows in another form.
func (c *Client) Find(ctx context.Context, backend director.Backend, user string) ([]director.Session, error) {
	s, err := c.server(backend)
	if err != nil {
		return nil, err
	}
	mine := c.join(s, user)
	select {
	case <-mine.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %s: %w", director.ErrUnreachable, s, context.Cause(ctx))
	}
	var sessions []director.Session
	for _, found := range mine.sessions {
		if c.is(found.User, user) {
			sessions = append(sessions, found)
		}
	}
	return sessions, mine.err
}

// join adds a user to the next search at a server. If there is none under way, it begins at once.
func (c *Client) join(s server, user string) *search {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, underWay := c.searches[s]
	if next == nil {
		next = &search{done: make(chan struct{})}
		c.searches[s] = next
	}
	if !slices.Contains(next.users, user) {
		next.users = append(next.users, user)
	}
	if !underWay {
		c.running.Go(func() { c.search(s) })
	}
	return next
}

// search asks a server until nobody is looked for any more.
func (c *Client) search(s server) {
	for {
		c.mu.Lock()
		now := c.searches[s]
		if now == nil {
			delete(c.searches, s)
			c.mu.Unlock()
			return
		}
		c.searches[s] = nil // who comes now is for the next one
		c.mu.Unlock()
		var masks []string
		if len(now.users) == 1 {
			masks = c.masks(now.users[0])
		}
		now.sessions, now.err = c.who(c.life, s, c.timeout, masks)
		close(now.done)
	}
}
