package k8s_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/k8s"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// These tests wait most of the time, so there may be more at once than there are processors.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// brief writes backends in one line: ordinal, last part of the address, condition, ports.
func brief(backends []director.Backend) string {
	var all []string
	for _, b := range backends {
		var ports []string
		for _, name := range slices.Sorted(maps.Keys(b.Ports)) {
			ports = append(ports, fmt.Sprintf("%s:%d", name, b.Ports[name]))
		}
		addr := b.Addr.String()
		all = append(all, fmt.Sprintf("%s@%s %s %s", strings.TrimPrefix(b.Name, "dovecot-backend-"), addr[strings.LastIndexByte(addr, '.')+1:], []string{"ready", "not ready", "terminating", "stopping"}[b.Condition], strings.Join(ports, " ")))
	}
	return strings.Join(all, "; ")
}

func parseFile(t *testing.T, path string) []director.Backend {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	backends, err := k8s.Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return backends
}

// TestRealObjects converts objects that real controllers wrote.
func TestRealObjects(t *testing.T) {
	for file, want := range map[string]string{
		"3-replicas-endpoints":                        "0@11 ready imap:31143 lmtp:31024; 1@12 ready imap:31143 lmtp:31024; 2@13 ready imap:31143 lmtp:31024",
		"3-replicas-endpointslice":                    "0@11 ready imap:31143 lmtp:31024; 1@12 ready imap:31143 lmtp:31024; 2@13 ready imap:31143 lmtp:31024",
		"5-to-2-terminating-endpoints":                "0@11 ready imap:31143 lmtp:31024; 1@12 ready imap:31143 lmtp:31024",
		"5-to-2-terminating-endpointslice":            "0@11 ready imap:31143 lmtp:31024; 1@12 ready imap:31143 lmtp:31024; 2@13 terminating imap:31143 lmtp:31024; 3@15 terminating imap:31143 lmtp:31024; 4@14 terminating imap:31143 lmtp:31024",
		"after-rollout-endpoints":                     "0@21 ready imap:31143 lmtp:31024; 1@20 ready imap:31143 lmtp:31024; 2@19 ready imap:31143 lmtp:31024",
		"after-rollout-endpointslice":                 "0@21 ready imap:31143 lmtp:31024; 1@20 ready imap:31143 lmtp:31024; 2@19 ready imap:31143 lmtp:31024",
		"no-such-port-endpoints":                      "0@23 ready lmtp:31024; 1@24 ready lmtp:31024; 2@25 ready lmtp:31024",
		"no-such-port-endpointslice":                  "0@23 ready lmtp:31024; 1@24 ready lmtp:31024; 2@25 ready lmtp:31024",
		"pod-0-deleted-terminating-endpoints":         "1@12 ready imap:31143 lmtp:31024; 2@16 ready imap:31143 lmtp:31024",
		"pod-0-deleted-terminating-endpointslice":     "0@11 terminating imap:31143 lmtp:31024; 1@12 ready imap:31143 lmtp:31024; 2@16 ready imap:31143 lmtp:31024",
		"pod-1-notready-endpoints":                    "0@11 ready imap:31143 lmtp:31024; 1@12 not ready imap:31143 lmtp:31024; 2@16 ready imap:31143 lmtp:31024",
		"pod-1-notready-endpointslice":                "0@11 ready imap:31143 lmtp:31024; 1@12 not ready imap:31143 lmtp:31024; 2@16 ready imap:31143 lmtp:31024",
		"publish-not-ready-endpoints":                 "0@21 ready imap:31143 lmtp:31024; 1@20 ready imap:31143 lmtp:31024; 2@19 ready imap:31143 lmtp:31024",
		"publish-not-ready-endpointslice":             "0@21 ready imap:31143 lmtp:31024; 1@20 not ready imap:31143 lmtp:31024; 2@19 ready imap:31143 lmtp:31024",
		"publish-not-ready-terminating-endpoints":     "0@21 ready imap:31143 lmtp:31024; 1@20 ready imap:31143 lmtp:31024; 2@19 ready imap:31143 lmtp:31024",
		"publish-not-ready-terminating-endpointslice": "0@21 ready imap:31143 lmtp:31024; 1@20 stopping imap:31143 lmtp:31024; 2@19 ready imap:31143 lmtp:31024",
		"scaled-to-0-endpoints":                       "",
		"scaled-to-0-endpointslice":                   "",
		"two-subsets-endpoints":                       "0@23 ready imap:31143 lmtp:31024; 1@27 ready imap:31144 lmtp:31024; 2@26 ready imap:31144 lmtp:31024",
		"two-subsets-endpointslice":                   "0@23 ready imap:31143 lmtp:31024",
	} {
		if got := brief(parseFile(t, filepath.Join("testdata", file+".yaml"))); got != want {
			t.Errorf("%q: %q,", file, got)
		}
	}
}

