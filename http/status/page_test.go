package status

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const goodToken = "0123456789abcdef"

// hostile is no name that anybody should have.
const hostile = `<script>alert(1)</script>"'><img src=x onerror=alert(1)>`

// stage is what a page is shown.
type stage struct {
	mu      sync.Mutex
	vitals  director.Vitals
	entries []director.Entry
	broken  bool // the journal
	asked   int  // for vitals
	read    int  // of the journal
}

func (s *stage) set(change func(s *stage)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *stage) page() *Page {
	return New(Config{
		Vitals: func() director.Vitals {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.asked++
			return s.vitals
		},
		Around: func(context.Context) Around { return Around{} },
		Shares: func() map[string]float64 { return map[string]float64{"b0": .5, "b1": .5} },
		Journal: func(context.Context, string, int64, int) ([]director.Entry, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.read++
			if s.broken {
				return nil, errors.New("broken")
			}
			return s.entries, nil
		},
		UserOf: func(_ context.Context, name string) (*director.UserReport, error) {
			if name == "down" {
				return nil, director.ErrUnavailable
			}
			return &director.UserReport{User: name, Backend: "b1", Condition: "alive", History: []director.Entry{{Subject: director.AboutUser, User: name, Note: hostile}}}, nil
		},
		Allowed: func(token string) bool { return token == goodToken },
		Replica: hostile, Version: "1",
	}, &Traffic{})
}

func get(t *testing.T, p *Page, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w
}

func TestPage(t *testing.T) {
	s := &stage{vitals: well(), entries: []director.Entry{{Subject: director.AboutUser, User: "secret-ada", From: hostile, To: "b1", Reason: director.Placed, Actor: "secret-bob", Note: "secret-note", At: noon}}}
	lose(&s.vitals, director.BackendVitals{Name: hostile, Cause: director.Failed, Waits: true, Grace: 4 * time.Minute, Users: 3})
	p := s.page()
	w := get(t, p, "/")
	text := w.Body.String()
	for header, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "Content-Security-Policy": policy,
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Set-Cookie": "",
	} {
		if got := w.Header().Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
	for _, want := range []string{"1 user: ", "their backend was lost", "4 min 00 s", "12:04:00 UTC", "b0: alive, 50.0 % of the ring", `<meta http-equiv="refresh" content="5">`} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing about %q", want)
		}
	}
	if found := regexp.MustCompile(`(?i)<script[^>]*>[^<]|<img| style=|<style|<[a-z][^<>]*\son\w+=|javascript:|https?://|secret`).FindString(text); found != "" {
		t.Errorf("there is %q", found)
	}
	for _, link := range regexp.MustCompile(`"(/assets/[^"]*)"`).FindAllStringSubmatch(text, -1) {
		a := get(t, p, link[1])
		if a.Code != http.StatusOK || !strings.Contains(a.Header().Get("Cache-Control"), "immutable") || a.Body.Len() == 0 {
			t.Errorf("%s: %d %v", link[1], a.Code, a.Header())
		}
	}
	for _, path := range []string{"/assets/page.css", "/nothing"} {
		if code := get(t, p, path).Code; code != http.StatusNotFound {
			t.Errorf("%s: %d", path, code)
		}
	}
}

// TestPageWithoutAnything has no view, no database, and nothing counted.
func TestPageWithoutAnything(t *testing.T) {
	s := &stage{vitals: director.Vitals{At: noon}, broken: true}
	w := get(t, s.page(), "/")
	for _, want := range []string{"No backends are known yet", "The journal cannot be read", "Not known: they cannot be read", "0/0"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("nothing about %q", want)
		}
	}
}

// watcher reads events.
type watcher struct {
	t    *testing.T
	body io.ReadCloser
	in   *bufio.Reader
}

type event struct {
	At         int64
	Generation uint64
	Grave      bool
	Sections   map[string]string
}

