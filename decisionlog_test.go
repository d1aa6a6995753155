package director_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// logged runs a director whose first of two backends is lost, with 300 users on it, and returns its log.
func logged(t *testing.T, do func(b *bench)) *bytes.Buffer {
	store := newMemory()
	for user := range crowd(300, 0) {
		store.put(user, backend(0).Name)
	}
	log := &bytes.Buffer{}
	b := newBench(t, store, func(c *director.Config) { c.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	b.see(backends(2))
	time.Sleep(time.Minute) // rows that are younger would say that another replica has seen it alive
	lost := backends(2)
	lost[0].Condition = director.NotReady
	b.see(lost)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- b.Run(ctx) }()
	synctest.Wait()
	log.Reset()
	do(b)
	synctest.Wait()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return log
}

func TestDecisionsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ask := func(b *bench, r director.Request) {
			if _, err := b.Resolve(t.Context(), r); err != nil {
				t.Error(err)
			}
		}
		long := strings.Repeat("x", 1000)
		log := logged(t, func(b *bench) {
			ask(b, director.Request{User: "new", Protocol: "imap", Session: "Kfx1\nlevel=ERROR"})
			ask(b, director.Request{User: "new", Protocol: "imap"})
			ask(b, director.Request{User: "u0001", Protocol: long, Session: long})
			ask(b, director.Request{User: "u0001", ReadOnly: true})
			time.Sleep(graces.Failover)
			b.again()
			ask(b, director.Request{User: "u0001", Session: "Kfx2"})
			b.store.setDown(true)
			ask(b, director.Request{User: "nobody"})
			b.store.setDown(false)
			b.see(backends(2)) // to renew a row is nothing new
			b.want("u0002", director.Serve, director.Renewed, "dovecot-backend-0")
		})
		var got []string
		for line := range strings.Lines(log.String()) {
			_, line, _ = strings.Cut(line, " level=INFO ")
			got = append(got, line)
		}
		x := long[:64]
		want := []string{
			`msg="user mapped" user=new to=dovecot-backend-1 reason=proposed service=imap session="Kfx1\nlevel=ERROR"` + "\n",
			`msg="user held; he gets a temporary failure" user=u0001 backend=dovecot-backend-0 reason=in_grace service=` + x + ` session=` + x + ` for=30s` + "\n",
			`msg="user held; he gets a temporary failure" user=u0001 backend=dovecot-backend-0 reason=in_grace for=30s kind=userdb` + "\n",
			`msg="user moved from a lost backend" user=u0001 from=dovecot-backend-0 to=dovecot-backend-1 reason=placed session=Kfx2` + "\n",
			`msg="lookup not answered; its user gets a temporary failure, unless another replica knows" user=nobody reason=store_down` + "\n",
			`msg="backend is back" backend=dovecot-backend-0 address=192.0.2.10 away=30s generation=3` + "\n",
		}
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Errorf("got\n%q\nwant\n%q", got, want)
		}
	})
}

// TestStormsAreCounted holds that a storm does not fill the log, and that it says what it leaves out.
func TestStormsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logged(t, func(b *bench) {
			for user := range crowd(250, 0) {
				b.want(user, director.Hold, director.InGrace, "")
			}
			// Who is mapped is not crowded out by those who wait.
			b.want("new", director.Serve, director.Proposed, "")
			time.Sleep(11 * time.Second)
		})
		if n := strings.Count(log.String(), "user mapped"); n != 1 {
			t.Errorf("%d lines of a user who was mapped", n)
		}
		if n := strings.Count(log.String(), "user held"); n != 100 {
			t.Errorf("%d lines in a second", n)
		}
		if n := strings.Count(log.String(), "in_grace=150\n"); n != 1 || strings.Count(log.String(), "\n") != 102 {
			t.Errorf("what was left out is told %d times", n)
		}
		log = logged(t, func(b *bench) {
			for user := range crowd(101, 0) {
				b.want(user, director.Hold, director.InGrace, "")
			}
		})
		if !strings.HasSuffix(log.String(), "in_grace=1\n") {
			t.Error("at the end it is not told what was left out")
		}
	})
}
