package load_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// crawlers is how many clients of each kind are slow at once.
const crawlers = 200

// dribble is a client that sends a beginning, and then a byte now and then, until it is cut off.
func dribble(ctx context.Context, address, beginning, rest string) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, beginning); err != nil {
		return err
	}
	cut := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, conn) // an answer that tells it so may come first
		cut <- err
	}()
	for i := 0; ; i++ {
		select {
		case <-cut:
			return nil
		case <-ctx.Done():
			return errors.New("it is not cut off")
		case <-time.After(100 * time.Millisecond):
		}
		_, _ = conn.Write([]byte{rest[i%len(rest)]})
	}
}

// neverRead is a client that asks again and again and reads no answer, until it is cut off.
func neverRead(ctx context.Context, address, request string) error {
	narrow := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}}
	conn, err := narrow.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetWriteDeadline(deadline)
	for {
		if _, err := io.WriteString(conn, request); errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("it is not cut off")
		} else if err != nil {
			return nil
		}
	}
}

// Clients that are slow on purpose are cut off, on every listener, and keep nobody else waiting; those who watch the status page go on.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	s := newSite(t, seeded)
	d := s.director(t, 1)
	ops, admin := strings.TrimPrefix(d.OpsURL(), "http://"), strings.TrimPrefix(d.AdminURL(), "http://")

	watching, err := http.Get(d.OpsURL() + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer watching.Body.Close()
	events := make(chan struct{})
	go func() {
		defer close(events)
		for lines := bufio.NewReader(watching.Body); ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			if strings.HasPrefix(line, "data:") {
				select {
				case events <- struct{}{}:
				default:
				}
			}
		}
	}()

	ctx, cancel := context.WithTimeout(t.Context(), awaitLimit)
	defer cancel()
	const header = "POST /auth_passdb_lookup HTTP/1.1\r\nHost: director\r\n"
	big := "GET / HTTP/1.1\r\nHost: director\r\n\r\n"
	var crawling sync.WaitGroup
	for name, crawl := range map[string]struct {
		n  int
		do func() error
	}{
		"header of a lookup":      {crawlers, func() error { return dribble(ctx, d.Addr(), header+"X-A: ", "a") }},
		"header after header":     {crawlers, func() error { return dribble(ctx, d.Addr(), header, "X: a\r\n") }},
		"body of a lookup":        {crawlers, func() error { return dribble(ctx, d.Addr(), header+"Content-Length: 1000\r\n\r\n{", " ") }},
		"chunks of a lookup":      {crawlers, func() error { return dribble(ctx, d.Addr(), header+"Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n") }},
		"nothing":                 {crawlers, func() error { return dribble(ctx, d.Addr(), "", "\r\n") }},
		"answers of lookups":      {5, func() error { return neverRead(ctx, d.Addr(), rawLookup("user-1@example.org")) }},
		"header to operations":    {20, func() error { return dribble(ctx, ops, "GET /healthz HTTP/1.1\r\nX-A: ", "a") }},
		"answers of operations":   {5, func() error { return neverRead(ctx, ops, big) }},
		"header to the admin API": {20, func() error { return dribble(ctx, admin, "GET /api/v1/status HTTP/1.1\r\nX-A: ", "a") }},
		"body to the admin API": {20, func() error {
			return dribble(ctx, admin, "POST /api/v1/users/a/move HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", " ")
		}},
		"answers of the admin API": {5, func() error {
			return neverRead(ctx, admin, "GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
		}},
	} {
		for range crawl.n {
			crawling.Go(func() {
				if err := crawl.do(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		crawling.Wait()
	}()
	for round := 0; ; round++ {
		wantHealthy(t, d, fmt.Sprint("while clients are slow ", round))
		select {
		case <-over:
		case <-time.After(100 * time.Millisecond):
			continue
		}
		break
	}
	for range 3 {
		if _, on := <-events; !on {
			t.Fatal("who watches the status page is cut off")
		}
	}
	if t.Failed() {
		return
	}
	await(t, "all is as before", func() error {
		if n := metric(t, d, "process_open_fds", ""); n > 60 {
			return fmt.Errorf("%.0f descriptors are open", n)
		}
		return nil
	})
}