func watch(t *testing.T, address string) *watcher {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %v", response.StatusCode, response.Header)
	}
	t.Cleanup(func() { response.Body.Close() })
	return &watcher{t, response.Body, bufio.NewReader(response.Body)}
}

// next returns the next event, false if there is none any more.
func (w *watcher) next() (e event, ok bool) {
	w.t.Helper()
	for {
		text, err := w.in.ReadString('\n')
		if err != nil {
			return e, false
		}
		if data, ok := strings.CutPrefix(text, "data: "); ok {
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				w.t.Fatal(err)
			}
			return e, true
		}
	}
}

// serveShort serves the page with a limit for answers that is over before an event can be due, and runs it. stop ends it, as a shutdown does.
func serveShort(t *testing.T, p *Page) (address string, stop func()) {
	t.Helper()
	server := directorhttp.NewServer(p, nil, directorhttp.WithLimits(time.Minute, 100*time.Millisecond))
	if err := server.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	pageCtx, endPage := context.WithCancel(context.WithoutCancel(t.Context()))
	serverCtx, endServer := context.WithCancel(context.WithoutCancel(t.Context()))
	var running, serving sync.WaitGroup
	running.Go(func() {
		if err := p.Run(pageCtx); err != nil {
			t.Error(err)
		}
	})
	serving.Go(func() {
		if err := server.Run(serverCtx); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() {
		endPage()
		running.Wait()
		endServer()
		serving.Wait()
		http.DefaultClient.CloseIdleConnections()
	})
	t.Cleanup(stop)
	return server.Addr(), stop
}

func TestEvents(t *testing.T) {
	s := &stage{vitals: well(), entries: []director.Entry{{Subject: director.AboutUser, User: "secret-ada", From: "b0", To: "b1", Reason: director.Moved, At: noon}}}
	p := s.page()
	address, stop := serveShort(t, p)
	first := watch(t, address)
	e, ok := first.next()
	if !ok || len(e.Sections) != len(sections) || e.Generation != s.vitals.View.Generation {
		t.Fatalf("the first event has %d sections, generation %d", len(e.Sections), e.Generation)
	}
	s.set(func(s *stage) {
		s.vitals = well()
		lose(&s.vitals, director.BackendVitals{Name: "b2", Cause: director.Failed, Waits: true, Grace: 4 * time.Minute})
		s.vitals.View.Generation = 7
	})
	seen := map[string]string{}
	for e.Generation != 7 {
		if e, ok = first.next(); !ok {
			t.Fatal("it ended")
		}
	}
	// All that a view changes comes in the event that tells of it.
	if !e.Grave || !strings.Contains(e.Sections["wrong"], "b2 is lost") || !strings.Contains(e.Sections["backends"], `data-until="`) || strings.Contains(e.Sections["backends"], "4 min") {
		t.Errorf("got %+v", e)
	}
	for len(seen) == 0 || e.Generation != 8 {
		if e, ok = first.next(); !ok {
			t.Fatal("it ended")
		}
		for id, text := range e.Sections {
			if seen[id] == text {
				t.Errorf("%s is sent though it did not change", id)
			}
			seen[id] = text
		}
		if strings.Contains(strings.Join(slices.Collect(maps.Values(e.Sections)), ""), "secret") {
			t.Error("an event names a user")
		}
		s.set(func(s *stage) {
			s.vitals.View = seenAgain(s.vitals.View)
			s.vitals.View.Generation = 8
		})
	}
	second := watch(t, address)
	if e, ok := second.next(); !ok || len(e.Sections) != len(sections) || e.Generation != 8 {
		t.Errorf("who comes later is told of %d sections, generation %d", len(e.Sections), e.Generation)
	}
	stop() // it would take seconds and fail if a watcher were not told to go
	for _, w := range []*watcher{first, second} {
		for ok := true; ok; _, ok = w.next() {
		}
	}
}

func seenAgain(v *director.View) *director.View {
	again := *v
	return &again
}

// TestNobodyWatches runs the clock.
func TestNobodyWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{vitals: well()}
		p := s.page()
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = p.Run(ctx) })
		asked := func(d time.Duration) (asked, read int) {
			s.set(func(s *stage) { s.asked, s.read = 0, 0 })
			time.Sleep(d)
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.asked, s.read
		}
		if a, r := asked(time.Hour); a+r != 0 {
			t.Errorf("it asked %d and read %d times for nobody", a, r)
		}
		p.watchers.Add(1)
		p.wake <- struct{}{}
		if a, r := asked(time.Minute); a < 230 || a > 250 || r < 40 || r > 61 {
			t.Errorf("it asked %d and read %d times in a minute", a, r)
		}
		p.watchers.Add(-1)
		time.Sleep(time.Second)
		if a, r := asked(time.Hour); a+r != 0 {
			t.Errorf("it asked %d and read %d times after everybody had left", a, r)
		}
		cancel()
		running.Wait()
	})
}

