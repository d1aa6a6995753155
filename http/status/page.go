package status

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // what browsers get
	"encoding/hex"
	"encoding/json"
	"html/template"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// Config is what a Page is made of.
type Config struct {
	// Vitals asks nobody.
	Vitals func() director.Vitals
	// Around is what they do not say. It asks nobody either.
	Around func(ctx context.Context) Around
	// Shares is how much of the ring each backend has.
	Shares func() map[string]float64
	// Journal reads the journal, for who looks.
	Journal func(ctx context.Context, user string, before int64, most int) ([]director.Entry, error)
	// UserOf tells all about a user, to who has a token that Allowed knows. Without Allowed nobody is told.
	UserOf  func(ctx context.Context, name string) (*director.UserReport, error)
	Allowed func(token string) bool
	// Replica is this director's name, Version the program's.
	Replica, Version string
	// Logger gets refused tokens; nil discards.
	Logger *slog.Logger
}

// Page is the handler of the page. Run keeps it live. It is safe for concurrent use.
type Page struct {
	config  Config
	traffic *Traffic
	moves   moves
	log     *slog.Logger
	mux     *http.ServeMux

	frame    atomic.Pointer[frame]
	watchers atomic.Int64
	wake     chan struct{}
	ended    chan struct{}
	wrong    wrongTokens
	origins  *http.CrossOriginProtection
}

//go:embed assets/page.css
var css []byte

//go:embed assets/page.js
var script []byte

//go:embed assets/page.gohtml
var pageText string

// asset is a file that changes its name with its content, so browsers may keep it.
type asset struct {
	name, kind string
	content    []byte
}

func newAsset(name, ending, kind string, content []byte) asset {
	sum := sha256.Sum256(content)
	return asset{name: name + "-" + hex.EncodeToString(sum[:6]) + ending, kind: kind, content: content}
}

var (
	sheet  = newAsset("page", ".css", "text/css; charset=utf-8", css)
	source = newAsset("page", ".js", "text/javascript; charset=utf-8", script)
)

var pages = template.Must(template.New("page").Funcs(template.FuncMap{
	"css":    func() string { return "/assets/" + sheet.name },
	"js":     func() string { return "/assets/" + source.name },
	"clock":  clock,
	"count":  count,
	"number": number,
	"left":   left,
	"millis": time.Time.UnixMilli,
	"reason": func(r director.Reason) string { return moveLine{Subject: director.AboutUser, Reason: r}.What() },
	"ago":    func(seconds float64) string { return left(time.Duration(seconds * float64(time.Second))) },
	"day":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
}).Parse(pageText))

// Patterns are what the page answers to.
var Patterns = []string{"GET /{$}", "GET /events", "GET /assets/{name}", "GET /user", "POST /user"}

// New returns a Page. Run starts it.
func New(c Config, t *Traffic) *Page {
	p := &Page{
		config: c, traffic: t, moves: moves{read: c.Journal}, log: c.Logger, mux: http.NewServeMux(),
		wake: make(chan struct{}, 1), ended: make(chan struct{}), origins: http.NewCrossOriginProtection(),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.frame.Store(&frame{next: make(chan struct{})})
	for i, handler := range []http.HandlerFunc{p.whole, p.events, assets, p.askUser, p.tellUser} {
		p.mux.HandleFunc(Patterns[i], handler)
	}
	return p
}

// policy lets the page use its own files, and nothing else.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP answers one request.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	p.mux.ServeHTTP(w, r)
}

func assets(w http.ResponseWriter, r *http.Request) {
	for _, a := range []asset{sheet, source} {
		if r.PathValue("name") == a.name {
			w.Header().Set("Content-Type", a.kind)
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
			_, _ = w.Write(a.content)
			return
		}
	}
	http.NotFound(w, r)
}

// whole answers with the page as it is now.
func (p *Page) whole(w http.ResponseWriter, r *http.Request) {
	s := p.state(r.Context(), false)
	s.Moves, s.Journal = p.moves.fresh(context.WithoutCancel(r.Context())) // others may wait for it
	s.Search = p.search(r)
	p.show(w, http.StatusOK, "page", s)
}

// state is what is known now. Moves are not read.
func (p *Page) state(ctx context.Context, live bool) *state {
	s := build(p.config.Vitals(), p.config.Around(ctx), p.config.Shares(), live)
	s.Charts = charts(p.traffic.history())
	s.Replica, s.Version = p.config.Replica, p.config.Version
	return s
}

