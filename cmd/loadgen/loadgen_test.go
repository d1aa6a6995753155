package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lookup is what the director reads of a request, and what Dovecot sends besides.
type lookup struct{ User, Service, Session, Rip, Lip string }

// TestLoad sends each kind of load to the null handler, and reads what arrives.
func TestLoad(t *testing.T) {
	var numbers counter
	for name, tc := range map[string]struct {
		script          func(int) script
		users, services []string // prefixes that must all come, and no others
		once            bool
	}{
		"known": {known(10), []string{"user-"}, []string{"imap"}, false},
		"new":   {numbers.once("new"), []string{"new-"}, []string{"imap"}, true},
		"mixed": {numbers.mixed(10), []string{"user-", "new-"}, []string{"imap", "lmtp"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			users, prefixes, services := map[string]int{}, map[string]bool{}, map[string]bool{}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				var l lookup
				if err := json.Unmarshal(body, &l); err != nil || !strings.HasSuffix(l.User, "@example.org") || l.Session == "" || r.URL.Path != "/auth_passdb_lookup" {
					t.Errorf("%s: %s, %v", r.URL.Path, body, err)
				}
				mu.Lock()
				users[l.User]++
				prefixes[l.User[:strings.Index(l.User, "-")+1]] = true
				services[l.Service] = true
				mu.Unlock()
				null(w, r)
			}))
			defer server.Close()
			l := load{connections: 8, script: tc.script, warm: 50 * time.Millisecond, length: 300 * time.Millisecond}
			var r result
			for deadline := time.Now().Add(time.Minute); ; {
				r = l.run([]string{server.Listener.Addr().String()}, []int{os.Getpid()}, nil)
				if r.failed > 0 || r.perSecond > 0 && len(prefixes) >= len(tc.users) && len(services) >= len(tc.services) || time.Now().After(deadline) {
					break // else the machine was too slow for all that is random
				}
			}
			if r.failed != 0 || r.perSecond <= 0 || r.p50 <= 0 || r.p99 < r.p50 || r.max < r.p99 {
				t.Errorf("result %+v", r)
			}
			for _, want := range tc.users {
				if !prefixes[want] || len(prefixes) != len(tc.users) {
					t.Errorf("users %v, want %v", prefixes, tc.users)
				}
			}
			for _, want := range tc.services {
				if !services[want] || len(services) != len(tc.services) {
					t.Errorf("services %v, want %v", services, tc.services)
				}
			}
			for user, n := range users {
				if tc.once && n > 1 {
					t.Errorf("%s came %d times", user, n)
				}
			}
		})
	}
}

// TestAnswersThatAreNoBackendAreFailures has the director answer what it answers when it cannot serve.
func TestAnswersThatAreNoBackendAreFailures(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"a hold": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"code":-1,"attributes":"in_grace"}`)
		},
		"a status": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) },
	} {
		server := httptest.NewServer(answer)
		r := load{connections: 2, script: known(10), length: 50 * time.Millisecond}.run([]string{server.Listener.Addr().String()}, nil, nil)
		server.Close()
		if r.failed == 0 || r.failure == nil || r.perSecond != 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestReport prints and draws figures of which the ratios are known.
func TestReport(t *testing.T) {
	rounds := func(perSecond ...float64) rounds {
		var all rounds
		for _, n := range perSecond {
			all = append(all, result{perSecond: n, p50: time.Millisecond, p99: 2 * time.Millisecond, cpu: 10 * time.Microsecond})
		}
		return all
	}
	r := &report{
		rows: []compared{{
			work: work{name: knownUsers}, null: rounds(100, 1000, 10), director: rounds(80, 500, 9), database: rounds(40, 500, 9),
		}},
		watched: watched{alone: rounds(100, 1000, 10), watched: rounds(99, 970, 9.9)},
		idle:    10 << 20, loaded: 50 << 20, program: 1,
	}
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"known users 80 0.80 1.00 1.00 2.00", // medians of ratios, not a ratio of medians
		"lookups, of null >= 0.75 0.80 reached",
		"32 connections, MB <= 48.00 50.00 missed",
		"watched by 5 browsers and Prometheus 99 0.990 2.00 10 1.000",
	} {
		if text := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	for decoder := xml.NewDecoder(strings.NewReader(r.picture())); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(r.picture(), ">0.80<") {
		t.Error("the picture does not show the ratio")
	}
}

func TestUsage(t *testing.T) {
	for _, arguments := range [][]string{nil, {"sing"}, {"bench"}, {"bench", "--director", "x", "--rounds", "0"}, {"load"}, {"load", "--users", "0", "x"}, {"null"}} {
		if err := run(arguments); err == nil || !strings.Contains(err.Error(), "usage") {
			t.Errorf("%q: %v", arguments, err)
		}
	}
}