func TestWatchersMost(t *testing.T) {
	s := &stage{vitals: well()}
	p := s.page()
	address, _ := serveShort(t, p)
	all := make([]*watcher, watchersMost)
	for i := range all {
		all[i] = watch(t, address)
	}
	w := get(t, p, "/events")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more: %d", w.Code)
	}
	all[0].body.Close()
	for p.watchers.Load() == watchersMost { // it is seen to leave when it is told something
		time.Sleep(time.Millisecond)
	}
	if e, ok := watch(t, address).next(); !ok || len(e.Sections) == 0 {
		t.Error("there is room, and the next one is not told anything")
	}
}

// ask sends the form.
func ask(t *testing.T, p *Page, user, token string, change func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/user", strings.NewReader(url.Values{"user": {user}, "token": {token}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.RemoteAddr = "127.0.0.1:4321"
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

func TestFindingAUser(t *testing.T) {
	s := &stage{vitals: well(), entries: []director.Entry{{Subject: director.AboutUser, User: "secret-ada", At: noon}}}
	for name, test := range map[string]struct {
		user, token string
		change      func(*http.Request)
		code        int
		want        string
	}{
		"a user":               {"eve", goodToken, nil, http.StatusOK, "b1, alive"},
		"nobody":               {"", goodToken, nil, http.StatusOK, "secret-ada"},
		"a wrong token":        {"eve", goodToken + "0", nil, http.StatusForbidden, "The token is not known."},
		"no token":             {"eve", "", nil, http.StatusForbidden, "The token is not known."},
		"the database is down": {"down", goodToken, nil, http.StatusServiceUnavailable, "That cannot be told now"},
		"from another machine": {"eve", goodToken, func(r *http.Request) { r.RemoteAddr = "192.0.2.1:4321" }, http.StatusForbidden, "Users are not shown here."},
		"from another site":    {"eve", goodToken, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, http.StatusForbidden, "pages of other sites"},
		"the token in the URL": {"eve", "", func(r *http.Request) { r.URL.RawQuery = "token=" + goodToken }, http.StatusForbidden, "The token is not known."},
		"too long":             {strings.Repeat("e", maxForm), goodToken, nil, http.StatusBadRequest, "The form cannot be read."},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := ask(t, s.page(), test.user, test.token, test.change)
				text := w.Body.String()
				if w.Code != test.code || !strings.Contains(text, test.want) {
					t.Errorf("got %d, nothing about %q:\n%s", w.Code, test.want, text)
				}
				if w.Header().Get("Cache-Control") != "no-store" {
					t.Error("it may be kept")
				}
				if strings.Contains(text, "<img") || strings.Contains(text, goodToken) {
					t.Error("it has a note that is markup, or the token")
				}
				if tells := strings.Contains(text, "b1, alive") || strings.Contains(text, "secret"); tells != (test.code == http.StatusOK) {
					t.Errorf("it tells of users: %v", tells)
				}
			})
		})
	}
	t.Run("without tokens", func(t *testing.T) {
		p := s.page()
		p.config.Allowed = nil
		if w := ask(t, p, "eve", "", nil); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "go-dovecot-director user NAME") {
			t.Errorf("got %d:\n%s", w.Code, w.Body)
		}
	})
}

