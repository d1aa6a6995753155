package main

import (
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"
)

// appendLookup makes the body that Dovecot 2.3's Lua script sends for a login.
func appendLookup(b []byte, kind string, number int64, service string) []byte {
	b = append(append(append(b, `{"user":"`...), kind...), '-')
	b = strconv.AppendInt(b, number, 10)
	b = append(append(append(b, `@example.org","service":"`...), service...), `","session":"`...)
	b = strconv.AppendUint(b, rand.Uint64(), 36)
	return append(b, `","rip":"192.0.2.77","lip":"192.0.2.10"}`...)
}

// known are users with a row, of whom there are so many.
func known(users int64) func(int) script {
	return func(int) script {
		return func(b []byte) ([]byte, time.Duration) { return appendLookup(b, "user", rand.Int64N(users), "imap"), 0 }
	}
}

// counter numbers users that come once.
type counter struct{ last atomic.Int64 }

// once are users of a kind, each of whom comes once and never again in any round.
func (n *counter) once(kind string) func(int) script {
	return func(int) script {
		return func(b []byte) ([]byte, time.Duration) { return appendLookup(b, kind, n.last.Add(1), "imap"), 0 }
	}
}

const (
	// A burst is what a message to a mailing list is to a proxy: a lookup for each recipient, one after the other.
	burst      = 50
	burstPause = 50 * time.Millisecond
)

// mixed is a day's traffic, denser: on three quarters of the connections logins, one in fifty of a new user; on the others
// bursts of deliveries.
func (n *counter) mixed(users int64) func(int) script {
	return func(connection int) script {
		if connection%4 != 0 {
			return func(b []byte) ([]byte, time.Duration) {
				if rand.IntN(50) == 0 {
					return appendLookup(b, "new", n.last.Add(1), "imap"), 0
				}
				return appendLookup(b, "user", rand.Int64N(users), "imap"), 0
			}
		}
		sent := 0
		return func(b []byte) ([]byte, time.Duration) {
			var pause time.Duration
			if sent++; sent%burst == 0 {
				pause = rand.N(2 * burstPause)
			}
			return appendLookup(b, "user", rand.Int64N(users), "lmtp"), pause
		}
	}
}
