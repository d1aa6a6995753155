package doveadm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// TestFindTogether holds that users who are looked for while a server is being asked share the next request, and none that had begun.
func TestFindTogether(t *testing.T) {
	asked, answer := make(chan string), make(chan []string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var commands [][3]any
		if err := json.NewDecoder(r.Body).Decode(&commands); err != nil || len(commands) != 1 {
			t.Errorf("%v, %v", commands, err)
		}
		mask, _ := json.Marshal(commands[0][1].(map[string]any)["mask"])
		asked <- string(mask)
		rows := []map[string]string{}
		for _, user := range <-answer {
			rows = append(rows, map[string]string{"username": user, "service": "imap", "ip": "192.0.2.1"})
		}
		json.NewEncoder(w).Encode([][3]any{{"doveadmResponse", rows, commands[0][2]}})
	}))
	t.Cleanup(server.Close)
	addr := netip.MustParseAddrPort(server.Listener.Addr().String())
	backend := director.Backend{Name: "b", Addr: addr.Addr(), Ports: map[string]uint16{"doveadm-http": addr.Port()}}
	c := New(Config{Key: "k", Timeout: time.Minute})
	t.Cleanup(c.Close)

	found := map[string]int{}
	var mu sync.Mutex
	var finding sync.WaitGroup
	find := func(user string) {
		finding.Go(func() {
			sessions, err := c.Find(t.Context(), backend, user)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			found[user] = len(sessions)
		})
	}
	find("ada")
	if mask := <-asked; mask != `["ada"]` {
		t.Errorf("asked for %s", mask)
	}
	const others = 20
	for i := range others {
		find(fmt.Sprint("u", i))
	}
	find("ada") // once more: what is being asked had begun before
	waiting := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, next := range c.searches {
			if next != nil {
				return len(next.users)
			}
		}
		return 0
	}
	for waiting() < others+1 {
		time.Sleep(time.Millisecond)
	}
	answer <- nil
	if mask := <-asked; mask != `null` {
		t.Errorf("asked for %s", mask)
	}
	answer <- []string{"u3", "u3", "u7", "ada", "eve"}
	finding.Wait()
	if len(found) != others+1 || found["u3"] != 2 || found["u7"] != 1 || found["u1"] != 0 {
		t.Errorf("found %v", found)
	}
	find("bob")
	if mask := <-asked; mask != `["bob"]` {
		t.Errorf("asked for %s", mask)
	}
	answer <- nil
	finding.Wait()
}
