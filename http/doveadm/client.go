package doveadm

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

const (
	defaultTimeout  = 5 * time.Second
	defaultParallel = 8
	// waitLimits is how long a call waits for its turn, in time limits of a call.
	waitLimits = 2
	// kicksPerRequest is how many users are kicked in one request: each takes the server some milliseconds.
	kicksPerRequest = 50
)

var (
	errKey     = errors.New("it refuses the key (HTTP 401): compare it with doveadm_api_key in the server's configuration, see 'doveconf doveadm_api_key' there")
	errEcho    = errors.New("it sends back what it was sent, the key too, so it is no doveadm; is doveadm's HTTP API (inet_listener http in service doveadm) on this port?")
	errCrowded = errors.New("other calls took so long that it was not asked: servers that do not answer hold them up")
)

// Config says how Dovecot is reached.
type Config struct {
	// Key is the text of doveadm_api_key, the same on all servers.
	Key string
	// Port is where backends listen for doveadm's HTTP API that have no port named doveadm-http or doveadm.
	Port uint16
	// Proxies returns where the proxies listen for it. It is asked at each Cut. Nil: there are none.
	Proxies func() []netip.AddrPort
	// Canonical makes the canonical name of a name that Dovecot knows, false if there is none. Nil: they are the same.
	Canonical func(name string) (string, bool)
	// CaseOnly says that the names differ in the case of letters at most. Dovecot then need not list all its sessions to find those
	// of one user: it finds names in any case.
	CaseOnly bool
	// Timeout limits what is done at one server for a call, 5 s if it is 0. A call that has to wait for its turn may take
	// three times as long.
	Timeout time.Duration
	// ListTimeout limits Who instead, which nobody waits for; it is Timeout if it is 0.
	ListTimeout time.Duration
	// Parallel is how many servers are asked at once at most, 8 if it is 0.
	Parallel int
	// Client is to be used instead of the package's own, which keeps few connections and no proxies. Its redirects are not
	// followed.
	Client *http.Client
	// Logger gets a line per call at level debug. Nil discards.
	Logger *slog.Logger
}

// Client asks backends and proxies. It implements director.Sessions.
type Client struct {
	port          uint16
	proxies       func() []netip.AddrPort
	canonical     func(string) (string, bool)
	maskable      bool
	timeout       time.Duration
	listTimeout   time.Duration
	authorization string
	http          *http.Client
	log           *slog.Logger
	places        chan struct{} // one for each server that is being asked

	// life is what searches live for, which are shared; Close ends it, and waits for those that are running.
	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	versions map[netip.AddrPort]version // of proxies
	searches map[server]*search         // the next one of each server that is being asked
}

var _ director.Sessions = (*Client)(nil)

// New returns a client. It connects to nobody before it is asked something.
func New(config Config) *Client {
	c := &Client{
		port: config.Port, proxies: config.Proxies, canonical: config.Canonical, timeout: config.Timeout, log: config.Logger,
		authorization: "X-Dovecot-API " + base64.StdEncoding.EncodeToString([]byte(config.Key)),
		maskable:      config.Canonical == nil || config.CaseOnly,
		versions:      make(map[netip.AddrPort]version),
		searches:      make(map[server]*search),
	}
	c.life, c.end = context.WithCancel(context.Background())
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	if c.listTimeout = config.ListTimeout; c.listTimeout <= 0 {
		c.listTimeout = c.timeout
	}
	if config.Parallel <= 0 {
		config.Parallel = defaultParallel
	}
	c.places = make(chan struct{}, config.Parallel)
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if config.Client == nil {
		config.Client = newHTTP()
	}
	own := *config.Client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &own
	return c
}

// Close ends what is under way, and closes idle connections. The client cannot be used after it.
func (c *Client) Close() {
	c.end()
	c.running.Wait()
	c.http.CloseIdleConnections()
}

// Who returns all sessions that are open on a backend.
func (c *Client) Who(ctx context.Context, backend director.Backend) ([]director.Session, error) {
	s, err := c.server(backend)
	if err != nil {
		return nil, err
	}
	return c.who(ctx, s, c.listTimeout, nil)
}

// masks asks for one user, or for all if he cannot be asked for.
func (c *Client) masks(user string) []string {
	if !c.maskable || checkName(user) != nil {
		return nil
	}
	return []string{user}
}

