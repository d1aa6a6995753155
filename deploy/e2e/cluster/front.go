package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Front stands before the API server as a load balancer does, with a certificate of its own, and can tell lies. Its clients'
// requests, watches too, end whenever it begins to behave otherwise, as if it had been replaced.
type Front struct {
	// Addr is where it listens.
	Addr string

	api    http.Handler
	caFile string

	mu       sync.Mutex
	behave   Behaviour
	changed  context.Context // ends with the behaviour
	change   context.CancelFunc
	recorded map[string][]byte // lists by URL, the oldest that was seen
}

// Behaviour answers a request; api is how the API server would.
type Behaviour func(f *Front, api http.Handler, w http.ResponseWriter, r *http.Request)

// Front starts one that is honest, and ends with the test.
func (c *Cluster) Front(tb testing.TB) *Front {
	tb.Helper()
	ca, err := os.ReadFile(c.CAFile())
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	tb.Cleanup(transport.CloseIdleConnections)
	return newFront(tb, &url.URL{Scheme: "https", Host: fmt.Sprintf("%s:%d", host, port)}, transport)
}

func newFront(tb testing.TB, target *url.URL, transport http.RoundTripper) *Front {
	f := &Front{recorded: map[string][]byte{}}
	f.Behave(Honest)
	f.api = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1, // watches
		ErrorLog:      log.New(io.Discard, "", 0),
	}
	server := httptest.NewUnstartedServer(f)
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	tb.Cleanup(func() {
		f.Behave(Honest) // ends watches
		server.CloseClientConnections()
		server.Close()
	})
	f.Addr = server.Listener.Addr().String()
	f.caFile = filepath.Join(tb.TempDir(), "front.crt")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(f.caFile, text, 0o644); err != nil {
		tb.Fatal(err)
	}
	return f
}

// Kubeconfig writes a file for a client that reaches it at an address.
func (f *Front) Kubeconfig(tb testing.TB, addr string) (path string) {
	tb.Helper()
	path = filepath.Join(tb.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, kubeconfig(addr, f.caFile), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Behave makes it behave otherwise from now on.
func (f *Front) Behave(b Behaviour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.change != nil {
		f.change()
	}
	f.behave = b
	f.changed, f.change = context.WithCancel(context.Background())
}

func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	behave, changed := f.behave, f.changed
	f.mu.Unlock()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(changed, cancel)()
	behave(f, f.api, w, r.WithContext(ctx))
}

func isWatch(r *http.Request) bool { return r.URL.Query().Get("watch") != "" }

// Honest passes everything on. It remembers the first list of each kind for Outdated.
func Honest(f *Front, api http.Handler, w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	_, known := f.recorded[r.URL.Path]
	f.mu.Unlock()
	if isWatch(r) || known {
		api.ServeHTTP(w, r)
		return
	}
	status, list := fetch(api, r)
	if status == http.StatusOK {
		f.mu.Lock()
		f.recorded[r.URL.Path] = list
		f.mu.Unlock()
	}
	answer(w, status, "application/json", list)
}

// fetch asks the API server in JSON.
func fetch(api http.Handler, r *http.Request) (status int, body []byte) {
	r = r.Clone(r.Context())
	r.Header.Set("Accept", "application/json")
	r.Header.Del("Accept-Encoding")
	recorder := httptest.NewRecorder()
	api.ServeHTTP(recorder, r)
	return recorder.Code, recorder.Body.Bytes()
}

func answer(w http.ResponseWriter, status int, kind string, body []byte) {
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have gone
}

// Denies answers that the client has no right to anything, as an API server does that has just started.
func Denies(_ *Front, _ http.Handler, w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusForbidden, "application/json",
		[]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","message":"forbidden: no RBAC policy matched","code":403}`))
}

// Fails answers that it is out of order.
func Fails(_ *Front, _ http.Handler, w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusInternalServerError, "text/plain", []byte("etcdserver: no leader"))
}

// Portal answers with a page for people, as a proxy does that wants to be logged in to.
func Portal(_ *Front, _ http.Handler, w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, "text/html", []byte("<!doctype html><title>Sign in</title>"))
}

// Truncates ends every answer half-way, as if it were whole.
func Truncates(_ *Front, api http.Handler, w http.ResponseWriter, r *http.Request) {
	if isWatch(r) {
		answer(w, http.StatusOK, "application/json", []byte(`{"type":"MODIFIED","object":{"kind":"Endpoi`))
		return
	}
	status, list := fetch(api, r)
	answer(w, status, "application/json", list[:len(list)/2])
}

// Empties answers that there is nothing, and that nothing changes.
func Empties(_ *Front, api http.Handler, w http.ResponseWriter, r *http.Request) {
	if isWatch(r) {
		hang(w, r)
		return
	}
	status, list := fetch(api, r)
	var content map[string]any
	if err := json.Unmarshal(list, &content); err != nil {
		answer(w, http.StatusInternalServerError, "text/plain", []byte(err.Error()))
		return
	}
	content["items"] = []any{}
	list, _ = json.Marshal(content) // it was JSON before
	answer(w, status, "application/json", list)
}

// Forgets is Empties of a server that knows nothing of what was before either, so that clients have to believe it.
func Forgets(f *Front, api http.Handler, w http.ResponseWriter, r *http.Request) {
	if isWatch(r) {
		answer(w, http.StatusOK, "application/json",
			[]byte(`{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","message":"too old resource version","code":410}}`))
		return
	}
	Empties(f, api, w, r)
}

// Outdated answers what was true when it was first asked, resource versions and all, as a replica does that has fallen behind.
func Outdated(f *Front, api http.Handler, w http.ResponseWriter, r *http.Request) {
	if isWatch(r) {
		hang(w, r)
		return
	}
	f.mu.Lock()
	list := f.recorded[r.URL.Path]
	f.mu.Unlock()
	if list == nil {
		api.ServeHTTP(w, r)
		return
	}
	answer(w, http.StatusOK, "application/json", list)
}

// hang begins an answer and says nothing more.
func hang(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}
