package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"time"
)

// answerLimit is more than the director ever takes.
const answerLimit = 10 * time.Second

// client is one keep-alive connection to the lookup API. It belongs to one goroutine.
type client struct {
	http   http.Client
	url    string
	body   bytes.Reader
	answer bytes.Buffer
}

func newClient(address string) *client {
	return &client{
		http: http.Client{Transport: &http.Transport{MaxConnsPerHost: 1, DisableCompression: true}, Timeout: answerLimit},
		url:  "http://" + address + "/auth_passdb_lookup",
	}
}

// ask sends one lookup and returns the body of the answer, which is good until the next call.
func (c *client) ask(body []byte) ([]byte, error) {
	c.body.Reset(body)
	r, err := c.http.Post(c.url, "application/json", &c.body)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	c.answer.Reset()
	if _, err := c.answer.ReadFrom(io.LimitReader(r.Body, 64<<10)); err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", r.Status, c.answer.Bytes())
	}
	return c.answer.Bytes(), nil
}

func (c *client) close() { c.http.CloseIdleConnections() }