// is reports whether Dovecot knows the user with that canonical name as name.
func (c *Client) is(name, user string) bool {
	if c.canonical == nil {
		return name == user
	}
	canonical, ok := c.canonical(name)
	return ok && canonical == user
}

// who lists sessions, one by one: 2.3 breaks the list of several users otherwise. Without masks it lists all.
func (c *Client) who(ctx context.Context, s server, limit time.Duration, masks []string) ([]director.Session, error) {
	var sessions []director.Session
	err := c.at(ctx, s, limit, func(ctx context.Context) error {
		rows, err := c.list(ctx, s, "who", masks)
		if err == nil {
			err = needs(rows, "username", "service", "ip")
		}
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r["dest_ip"] != "" {
				continue // this server is a proxy as well, and the session goes on to another one
			}
			client, _ := netip.ParseAddr(r["ip"])
			sessions = append(sessions, director.Session{User: r["username"], Service: r["service"], Client: client.Unmap()})
		}
		return nil
	})
	return sessions, err
}

// list runs a command that lists sessions.
func (c *Client) list(ctx context.Context, s server, name string, masks []string) ([]row, error) {
	parameters := map[string]any{"separateConnections": true}
	if len(masks) > 0 {
		parameters["mask"] = masks
	}
	return c.rows(ctx, s, command{name, parameters})
}

// rows runs one command that must not fail.
func (c *Client) rows(ctx context.Context, s server, one command) ([]row, error) {
	results, err := c.run(ctx, s, one)
	if err != nil {
		return nil, err
	}
	if results[0].err != nil {
		return nil, fmt.Errorf("%s: %w", one.name, results[0].err)
	}
	return results[0].rows, nil
}

// Kick tells the backend to end these sessions' users. It sends nothing if one of the names is an ErrPattern. A user who is
// not there any more is no error.
func (c *Client) Kick(ctx context.Context, backend director.Backend, sessions []director.Session) error {
	users := make([]string, len(sessions))
	for i, s := range sessions {
		users[i] = s.User
	}
	slices.Sort(users)
	users = slices.Compact(users)
	if err := checkNames(users); err != nil {
		return err
	}
	s, err := c.server(backend)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(users, kicksPerRequest) {
		err = errors.Join(err, c.at(ctx, s, c.timeout, func(ctx context.Context) error { return c.kick(ctx, s, part) }))
	}
	return err
}

// checkNames returns the errors of all names.
func checkNames(names []string) (err error) {
	for _, name := range names {
		err = errors.Join(err, checkName(name))
	}
	return err
}

// kick kicks users at a backend. A command takes one mask only, and with none 2.3 kicks everybody.
func (c *Client) kick(ctx context.Context, s server, users []string) error {
	commands := make([]command, len(users))
	for i, user := range users {
		commands[i] = command{"kick", map[string]any{"mask": []string{user}}}
	}
	results, err := c.run(ctx, s, commands...)
	for i, r := range results {
		nobody := r.err != nil && r.err.Type == exitCode && r.err.ExitCode == exitNoUser // 2.3; 2.4 counts 0
		if r.err != nil && !nobody {
			err = errors.Join(err, fmt.Errorf("kicking %q: %w", users[i], r.err))
		}
	}
	return err
}

// PortOf returns where doveadm's HTTP API listens on a backend, or on a proxy of that shape, if its ports name no other. A port named
// doveadm may be that of another protocol of its, so the other name goes first.
func PortOf(b director.Backend, port uint16) uint16 {
	for _, name := range []string{"doveadm", "doveadm-http"} {
		if named, ok := b.Port(name); ok {
			port = named
		}
	}
	return port
}

// server returns where a backend's doveadm is.
func (c *Client) server(backend director.Backend) (server, error) {
	port := PortOf(backend, c.port)
	if !backend.Addr.IsValid() || port == 0 {
		return server{}, fmt.Errorf("%w: %s (address %s, doveadm's HTTP port %d): configure the port, or name it doveadm-http in the pod", director.ErrUnreachable, backend.Name, backend.Addr, port)
	}
	return server{backend.Name, netip.AddrPortFrom(backend.Addr, port)}, nil
}
