package k8s_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/k8s"
)

func TestParseErrorsSayWhatAndWhere(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"an empty file":             {"", "it is empty; write [] for no backends"},
		"comments only":             {"# nothing\n---\n", "it is empty"},
		"no YAML":                   {"a: [", "document 1:"},
		"a word":                    {"backends", "neither an object nor a list"},
		"another kind":              {"kind: Service", `kind "Service" is not known`},
		"a typing error":            {"- name: a\n  adress: 192.0.2.1", `unknown field "[0].adress"`},
		"a typing error in objects": {"kind: Endpoints\nsubset: []", `unknown field "subset"`},
		"a field in another case":   {"- Name: a\n  address: 192.0.2.1", `unknown field "[0].Name"`},
		"a port in two cases":       {"- {address: 192.0.2.1, ports: {IMAP: 1, imap: 2}}", `port "imap" stands there twice`},
		"nobody's IPv4 in IPv6":     {`- address: "::ffff:0.0.0.0"`, "entry 0: address"},
		"a name that has two lines": {`- {name: "a\nb", address: 192.0.2.1}`, `entry 0: "a\nb" is not a name`},
		"a list in a list":          {`{"kind": "List", "items": [{"kind": "List"}]}`, `item 0: kind "List"`},
		"the same field twice":      {"- name: a\n  name: b\n  address: 192.0.2.1", `"name" already set`},
		"no address":                {"- {name: a, address: 192.0.2.1}\n- name: b", `entry 1: address ""`},
		"a host name":               {"- address: backend.example.org", `entry 0: address "backend.example.org" is not an IP address`},
		"an address of nobody":      {"- address: 0.0.0.0", "entry 0: address"},
		"the same name twice":       {"- {name: a, address: 192.0.2.1}\n- {name: a, address: 192.0.2.2}", `entry 1: the name "a" stands there twice`},
		"a negative weight":         {"- {address: 192.0.2.1, weight: -1}", "weight -1 is not between 0 and 100"},
		"a port beyond":             {"- {address: 192.0.2.1, ports: {imap: 65536}}", "65536"},
		"a port of 0":               {"- {address: 192.0.2.1, ports: {imap: 0}}", `port "imap" is 0`},
		"two Endpoints":             {"kind: Endpoints\n---\nkind: Endpoints", "more than one Endpoints"},
		"two kinds of things":       {"kind: Endpoints\n---\n[]", "several kinds"},
		"slices of two Services":    {"kind: EndpointSlice\nmetadata: {labels: {kubernetes.io/service-name: a}}\n---\nkind: EndpointSlice\nmetadata: {labels: {kubernetes.io/service-name: b}}", `two Services, "a" and "b"`},
		"host names in slices":      {"kind: EndpointSlice\naddressType: FQDN", "host names"},
		"a broken address":          {"kind: Endpoints\nsubsets: [{addresses: [{ip: 192.0.2}]}]", `"192.0.2" is not an address`},
		"truncated Endpoints":       {"kind: Endpoints\nmetadata: {annotations: {endpoints.kubernetes.io/over-capacity: truncated}}", "must not be taken for lost"},
		"a bad item in a list":      {"kind: List\nitems: [{kind: Endpoints}, {kind: Pod}]", "item 1: kind"},
	} {
		if backends, err := k8s.Parse([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, error %v; want one with %q", name, backends, err, tc.want)
		}
	}
}

func TestTheForms(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"an empty list":  {"[]", ""},
		"a plain list":   {"- {name: b, address: 192.0.2.2, ready: false}\n- {name: a, address: 127.0.0.1, ports: {IMAP: 143}}", "a@1 ready imap:143; b@2 not ready "},
		"JSON":           {`[{"address":"192.0.2.1"}]`, "192.0.2.1@1 ready "},
		"Endpoints":      {"apiVersion: v1\nkind: Endpoints\nsubsets:\n- addresses: [{ip: 192.0.2.1, hostname: a}]\n  ports: [{name: imap, port: 143}, {name: dns, port: 53, protocol: UDP}]", "a@1 ready imap:143"},
		"a List of them": {"kind: List\nitems: [{kind: EndpointSlice, endpoints: [{addresses: [192.0.2.1]}]}, {kind: EndpointSlice}]", "192.0.2.1@1 ready "},
	} {
		backends, err := k8s.Parse([]byte(tc.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := brief(backends); got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

// TestTheFileIsFollowed edits a file as people and Kubernetes do.
func TestTheFileIsFollowed(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "backends.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("- {name: a, address: 192.0.2.1}")
	synctest.Test(t, func(t *testing.T) {
		var published atomic.Pointer[director.Snapshot]
		f, err := k8s.NewFile(k8s.FileConfig{Path: path, Publish: func(s director.Snapshot) { published.Store(&s) }})
		if err != nil {
			t.Fatal(err)
		}
		if last := published.Load(); brief(last.Backends) != "a@1 ready " || !last.CurrentAt.Equal(time.Now()) {
			t.Errorf("at the start: %+v", *last)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		expect := func(what, want string, current bool) {
			t.Helper()
			time.Sleep(1100 * time.Millisecond)
			synctest.Wait()
			last := published.Load()
			if got := brief(last.Backends); got != want || (time.Since(last.CurrentAt) < time.Second) != current {
				t.Errorf("%s: %q, known %s ago", what, got, time.Since(last.CurrentAt))
			}
			if _, failing := f.Describe(); failing == current {
				t.Errorf("%s: failing %v", what, failing)
			}
		}
		write("- {name: a, address: 192.0.2.2}")
		expect("an edit is seen within a second or so", "a@2 ready ", true)
		expect("nothing has changed", "a@2 ready ", true)
		if n := published.Load().Gaps; n != 0 {
			t.Errorf("%d gaps", n)
		}
		write("- {name: a, addr")
		expect("a half-written file changes nothing and proves nothing", "a@2 ready ", false)
		write("")
		expect("neither does an empty one", "a@2 ready ", false)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		expect("nor one that is missing", "a@2 ready ", false)
		other := filepath.Join(folder, "other.yaml")
		if err := os.WriteFile(other, []byte("- {name: b, address: 192.0.2.3}"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(other, path); err != nil {
			t.Fatal(err)
		}
		expect("a link in its place is followed", "b@3 ready ", true)
		write("[]")
		before := time.Now()
		f.Confirm()
		synctest.Wait()
		if last := published.Load(); len(last.Backends) != 0 || !last.CurrentAt.Equal(before) || last.Gaps != 1 {
			t.Errorf("after Confirm: %+v; want it to tell that the file could not be read for some time, once", *last)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAFileThatCannotBeUsedAtTheStartIsAnError(t *testing.T) {
	if _, err := k8s.NewFile(k8s.FileConfig{Path: filepath.Join(t.TempDir(), "none.yaml")}); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("error %v", err)
	}
}
