package status

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

const (
	// maxForm is the longest form in bytes.
	maxForm = 8 << 10
	// userLimit is how long it may take to find out all about a user: backends are asked for sessions. answerLimit is for the answer too.
	userLimit, answerLimit = 20 * time.Second, 25 * time.Second
	// wrongMost is how many wrong tokens are looked at in wrongFor. After that none is, whoever sends it.
	wrongMost = 10
	wrongFor  = time.Minute
	// wrongDelay is how long who sends a wrong token waits for the answer.
	wrongDelay = time.Second
)

// search says whether users can be looked for, and why not if they cannot.
type search struct {
	Possible bool
	Instead  string
}

// search is about who asks: this port has no TLS, so tokens that come from another machine could be read on the way.
func (p *Page) search(r *http.Request) search {
	switch {
	case p.config.Allowed == nil:
		return search{Instead: "No token of the admin API is configured, so users are not shown here. Ask with the verb: go-dovecot-director user NAME"}
	case !fromHere(r):
		return search{Instead: "You came from another machine without TLS, so a token could be read on the way. Come through kubectl port-forward, or ask with the verb: go-dovecot-director user NAME"}
	}
	return search{Possible: true}
}

func fromHere(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// userPage is the page about one user, or about what is wrong with the question.
type userPage struct {
	Replica, Version string
	Search           search
	Asked, Refused   string
	User             *director.UserReport
	Entries          []director.Entry // with names, if no user was named
}

func (p *Page) userPage(r *http.Request) *userPage {
	return &userPage{Replica: p.config.Replica, Version: p.config.Version, Search: p.search(r)}
}

// askUser answers with the form alone: who has no script cannot fill in one that is loaded again every five seconds.
func (p *Page) askUser(w http.ResponseWriter, r *http.Request) {
	p.show(w, http.StatusOK, "user", p.userPage(r))
}

// tellUser explains a user to who has a token.
func (p *Page) tellUser(w http.ResponseWriter, r *http.Request) {
	page := p.userPage(r)
	refuse := func(status int, why string) {
		page.Refused = why
		p.show(w, status, "user", page)
	}
	if err := p.origins.Check(r); err != nil {
		refuse(http.StatusForbidden, "Requests from pages of other sites are refused.")
		return
	}
	if !page.Search.Possible {
		refuse(http.StatusForbidden, "Users are not shown here.")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		refuse(http.StatusBadRequest, "The form cannot be read.")
		return
	}
	if !p.wrong.take(time.Now()) {
		w.Header().Set("Retry-After", strconv.Itoa(int(wrongFor/time.Second)))
		refuse(http.StatusTooManyRequests, "There were too many wrong tokens; none is looked at for up to a minute.")
		return
	}
	if !p.config.Allowed(strings.TrimSpace(r.PostForm.Get("token"))) {
		if p.wrong.tell() {
			p.log.Warn("a token that is not known was sent to the status page; more in this minute are not logged", "client", r.RemoteAddr)
		}
		select {
		case <-time.After(wrongDelay):
		case <-p.ended:
		case <-r.Context().Done():
		}
		refuse(http.StatusForbidden, "The token is not known.")
		return
	}
	p.wrong.giveBack()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerLimit))
	ctx, cancel := context.WithTimeout(r.Context(), userLimit)
	defer cancel()
	var err error
	if page.Asked = strings.TrimSpace(r.PostForm.Get("user")); page.Asked == "" {
		page.Entries, err = p.config.Journal(ctx, "", 0, movesMost)
	} else {
		page.User, err = p.config.UserOf(ctx, page.Asked)
	}
	switch _, invalid := errors.AsType[*director.InvalidUserError](err); {
	case invalid:
		refuse(http.StatusBadRequest, err.Error())
	case err != nil:
		refuse(http.StatusServiceUnavailable, "That cannot be told now: "+err.Error())
	default:
		p.show(w, http.StatusOK, "user", page)
	}
}

// wrongTokens counts them, since some moment.
type wrongTokens struct {
	mu    sync.Mutex
	since time.Time
	n     int
	told  bool
}

// take reports whether another token may be looked at, and counts it as a wrong one until it is given back.
func (t *wrongTokens) take(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.since) >= wrongFor {
		t.since, t.n, t.told = now, 0, false
	}
	if t.n == wrongMost {
		return false
	}
	t.n++
	return true
}

// giveBack is for a token that was right.
func (t *wrongTokens) giveBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n = max(0, t.n-1)
}

// tell reports whether nobody was told yet.
func (t *wrongTokens) tell() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	told := t.told
	t.told = true
	return !told
}