// show answers with a page.
func (p *Page) show(w http.ResponseWriter, status int, name string, what any) {
	var text bytes.Buffer
	if err := pages.ExecuteTemplate(&text, name, what); err != nil {
		p.log.Error("the status page cannot be drawn", "error", err)
		http.Error(w, "the page cannot be drawn; the director's log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes()) // a browser that has gone does not want it
}

// sections are the parts of the page that change while somebody looks, by their id in it.
var sections = []string{"summary", "wrong", "ring", "backends", "traffic", "moves", "others"}

const (
	// drawEvery is how often the sections are drawn while somebody watches.
	drawEvery = 250 * time.Millisecond
	// lifeEvery is how often a watcher is told something though nothing changed, so that it knows it is still connected; the script waits
	// for that three times as long.
	lifeEvery = 2 * time.Second
	// sendLimit is how long a watcher may take to read an event.
	sendLimit = 10 * time.Second
	// watchersMost is how many may watch. Each costs a connection and a goroutine; what is drawn is drawn once for all.
	watchersMost = 50
)

// frame is what all watchers see from one moment on, until next is closed.
type frame struct {
	number   uint64
	head     []byte // of an event, with the moment and the view
	sections []section
	next     chan struct{}
}

// section is one that was changed by a frame.
type section struct {
	text  string
	event []byte // "id":"text", as JSON
	since uint64
}

// Run counts traffic, and draws what watchers see while there are some, until ctx ends. It returns nil.
func (p *Page) Run(ctx context.Context) error {
	var others sync.WaitGroup
	defer others.Wait()
	defer close(p.ended)
	others.Go(func() { p.traffic.run(ctx) })
	reading := make(chan struct{}, 1)
	defer close(reading)
	others.Go(func() {
		for range reading {
			p.moves.fresh(ctx)
		}
	})
	ticker := time.NewTicker(drawEvery)
	defer ticker.Stop()
	for {
		if p.watchers.Load() == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-p.wake:
			}
		}
		select {
		case reading <- struct{}{}: // what it says is in one of the next frames
		default:
		}
		p.draw(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-ticker.C:
		}
	}
}

// draw makes the next frame.
func (p *Page) draw(ctx context.Context) {
	s := p.state(ctx, true)
	s.Moves, s.Journal = p.moves.last()
	old := p.frame.Load()
	next := &frame{number: old.number + 1, sections: make([]section, len(sections)), next: make(chan struct{})}
	next.head = encode(map[string]any{"at": s.At.UnixMilli(), "generation": s.Generation, "grave": s.Grave})
	for i, id := range sections {
		var text bytes.Buffer
		if err := pages.ExecuteTemplate(&text, id, s); err != nil {
			p.log.Error("the status page cannot be drawn", "error", err)
			return
		}
		if old.sections != nil && old.sections[i].text == text.String() {
			next.sections[i] = old.sections[i]
			continue
		}
		next.sections[i] = section{text: text.String(), event: append([]byte(`"`+id+`":`), encode(text.String())...), since: next.number}
	}
	p.frame.Store(next)
	close(old.next)
}

// encode makes JSON on one line, and no larger than it has to be.
func encode(what any) []byte {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(what); err != nil {
		panic(err) // text and numbers always can be
	}
	return bytes.TrimSpace(text.Bytes())
}

// event is what a watcher has to be told who has seen all up to a frame.
func (f *frame) event(seen uint64) (event []byte, news bool) {
	event = append(append([]byte("data: "), f.head[:len(f.head)-1]...), `,"sections":{`...)
	for _, s := range f.sections {
		if s.since <= seen {
			continue
		}
		if news {
			event = append(event, ',')
		}
		event, news = append(event, s.event...), true
	}
	return append(event, "}}\n\n"...), news
}

// events tells a watcher what changes, until he leaves or Run ends.
func (p *Page) events(w http.ResponseWriter, r *http.Request) {
	defer p.watchers.Add(-1)
	if p.watchers.Add(1) > watchersMost {
		w.Header().Set("Retry-After", "30")
		http.Error(w, "50 others watch already; load the page again now and then instead", http.StatusServiceUnavailable)
		return
	}
	before := p.frame.Load() // it may be from when nobody watched
	select {
	case p.wake <- struct{}{}:
	default:
	}
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	f, seen, told := before, uint64(0), time.Time{}
	for {
		select {
		case <-r.Context().Done():
			return
		case <-p.ended:
			return
		case <-f.next:
		}
		f = p.frame.Load() // who is slow misses some
		event, news := f.event(seen)
		if !news && time.Since(told) < lifeEvery {
			continue
		}
		_ = control.SetWriteDeadline(time.Now().Add(sendLimit)) // the server's is for answers that are over soon
		if _, err := w.Write(event); err != nil {
			return
		}
		if err := control.Flush(); err != nil {
			return
		}
		seen, told = f.number, time.Now()
	}
}
