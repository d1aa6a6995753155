package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// backendOfOne is a backend's doveadm that knows one session, under the name of a user.
func backendOfOne(t *testing.T, user string) (host, port string) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var commands [][]any
		if err := json.NewDecoder(r.Body).Decode(&commands); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, `[["doveadmResponse",[{"username":%q,"service":"imap","pid":"1","ip":"192.0.2.200","dest_ip":""}],%q]]`, user, commands[0][2])
	}))
	t.Cleanup(server.Close)
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

// TestServeShowsTheMetricsOfTheReadme holds that all metrics are there that the README lists, and no others.
func TestServeShowsTheMetricsOfTheReadme(t *testing.T) {
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(dovecot_director_\\w+)` \\| (\\w+) \\|").FindAllStringSubmatch(string(text), -1) {
		listed[row[1]] = row[2]
	}
	host, port := backendOfOne(t, "ada")
	p := ported{t, migrated(t)}
	p.rows(map[string]int{"b-0": 3})
	p.exec(`INSERT INTO director_task (name, kind, backend, rate, slack, paused, total, begun_at, actor, note) VALUES ('evacuate b-9', 'evacuate', 'b-9', 7, 0, 1, 50, 0, 'eve', '')`)
	i := start(t, "--endpoints-file", file(t, fmt.Sprintf("- name: b-0\n  address: %s\n", host)), "--database-url", p.url,
		"--doveadm-key-file", file(t, "key"), "--doveadm-port", port, "--session-poll", "1s")
	const proposed = `dovecot_director_lookups_total{kind="passdb",outcome="serve",reason="proposed"} 1`
	for n, body := 0, ""; !strings.Contains(body, proposed) && n < 60; n++ { // one who got no answer in time has a row all the same
		i.lookup(fmt.Sprintf(`{"user":"new-%d"}`, n))
		_, body = i.get("/metrics")
	}
	var shown map[string]string
	defer func() {
		maps.DeleteFunc(listed, func(name, _ string) bool { return shown[name] != "" })
		if t.Failed() {
			t.Errorf("missing: %q; the log:\n%s", slices.Sorted(maps.Keys(listed)), i.log)
		}
	}()
	until(t, "all metrics of the README are there", func() bool {
		status, body := i.get("/metrics")
		if status != 200 {
			t.Fatal(status, body)
		}
		shown = map[string]string{}
		for _, line := range regexp.MustCompile(`(?m)^# TYPE (dovecot_director_\w+) (\w+)$`).FindAllStringSubmatch(body, -1) {
			shown[line[1]] = line[2]
		}
		for name, kind := range shown {
			if listed[name] != kind {
				t.Fatalf("the README does not list %s, a %s", name, kind)
			}
		}
		return len(shown) == len(listed) && strings.Contains(body, "dovecot_director_store_up 1") && strings.Contains(body, `dovecot_director_backend_sessions{backend="b-0"} 1`) &&
			strings.Contains(body, "dovecot_director_replicas 1") // it has signed on, and has read that
	})
	if len(shown) < 30 {
		t.Errorf("%q", slices.Sorted(maps.Keys(shown)))
	}
	_, body := i.get("/metrics")
	for _, sample := range []string{
		proposed, `dovecot_director_view_info{source="file"} 1`, "\ngo_goroutines ", "\nprocess_open_fds ",
	} {
		if !strings.Contains(body, sample) {
			t.Errorf("%q is missing in\n%s", sample, body)
		}
	}
	if !regexp.MustCompile(`dovecot_director_store_call_duration_seconds_count\{call="assign"\} [1-9]`).MatchString(body) {
		t.Errorf("no assignment is counted in\n%s", body)
	}
}