func TestIdentityAndMerging(t *testing.T) {
	const pod = `
- addresses: [%q]
  targetRef: {kind: Pod, name: dovecot-backend-0, uid: %q}
  conditions: {%s}`
	slice := func(family, endpoints string) string {
		return "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: " + family + "\nports: [{name: imap, port: 143}]\nendpoints:" + endpoints + "\n---\n"
	}
	for name, tc := range map[string]struct{ text, want string }{
		"absent conditions mean ready":                    {slice("IPv4", "\n- addresses: [192.0.2.10]\n  hostname: a"), "a@10 ready imap:143"},
		"serving tells, ready may be published for all":   {slice("IPv4", fmt.Sprintf(pod, "192.0.2.10", "u", "ready: true, serving: false")), "0@10 not ready imap:143"},
		"without pod and host name the address is a name": {slice("IPv4", "\n- addresses: [192.0.2.10]"), "192.0.2.10@10 ready imap:143"},
		"a reference to something else is no identity":    {slice("IPv4", "\n- addresses: [192.0.2.10]\n  targetRef: {kind: Node, name: node-1}\n  hostname: h"), "h@10 ready imap:143"},
		"both slices of a re-slicing list the same pod":   {slice("IPv4", fmt.Sprintf(pod, "192.0.2.10", "u", "ready: true")) + slice("IPv4", fmt.Sprintf(pod, "192.0.2.10", "u", "ready: true")), "0@10 ready imap:143"},
		"IPv4 counts if the pod has both":                 {slice("IPv6", fmt.Sprintf(pod, "2001:db8::1", "u", "ready: true")) + slice("IPv4", fmt.Sprintf(pod, "192.0.2.10", "u", "ready: true")), "0@10 ready imap:143"},
		"a new instance counts, not the one that leaves":  {slice("IPv4", fmt.Sprintf(pod, "192.0.2.10", "old", "terminating: true, serving: true")) + slice("IPv4", fmt.Sprintf(pod, "192.0.2.20", "new", "ready: true")), "0@20 ready imap:143"},
		"in whatever order":                               {slice("IPv4", fmt.Sprintf(pod, "192.0.2.20", "new", "ready: true")) + slice("IPv4", fmt.Sprintf(pod, "192.0.2.10", "old", "terminating: true, serving: true")), "0@20 ready imap:143"},
		"ready in one place and not in another is not":    {slice("IPv4", fmt.Sprintf(pod, "192.0.2.10", "u", "ready: true")) + slice("IPv4", fmt.Sprintf(pod, "192.0.2.10", "u", "ready: false")), "0@10 not ready imap:143"},
		"an endpoint without addresses is none":           {slice("IPv4", "\n- addresses: []\n  hostname: a"), ""},
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

func TestTheThreeFormsOfTheFileAgree(t *testing.T) {
	want := brief(parseFile(t, "../testdata/endpoints.yaml"))
	if !strings.Contains(want, "2@13 ready imap:31143 lmtp:31024 pop3:31110 sieve:34190 submission:31587") {
		t.Errorf("endpoints.yaml: %s", want)
	}
	for _, file := range []string{"endpointslice.yaml", "backends.yaml"} {
		if got := brief(parseFile(t, "../testdata/"+file)); got != want {
			t.Errorf("%s: got %s, want %s", file, got, want)
		}
	}
}
