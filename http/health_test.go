package http_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	directorhttp "github.com/k-web-s/go-dovecot-director/http"
)

func part(name string, s directorhttp.PartState) directorhttp.Part {
	return directorhttp.Part{Name: name, Check: func(context.Context) directorhttp.PartState { return s }}
}

func TestReadiness(t *testing.T) {
	ready := directorhttp.PartState{Ready: true, Detail: "fine"}
	degraded := directorhttp.PartState{Ready: true, Degraded: true, Detail: "down since 3s"}
	unready := directorhttp.PartState{Detail: "not reached yet"}
	for name, tc := range map[string]struct {
		store  directorhttp.PartState
		drain  bool
		status int
		text   string
		json   string
	}{
		"all is well":          {ready, false, 200, "ready\n", `"ready": true`},
		"a part is not ready":  {unready, false, 503, "store: not reached yet\n", `"detail": "not reached yet"`},
		"degraded stays ready": {degraded, false, 200, "store: down since 3s\nready\n", `"degraded": true`},
		"shutting down":        {ready, true, 503, "process: shutting down\n", `"shutting down"`},
	} {
		t.Run(name, func(t *testing.T) {
			health := directorhttp.NewHealth(part("view", ready), part("store", tc.store))
			if tc.drain {
				health.Drain()
			}
			if reasons := health.Unready(t.Context()); strings.Join(append(reasons, ""), "\n") != tc.text && tc.status != 200 || len(reasons) > 0 && tc.status == 200 {
				t.Errorf("it is not ready because of %q", reasons)
			}
			address, _ := start(t, health)
			for path, want := range map[string]string{"/readyz": tc.text, "/readyz?verbose": tc.json} {
				r, err := client(t).Get("http://" + address + path)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(r.Body)
				r.Body.Close()
				exact := path == "/readyz"
				if r.StatusCode != tc.status || exact && string(body) != want || !strings.Contains(string(body), want) {
					t.Errorf("%s: %d %q, want %d %q", path, r.StatusCode, body, tc.status, want)
				}
			}
			r, err := client(t).Get("http://" + address + "/healthz")
			if err != nil {
				t.Fatal(err)
			}
			r.Body.Close()
			if r.StatusCode != 200 {
				t.Errorf("/healthz: %d", r.StatusCode)
			}
		})
	}
}

func TestTheOperationsAPIHasNoOtherPaths(t *testing.T) {
	address, _ := start(t, directorhttp.NewHealth())
	for _, tc := range []struct {
		method, path string
		status       int
	}{{"GET", "/", 404}, {"GET", "/auth_passdb_lookup", 404}, {"POST", "/readyz", 405}, {"HEAD", "/readyz", 200}, {"HEAD", "/healthz", 200}} {
		request, _ := http.NewRequestWithContext(t.Context(), tc.method, "http://"+address+tc.path, nil)
		r, err := client(t).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != tc.status {
			t.Errorf("%s %s: %d, want %d", tc.method, tc.path, r.StatusCode, tc.status)
		}
	}
}