// TestWrongTokens runs the clock: they are answered late, and after ten in a minute no token is looked at.
func TestWrongTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{vitals: well()}
		p := s.page()
		var all sync.WaitGroup
		codes := make(chan int, 100)
		begun := time.Now()
		for range cap(codes) {
			all.Go(func() { codes <- ask(t, p, "eve", "wrong", nil).Code })
		}
		all.Wait()
		close(codes)
		looked := 0
		for code := range codes {
			if code == http.StatusForbidden {
				looked++
			}
		}
		if looked != wrongMost || time.Since(begun) < wrongDelay {
			t.Errorf("%d of 100 were looked at, in %s", looked, time.Since(begun))
		}
		if w := ask(t, p, "eve", goodToken, nil); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
			t.Errorf("the right one then: %d", w.Code)
		}
		time.Sleep(wrongFor)
		for range 2 * wrongMost {
			if w := ask(t, p, "eve", goodToken, nil); w.Code != http.StatusOK {
				t.Errorf("the right one a minute later: %d", w.Code)
			}
		}
	})
}

// FuzzUser holds for any form that whoever has the token is answered with a page on which names are text, whatever they hold, and whoever
// has not with nothing about anybody.
func FuzzUser(f *testing.F) {
	for _, form := range []string{"user=eve&token=" + goodToken, "user=%3Cb%3E&token=" + goodToken, "token=" + goodToken, "user=a%00&token=" + goodToken, "user=eve&token=wrong", "user=%zz", "user=eve;token=x", ""} {
		f.Add(form, "")
	}
	f.Fuzz(func(t *testing.T, form, query string) {
		s := &stage{vitals: well(), entries: []director.Entry{{Subject: director.AboutUser, User: "secret-ada", At: noon}}}
		p := s.page()
		close(p.ended) // nobody waits for the answer to a wrong token
		var asked []string
		p.config.UserOf = func(_ context.Context, name string) (*director.UserReport, error) {
			asked = append(asked, name)
			if name == "" || !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
				return nil, &director.InvalidUserError{Kind: director.UserNUL, Detail: "odd"}
			}
			return &director.UserReport{User: name, Backend: name, Condition: "alive", History: []director.Entry{{Subject: director.AboutUser, User: name, From: name, Note: name, Actor: name}}}, nil
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/user", strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.RemoteAddr = "127.0.0.1:4321"
		r.URL.RawQuery = query
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		text := w.Body.String()
		if !slices.Contains([]int{200, 400, 403}, w.Code) || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") || !strings.HasPrefix(text, "<!DOCTYPE html>") {
			t.Fatalf("%q: %d %v %s", form, w.Code, w.Header(), text)
		}
		values, err := url.ParseQuery(form)
		if known := strings.TrimSpace(values.Get("token")) == goodToken; !known && (len(asked) > 0 || s.read > 0 || strings.Contains(text, "secret") || w.Code == 200) {
			t.Errorf("%q: %d, asked for %q, without the token: %v", form, w.Code, asked, err)
		}
		if strings.Contains(text, goodToken) && !strings.Contains(values.Get("user"), goodToken) {
			t.Errorf("%q: the token is shown", form)
		}
		if len(asked) == 0 || w.Code != 200 {
			return
		}
		// The same page about somebody harmless has as many tags.
		name := asked[0]
		r = httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/user", strings.NewReader("user=eve&token="+goodToken))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.RemoteAddr = "127.0.0.1:4321"
		plain := httptest.NewRecorder()
		p.ServeHTTP(plain, r)
		if strings.Count(text, "<") != strings.Count(plain.Body.String(), "<") || strings.Count(text, `"`) != strings.Count(plain.Body.String(), `"`) {
			t.Errorf("%q makes markup:\n%s", name, text)
		}
	})
}
