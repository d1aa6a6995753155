package http

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// TestOldConnectionsAreClosed runs the clock: a connection lives for five minutes, more or less by a fifth.
func TestOldConnectionsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(http.NotFoundHandler(), nil)
		closed := func(c *connection) bool {
			w := httptest.NewRecorder()
			request := httptest.NewRequestWithContext(context.WithValue(t.Context(), connectionKey{}, c), http.MethodPost, "/", nil)
			s.server.Handler.ServeHTTP(w, request)
			return w.Header().Get("Connection") == "close"
		}
		connections := make([]*connection, 200)
		for i := range connections {
			connections[i] = newConnection(time.Now())
		}
		count := func() (n int) {
			for _, c := range connections {
				if closed(c) {
					n++
				}
			}
			return n
		}
		time.Sleep(connectionAge * 4 / 5)
		if n := count(); n != 0 {
			t.Errorf("%d closed after 4m", n)
		}
		time.Sleep(connectionAge / 5)
		if n := count(); n < 50 || n > 150 {
			t.Errorf("%d of 200 closed after 5m, want about half", n)
		}
		time.Sleep(connectionAge/5 + time.Second)
		if n := count(); n != len(connections) {
			t.Errorf("%d closed after 6m", n)
		}
		s.closing.Store(true)
		if !closed(newConnection(time.Now())) {
			t.Error("a new connection is kept at shutdown")
		}
	})
}

func TestEncodingASuccessAllocatesItsBufferOnly(t *testing.T) {
	b := make([]byte, 0, 160)
	addr := netip.MustParseAddr("2001:db8:1234:5678:9abc:def0:1234:5678")
	if n := testing.AllocsPerRun(100, func() { b = appendSuccess(b[:0], addr, 31143) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if len(b) > 160 {
		t.Errorf("%d bytes", len(b))
	}
}
