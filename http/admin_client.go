package http

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

const (
	// clientLimit is how long one request may take; a bit more than AdminWriteLimit.
	clientLimit = AdminWriteLimit + 5*time.Second
	// maxAnswer is the longest answer in bytes that is read.
	maxAnswer = 64 << 20
)

// ClientConfig says where an admin API is.
type ClientConfig struct {
	// URL is the server's, http://127.0.0.1:8082, without the API's path.
	URL string
	// Token is sent if it is not empty.
	Token string
	// Roots are the certificate authorities that are trusted, nil for the system's.
	Roots *x509.CertPool
}

// Client asks an admin API. It is safe for concurrent use and keeps no connections. A call takes 35 s at most.
type Client struct {
	url, token string
	http       http.Client
}

// APIError is an answer of the admin API that says that something failed.
type APIError struct {
	// Status is HTTP's.
	Status int
	// Message is what the API says.
	Message string
}

func (e *APIError) Error() string { return e.Message }

// Unwrap returns the domain's error that the status stands for, if there is just one.
func (e *APIError) Unwrap() error {
	switch e.Status {
	case http.StatusConflict, http.StatusNotFound:
		return &director.RefusedError{NotFound: e.Status == http.StatusNotFound, Message: e.Message}
	case http.StatusServiceUnavailable:
		return director.ErrUnavailable
	}
	return nil
}

