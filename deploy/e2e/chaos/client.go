package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/history"
)

const (
	// clients look up some tens of users a second each, and wait for so many answers at once.
	clients, atOnce = 12, 16
	// Hot users are asked for all the time, cold ones now and then; the others are new.
	hotUsers, coldUsers = 20, 500
	// lookupLimit is how long a proxy waits.
	lookupLimit = 5 * time.Second
)

// pooled is the name of a hot or a cold user.
func pooled(n int) string {
	if n < hotUsers {
		return fmt.Sprintf("hot%d@example.org", n)
	}
	return fmt.Sprintf("cold%d@example.org", n-hotUsers)
}

// client looks up users until ctx ends. Whom it asks for, where and in which order follows from the seed. It does not wait for answers
// before it goes on, or a replica that hangs would silence it.
func (s *Site) client(ctx context.Context, number int) {
	random := rand.New(rand.NewPCG(s.seed, uint64(1000+number)))
	var asking sync.WaitGroup
	defer asking.Wait()
	places := make(chan struct{}, atOnce)
	for n := 0; ctx.Err() == nil; n++ {
		pause(ctx, time.Duration(random.Int64N(int64(30*time.Millisecond))))
		first := random.IntN(len(s.Directors))
		second := (first + 1 + random.IntN(len(s.Directors)-1)) % len(s.Directors)
		userDB := random.IntN(7) == 0
		what := random.IntN(8)
		user := fmt.Sprintf("new%d-%d@example.org", number, n)
		if what >= 4 {
			user = pooled(random.IntN(hotUsers))
		} else if what >= 2 {
			user = pooled(hotUsers + random.IntN(coldUsers))
		}
		places <- struct{}{}
		asking.Go(func() {
			defer func() { <-places }()
			switch what {
			case 0: // who is new, at two replicas at once
				asking.Go(func() { s.ask(ctx, number, user, second, false) })
			case 1: // who is new, at one replica and then at another
				s.ask(ctx, number, user, first, userDB)
				s.ask(ctx, number, user, first, false)
				s.ask(ctx, number, user, second, userDB)
				return
			}
			s.ask(ctx, number, user, first, userDB && what > 0)
		})
	}
}

// ask makes one lookup and adds it to the history. One that was broken off because all ends is none.
func (s *Site) ask(ctx context.Context, client int, user string, replica int, userDB bool) history.Lookup {
	d := s.Directors[replica]
	l := history.Lookup{User: user, Client: client, Replica: d.Name, UserDB: userDB, Begin: s.History.Now()}
	s.lookup(ctx, &l, d.URL())
	l.End = s.History.Now()
	if ctx.Err() == nil {
		s.History.Add(l)
	}
	return l
}

func (s *Site) lookup(ctx context.Context, l *history.Lookup, url string) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	path := "/auth_passdb_lookup"
	if l.UserDB {
		path = "/auth_userdb_lookup"
	}
	l.Outcome = history.Unavailable
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+path, strings.NewReader(fmt.Sprintf(`{"user":%q}`, l.User)))
	if err != nil {
		l.Detail = err.Error()
		return
	}
	response, err := s.http.Do(request)
	if err != nil {
		l.Detail = err.Error()
		return
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		l.Detail = err.Error()
		return
	}
	var answer struct {
		Code       int
		Attributes json.RawMessage
	}
	l.Detail = response.Status + " " + string(body)
	switch err := json.Unmarshal(body, &answer); {
	case response.StatusCode == http.StatusServiceUnavailable:
		l.Told = true
	case response.StatusCode != http.StatusOK || err != nil:
		l.Outcome = history.Refused
	case answer.Code == -1:
		l.Outcome = history.Held
	case answer.Code == 1:
		var to struct{ Host netip.Addr }
		l.Outcome = history.Refused
		if json.Unmarshal(answer.Attributes, &to) != nil {
			return
		}
		if name, known := s.names.name(to.Host); known {
			l.Outcome, l.Backend, l.Addr, l.Detail = history.Served, name, to.Host, ""
		}
	default:
		l.Outcome = history.Refused
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, length time.Duration) {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
