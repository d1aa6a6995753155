package sim

import (
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/store/storetest"
)

// TestMemoryIsAStore holds that the simulation's store does what the real ones do.
func TestMemoryIsAStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Bench {
		m := newMemory(time.Now, 1)
		return storetest.Bench{
			Open: func(*testing.T) storetest.Store { return m },
			Insert: func(_ *testing.T, backend string, ago time.Duration, users ...string) {
				m.mu.Lock()
				defer m.mu.Unlock()
				for _, user := range users {
					m.put(user, backend, time.Now().Add(-ago))
				}
			},
			Mailboxes: func(_ *testing.T, users ...string) {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.mailboxes = map[string]bool{}
				for _, user := range users {
					m.mailboxes[user] = true
				}
			},
		}
	})
}