// NewClient returns a client. It connects to nothing.
func NewClient(c ClientConfig) (*Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		shown := "it" // whoever writes a password into it does not want to read it in a log
		if !strings.ContainsAny(c.URL, "@?#") {
			shown = strconv.Quote(c.URL)
		}
		return nil, fmt.Errorf("%s is not a URL of an admin API; write http://HOST:PORT or https://HOST:PORT", shown)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	transport.TLSClientConfig = &tls.Config{RootCAs: c.Roots}
	return &Client{url: strings.TrimSuffix(u.String(), "/"), token: c.Token, http: http.Client{
		Transport: transport,
		Timeout:   clientLimit,
		// The API does not redirect; whoever does shall not get the token.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Status implements Operator.
func (c *Client) Status(ctx context.Context, sessions bool) (*director.StatusReport, error) {
	path := "/status"
	if sessions {
		path += "?sessions=true"
	}
	return ask[director.StatusReport](ctx, c, http.MethodGet, path, "", nil)
}

// UserOf implements Operator.
func (c *Client) UserOf(ctx context.Context, name string) (*director.UserReport, error) {
	return ask[director.UserReport](ctx, c, http.MethodGet, "/users/"+segment(name), "", nil)
}

// Move implements Operator.
func (c *Client) Move(ctx context.Context, o director.MoveOrder) (*director.MoveState, error) {
	order := moveOrder{Force: o.Force, Note: o.Note}
	if o.To != "" {
		order.To = &o.To
	}
	return ask[director.MoveState](ctx, c, http.MethodPost, "/users/"+segment(o.User)+"/move", o.Actor, order)
}

// Pin implements Operator.
func (c *Client) Pin(ctx context.Context, name string, pinned bool, actor, note string) (bool, error) {
	method := http.MethodDelete
	if pinned {
		method = http.MethodPut
	}
	a, err := ask[PinAnswer](ctx, c, method, "/users/"+segment(name)+"/pin", actor, noteOrder{note})
	if err != nil {
		return false, err
	}
	return a.Changed, nil
}

// Kick implements Operator.
func (c *Client) Kick(ctx context.Context, name, actor, note string) (int, error) {
	a, err := ask[KickAnswer](ctx, c, http.MethodPost, "/users/"+segment(name)+"/kick", actor, noteOrder{note})
	if err != nil {
		return 0, err
	}
	return a.Sessions, nil
}

// Stand implements Operator.
func (c *Client) Stand(ctx context.Context, o director.StandOrder) (director.Standing, error) {
	a, err := ask[StandAnswer](ctx, c, http.MethodPatch, "/backends/"+segment(o.Backend), o.Actor, standOrder{State: o.State, Weight: o.Weight, Force: o.Force, Note: o.Note})
	if err != nil {
		return director.Standing{}, err
	}
	return director.Standing{Backend: a.Backend, State: a.State, Weight: a.Weight, Actor: a.Actor, Note: a.Note}, nil
}

// Journal implements Operator.
func (c *Client) Journal(ctx context.Context, name string, before int64, most int) ([]director.Entry, error) {
	q := url.Values{"limit": {strconv.Itoa(most)}}
	if name != "" {
		q.Set("user", name)
	}
	if before != 0 {
		q.Set("before", strconv.FormatInt(before, 10))
	}
	a, err := ask[JournalAnswer](ctx, c, http.MethodGet, "/journal?"+q.Encode(), "", nil)
	if err != nil {
		return nil, err
	}
	return a.Entries, nil
}

// ForgetReplica implements Operator.
func (c *Client) ForgetReplica(ctx context.Context, name, actor string) error {
	_, err := ask[ForgetAnswer](ctx, c, http.MethodDelete, "/replicas/"+segment(name), actor, nil)
	return err
}

// Evacuate implements Operator.
func (c *Client) Evacuate(ctx context.Context, backend string, o director.TaskOrder) (*director.TaskReport, error) {
	rate, by := pace(o)
	return ask[director.TaskReport](ctx, c, http.MethodPut, evacuationOf(backend), o.Actor, evacuationOrder{Rate: rate, By: by, Paused: o.Paused, Note: o.Note})
}

// Rebalance implements Operator.
func (c *Client) Rebalance(ctx context.Context, o director.TaskOrder) (*director.TaskReport, error) {
	rate, by := pace(o)
	return ask[director.TaskReport](ctx, c, http.MethodPut, "/rebalance", o.Actor, rebalanceOrder{Rate: rate, By: by, Slack: &o.Slack, Paused: o.Paused, Note: o.Note})
}

// Plan implements Operator.
func (c *Client) Plan(ctx context.Context, slack float64) (*director.PlanReport, error) {
	q := url.Values{"slack": {strconv.FormatFloat(slack, 'g', -1, 64)}}
	return ask[director.PlanReport](ctx, c, http.MethodGet, "/rebalance?"+q.Encode(), "", nil)
}

// Cancel implements Operator.
func (c *Client) Cancel(ctx context.Context, kind director.TaskKind, backend, actor, note string) error {
	path := "/rebalance"
	if kind == director.Evacuate {
		path = evacuationOf(backend)
	}
	_, err := ask[CancelAnswer](ctx, c, http.MethodDelete, path, actor, noteOrder{note})
	return err
}

func evacuationOf(backend string) string { return "/backends/" + segment(backend) + "/evacuation" }

// pace writes a rate, or the time by which a task shall have ended, as an order holds them.
func pace(o director.TaskOrder) (rate *int, by *string) {
	if o.Rate != 0 {
		rate = &o.Rate
	}
	if o.By != 0 {
		by = new(time.Now().Add(o.By).Format(time.RFC3339Nano))
	}
	return rate, by
}

// segment writes a name as one segment of a path. A dot means something there when it stands alone, or with another.
func segment(name string) string {
	if name == "." || name == ".." {
		return strings.ReplaceAll(name, ".", "%2E")
	}
	return url.PathEscape(name)
}

// ask sends a request and reads the answer.
func ask[T any](ctx context.Context, c *Client, method, path, actor string, order any) (*T, error) {
	var body io.Reader
	if order != nil {
		encoded, err := json.Marshal(order)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(encoded)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.url+adminRoot+path, body)
	if err != nil {
		return nil, err
	}
	if order != nil {
		r.Header["Content-Type"] = contentType
	}
	if actor != "" {
		r.Header.Set(actorHeader, actor)
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(r)
	if err != nil {
		return nil, c.unreached(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, c.unreached(err)
	}
	if response.StatusCode/100 != 2 {
		return nil, c.failed(response, data)
	}
	result := new(T)
	if err := json.Unmarshal(data, result); err != nil {
		return nil, fmt.Errorf("%s answers what is not of an admin API: %w", c.url, err)
	}
	return result, nil
}

// unreached says that there was no answer. The URL is said once, without the path.
func (c *Client) unreached(err error) error {
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err
	}
	return fmt.Errorf("the admin API at %s cannot be asked: %w", c.url, err)
}

func (c *Client) failed(response *http.Response, data []byte) error {
	var a errorAnswer
	if err := json.Unmarshal(data, &a); err != nil || a.Error == "" {
		return fmt.Errorf("%s answers HTTP %s, and not as an admin API does", c.url, response.Status)
	}
	return &APIError{Status: response.StatusCode, Message: a.Error}
}
