package doveadm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

const (
	path = "/doveadm/v1"
	// maxAnswer is the longest answer that is read: about half a million sessions.
	maxAnswer = 64 << 20
	// idleLimit is how long an idle connection is kept. Each keeps a doveadm process busy at the server.
	idleLimit = 10 * time.Second
	maxIdle   = 32
	maxHeader = 64 << 10
)

// newHTTP returns a client of its own: the environment's proxies are not for these addresses.
func newHTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        idleLimit,
		MaxResponseHeaderBytes: maxHeader,
	}}
}

// server is a doveadm that can be asked.
type server struct {
	name string // for errors
	addr netip.AddrPort
}

func (s server) String() string { return fmt.Sprintf("%s (doveadm at %s)", s.name, s.addr) }

// at carries out what is to be done at one server, when it is its turn and within the limit. All errors become such that
// name the server.
func (c *Client) at(ctx context.Context, s server, limit time.Duration, do func(context.Context) error) error {
	begun := time.Now()
	err := c.inTurn(ctx, limit, do)
	c.log.Debug("asked doveadm", "server", s.name, "address", s.addr, "took", time.Since(begun), "error", err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, director.ErrPattern), errors.Is(err, errRemain):
		return fmt.Errorf("%s: %w", s, err)
	default:
		return fmt.Errorf("%w: %s: %w", director.ErrUnreachable, s, err)
	}
}

// inTurn waits for one of the places, for some time, and gives it back.
func (c *Client) inTurn(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	wait, cancelWait := context.WithTimeoutCause(ctx, waitLimits*c.timeout, errCrowded)
	defer cancelWait()
	select {
	case c.places <- struct{}{}:
		defer func() { <-c.places }()
	case <-wait.Done():
		return context.Cause(wait)
	}
	late := fmt.Errorf("it does not answer within %s: %w", limit, context.DeadlineExceeded)
	inTime, cancel := context.WithTimeoutCause(ctx, limit, late)
	defer cancel()
	err := do(inTime)
	if err != nil && inTime.Err() != nil {
		return context.Cause(inTime) // says it better
	}
	return err
}

// run sends commands in one request and returns what each was answered with.
func (c *Client) run(ctx context.Context, s server, commands ...command) ([]result, error) {
	body, err := encode(commands)
	if err != nil {
		return nil, err
	}
	answer, err := c.exchange(ctx, s, http.MethodPost, body)
	if err != nil {
		return nil, err
	}
	return parse(answer, len(commands))
}

// exchange makes one request and returns the body of the answer.
func (c *Client) exchange(ctx context.Context, s server, method string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+s.addr.String()+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", c.authorization)
	request.Header.Set("Content-Type", "application/json")
	// All that is asked may be asked twice. This lets net/http do so if the server closes an idle connection at the same
	// moment; without a value the header is not sent.
	request.Header["Idempotency-Key"] = nil
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized:
		return nil, errKey
	default:
		// Not the text of the status line: a server could put into it what it was sent.
		return nil, fmt.Errorf("it answers HTTP %d %s; is doveadm's HTTP API (inet_listener http in service doveadm) on this port?", response.StatusCode, http.StatusText(response.StatusCode))
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("the answer breaks off: %w", err)
	}
	if len(answer) > maxAnswer {
		return nil, fmt.Errorf("the answer is longer than %d MiB", maxAnswer>>20)
	}
	if bytes.Contains(answer, []byte(c.authorization)) {
		return nil, errEcho // others would quote it
	}
	return answer, nil
}
