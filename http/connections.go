package http

import (
	"container/list"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
)

// Descriptors are shared out: three quarters are for connections of proxies, some for each of the other listeners, and what is left for the database, the
// API server, doveadm and files. So none of them is without one because somebody keeps connections open elsewhere.
const (
	mostLookups = 3.0 / 4
	mostOthers  = 1.0 / 16
	// mostEver is for systems where a process may have any number: each connection takes memory too.
	mostEver = 1 << 14
)

// descriptors is how many files and connections this process may have open, as a number that can be shared out.
func descriptors() float64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 // what it mostly is at least
	}
	return float64(limit.Cur)
}

// connections bounds how many a server has. When there is one too many, the one that has been doing nothing for the longest time is closed: who keeps
// thousands open keeps nobody out. A proxy whose idle connection is closed makes another one.
type connections struct {
	most int
	log  *limitedLog

	mu   sync.Mutex
	open map[net.Conn]*list.Element // nil while a request is under way
	idle list.List                  // of net.Conn, the one that has been so for the longest time first
}

func newConnections(share float64, log *slog.Logger) *connections {
	most := int(min(share*descriptors(), mostEver))
	return &connections{most: max(1, most), log: newLimitedLog(log, logEvery), open: make(map[net.Conn]*list.Element)}
}

// note is told what becomes of each connection. A new one is told of before the next is accepted.
func (c *connections) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	element, known := c.open[conn]
	if !known && state != http.StateNew {
		return // it was closed here
	}
	if element != nil {
		c.idle.Remove(element)
	}
	switch state {
	case http.StateNew, http.StateIdle:
		c.open[conn] = c.idle.PushBack(conn)
	case http.StateActive:
		c.open[conn] = nil
	case http.StateClosed, http.StateHijacked:
		delete(c.open, conn)
	}
	if len(c.open) <= c.most {
		return
	}
	// The new one is idle itself, and the only one if all others have a request under way.
	oldest := c.idle.Remove(c.idle.Front()).(net.Conn)
	delete(c.open, oldest)
	c.log.warn("connections", "more connections than this listener may have; those that have been idle for the longest time are closed. "+
		"How many there may be follows from the limit of open files",
		"most", c.most, "client", oldest.RemoteAddr().String())
	if overTLS, ok := oldest.(*tls.Conn); ok {
		oldest = overTLS.NetConn() // a farewell might have to wait
	}
	_ = oldest.Close() // it is closed, or was
}
