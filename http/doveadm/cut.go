package doveadm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// looks is how often a proxy is asked whether the sessions are gone, with pauses between that begin with firstPause and
	// double.
	looks      = 8
	firstPause = 25 * time.Millisecond
	// maxVersions is of how many proxies the version is remembered. Their addresses change for ever.
	maxVersions = 1000
)

// errRemain is what a proxy of 2.4.1 ends with in Dovecot's default configuration.
var errRemain = errors.New("it was told to end sessions and still has them (Dovecot 2.4.1 ends only those of login services with restart_request_count = unlimited); they end with the client's connection, or with the proxy")

// Cut ends the sessions of a user to a backend's address at all proxies. A proxy confirms it when it lists none of them any
// more. On a 2.3 proxy a user who has a session to that address loses those to others too: it can kick a user or an address,
// but not both. It returns ErrPattern for a name that doveadm would take for a pattern, if that user has sessions there.
func (c *Client) Cut(ctx context.Context, backend netip.Addr, user string) (proxies int, err error) {
	if c.proxies == nil {
		return 0, nil
	}
	all := c.proxies()
	failures := make([]error, len(all))
	var wg sync.WaitGroup
	for i, addr := range all {
		wg.Go(func() {
			s := server{"proxy", addr}
			failures[i] = c.at(ctx, s, c.timeout, func(ctx context.Context) error { return c.cut(ctx, s, backend.Unmap(), user) })
		})
	}
	wg.Wait()
	for _, failure := range failures {
		if failure == nil {
			proxies++
		}
	}
	return proxies, errors.Join(failures...)
}

// cut ends the sessions at one proxy. If that does not work in the way of a remembered version, another Dovecot may have come
// up at this address.
func (c *Client) cut(ctx context.Context, s server, backend netip.Addr, user string) error {
	v, remembered, err := c.version(ctx, s)
	if err == nil {
		err = c.cutAs(ctx, v, s, backend, user)
	}
	if err == nil {
		return nil
	}
	c.forget(s)
	if refusal := (*commandError)(nil); !remembered || !errors.Is(err, errShape) && !errors.As(err, &refusal) {
		return err
	}
	if v, _, err = c.version(ctx, s); err == nil {
		err = c.cutAs(ctx, v, s, backend, user)
	}
	if err != nil {
		c.forget(s)
	}
	return err
}

// cutAs kicks until none of the sessions is listed: what a kick counts need not have ended, and others may have begun.
func (c *Client) cutAs(ctx context.Context, v version, s server, backend netip.Addr, user string) error {
	pause := firstPause
	for look := 1; ; look++ {
		names, err := c.namesAt(ctx, v, s, backend, user)
		if err != nil || len(names) == 0 {
			return err
		}
		if look == looks {
			return fmt.Errorf("%w: of %q to %s", errRemain, names, backend)
		}
		if err := checkNames(names); err != nil {
			return err
		}
		for _, name := range names {
			if _, err := c.rows(ctx, s, proxyKick(v, name, backend)); err != nil {
				return err
			}
		}
		if look > 1 {
			wait(ctx, pause)
			pause *= 2
		}
	}
}

// proxyKick is the command to end a user's sessions. In 2.3 the parameter host is an alternative: with both, all users of that
// host are kicked.
func proxyKick(v version, name string, backend netip.Addr) command {
	if v == v24 {
		return command{"proxyKick", map[string]any{"mask": []string{name}, "destHost": backend.String()}}
	}
	return command{"proxyKick", map[string]any{"user": []string{name}}}
}

// namesAt returns the names by which a proxy knows a user who has sessions to a backend.
func (c *Client) namesAt(ctx context.Context, v version, s server, backend netip.Addr, user string) ([]string, error) {
	var rows []row
	var err error
	field := "dest-ip"
	if v == v24 {
		field = "dest_ip"
		rows, err = c.list(ctx, s, "proxyList", c.masks(user))
	} else {
		rows, err = c.rows(ctx, s, command{"proxyList", map[string]any{}})
	}
	if err == nil {
		err = needs(rows, "username", field)
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range rows {
		// 2.3 may list a session of user "username" to "dest-ip": with several login processes it repeats its header.
		to, err := netip.ParseAddr(r[field])
		if err == nil && to.Unmap() == backend && c.is(r["username"], user) && !slices.Contains(names, r["username"]) {
			names = append(names, r["username"])
		}
	}
	return names, nil
}

// version returns what a proxy speaks, and whether that was known before.
func (c *Client) version(ctx context.Context, s server) (v version, remembered bool, err error) {
	c.mu.Lock()
	v, remembered = c.versions[s.addr]
	c.mu.Unlock()
	if remembered {
		return v, true, nil
	}
	body, err := c.exchange(ctx, s, http.MethodGet, nil)
	if err != nil {
		return 0, false, err
	}
	if v, err = parseVersion(body); err != nil {
		return 0, false, err
	}
	c.log.Debug("a proxy's version", "address", s.addr, "dovecot", v)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.versions) >= maxVersions {
		clear(c.versions)
	}
	c.versions[s.addr] = v
	return v, false, nil
}

// forget makes a proxy be asked for its version again.
func (c *Client) forget(s server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.versions, s.addr)
}

// wait waits for a time, or until ctx ends.
func wait(ctx context.Context, length time.Duration) {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
