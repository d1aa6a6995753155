package http

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// startBounded serves on a listener that may have so many connections, and returns its address, and what waits until no request is under way:
// a client has its answer a little before its connection counts as idle.
func startBounded(t *testing.T, most int, handler http.Handler) (address string, rest func()) {
	t.Helper()
	s := NewServer(handler, nil, WithLimits(time.Minute, time.Minute)) // the machine may stand still
	c := newConnections(mostLookups, slog.New(slog.DiscardHandler))
	c.most = most
	s.server.ConnState = c.note
	t.Cleanup(func() { // after the server has ended
		counted := func() int {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.open) + c.idle.Len()
		}
		until(t, "connections are forgotten", func() bool { return counted() == 0 }) // they end a little after the server
	})
	return run(t, s), func() {
		t.Helper()
		until(t, "all connections are idle", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.idle.Len() == len(c.open)
		})
	}
}

// until waits for what a server does on its own time.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// peer is a connection of a client.
type peer struct {
	net.Conn
	answers *bufio.Reader
}

func dial(t *testing.T, address string) peer {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute)) // of a test that fails
	return peer{conn, bufio.NewReader(conn)}
}

// ask makes a request on the connection, and returns the error of it if there is one.
func (p peer) ask() error {
	if _, err := io.WriteString(p, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	r, err := http.ReadResponse(p.answers, nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return err
}

// closed reports whether the server has closed the connection without a word, and waits for it.
func (p peer) closed() bool {
	_, err := p.answers.ReadByte()
	return err != nil && !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "timeout")
}

func TestIdleConnectionsMakeRoom(t *testing.T) {
	address, rest := startBounded(t, 3, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	var peers []peer
	for range 3 {
		p := dial(t, address)
		if err := p.ask(); err != nil {
			t.Fatal(err)
		}
		rest()
		peers = append(peers, p)
	}
	if err := peers[0].ask(); err != nil { // now the second has been idle for the longest time
		t.Fatal(err)
	}
	rest()
	// Who says nothing at all takes room too.
	silent := dial(t, address)
	if !peers[1].closed() {
		t.Error("the connection that was idle for the longest time is kept")
	}
	for range 2 {
		p := dial(t, address)
		if err := p.ask(); err != nil {
			t.Error(err)
		}
		rest()
	}
	if !peers[2].closed() || !peers[0].closed() {
		t.Error("idle connections are kept")
	}
	late := dial(t, address)
	if err := late.ask(); err != nil {
		t.Error(err)
	}
	if !silent.closed() {
		t.Error("a silent connection is kept")
	}
}

// Requests that are under way are not cut off; then it is the new connection that has to go.
func TestBusyConnectionsAreKept(t *testing.T) {
	busy, finish := make(chan struct{}), make(chan struct{})
	address, _ := startBounded(t, 2, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		busy <- struct{}{}
		<-finish
	}))
	asked := make(chan error)
	for range 2 {
		p := dial(t, address)
		go func() { asked <- p.ask() }()
		<-busy
	}
	if p := dial(t, address); !p.closed() {
		t.Error("there is one connection too many")
	}
	close(finish)
	for range 2 {
		if err := <-asked; err != nil {
			t.Error(err)
		}
	}
}
