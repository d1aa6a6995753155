package e2e_test

import (
	_ "embed" // the attacker's page
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
)

// attack is what a page of an attacker does in an operator's browser; it returns what came of it.
//
//go:embed testdata/attack.js
var attack string

// serveAttacker serves a page of another origin that may do everything, at an address of this machine.
func serveAttacker(t *testing.T, host string) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, `<!DOCTYPE html><html lang="en"><title>Kittens</title><body>Kittens</body></html>`)
	}))
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

// outcome is what an attacker has found out, and how often each kind of attack was answered at all.
type outcome struct {
	Read  []string
	Tried int
}

// TestPagesOfOthersCannotOrder has an operator look at an attacker's page in a browser that can reach his director's admin API, which asks for
// no token on this machine.
func TestPagesOfOthersCannotOrder(t *testing.T) {
	network := dovecot.NewNet(t)
	db := startDatabase(t)
	if _, stderr, code := program.Run(t, "migrate", "--database-url", db.url); code != 0 {
		t.Fatal(stderr)
	}
	endpoints := endpointsFile{filepath.Join(t.TempDir(), "endpoints.yaml")}
	endpoints.write(t, false, &dovecot.Server{Name: "dovecot-backend-0", Addr: network.Addr(11)}, &dovecot.Server{Name: "dovecot-backend-1", Addr: network.Addr(12)})
	address := network.Addr(100)
	d := program.Start(t, address, nil, nil, "--endpoints-file", endpoints.path, "--database-url", db.url, "--log-level", "debug")
	rebound := "http://kittens.example:8082"
	b := startBrowser(t, "", "MAP kittens.example "+address.String())
	desktop := view{1920, 1080, "light"}
	before := journalOf(t, d)
	for name, page := range map[string]string{
		"of another address":      serveAttacker(t, network.Addr(9).String()) + "/",
		"of another port":         serveAttacker(t, address.String()) + "/",
		"of a name that is moved": rebound + "/api/v1/status",
	} {
		t.Run(name, func(t *testing.T) {
			target := d.AdminURL()
			if strings.HasPrefix(page, rebound) {
				target = rebound // for the browser the API is of the page's own origin
			}
			b.visit(t, page, desktop)
			asked := strings.Count(metricsText(t, d), "\n")
			got := look(t, b, chromedp.Evaluate[outcome](fmt.Sprintf("(%s)(%q, %q)", attack, target, d.OpsURL()), chromedp.EvalAwaitPromise))
			if len(got.Read) != 0 || got.Tried < 15 || asked == 0 {
				t.Errorf("of %d attempts these could read something: %q", got.Tried, got.Read)
			}
		})
	}
	if refused := refusedOrders(t, d); refused < 10 {
		t.Errorf("only %d orders reached the API and were refused", refused)
	}
	if after := journalOf(t, d); after != before {
		t.Errorf("somebody gave an order: %s", after)
	}
	if log := d.Log(); strings.Contains(log, "an operator's order") {
		t.Errorf("somebody gave an order:\n%s", log)
	}
	// An operator's own client gives the same orders, or nothing was tried.
	d.Run(t, "drain", "dovecot-backend-0")
	if journalOf(t, d) == before {
		t.Error("an order is not in the journal")
	}
}

func journalOf(t *testing.T, d *program.Director) string {
	t.Helper()
	return d.Run(t, "journal", "-o", "json")
}

func metricsText(t *testing.T, d *program.Director) string {
	t.Helper()
	response, err := http.Get(d.OpsURL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// refusedOrders counts the orders that the admin API has refused.
func refusedOrders(t *testing.T, d *program.Director) (n int) {
	t.Helper()
	for line := range strings.Lines(metricsText(t, d)) {
		var count int
		labels, value, ok := strings.Cut(strings.TrimPrefix(line, "dovecot_director_admin_requests_total"), " ")
		if !ok || labels == line || !strings.Contains(labels, `code="4xx"`) || strings.Contains(labels, `method="GET"`) {
			continue
		}
		if _, err := fmt.Sscan(value, &count); err == nil {
			n += count
		}
	}
	return n
}

// TestNamesAreText gives all that the page shows names of the kind that run in pages which are made without care.
func TestNamesAreText(t *testing.T) {
	const mark = `<img src=x onerror=document.title='owned'>`
	names := map[string]string{
		"a backend": mark + "b0", "another": `"><script>document.title='owned'</script>`, "a third": `</text></svg><svg onload=document.title='owned'>'`,
	}
	network, db := dovecot.NewNet(t), startDatabase(t)
	if _, stderr, code := program.Run(t, "migrate", "--database-url", db.url); code != 0 {
		t.Fatal(stderr)
	}
	var text strings.Builder
	text.WriteString("apiVersion: v1\nkind: Endpoints\nmetadata:\n  name: dovecot-backend\nsubsets:\n- addresses:\n")
	for i, name := range []string{names["a backend"], names["another"], names["a third"]} {
		fmt.Fprintf(&text, "  - {ip: %s, targetRef: {kind: Pod, name: %q}}\n", network.Addr(byte(11+i)), name)
	}
	file, token := filepath.Join(t.TempDir(), "endpoints.yaml"), filepath.Join(t.TempDir(), "token")
	for path, content := range map[string]string{file: text.String(), token: "a-token-of-the-admin-api"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := program.Start(t, network.Addr(100), nil, nil, "--endpoints-file", file, "--database-url", db.url, "--admin-token-file", token, "--replica-name", mark+"replica")
	user := mark + "@example.org"
	eventually(t, "a user with an odd name has a backend", func() error {
		reply, err := d.Ask(t.Context(), user)
		if err == nil && reply.Code != 1 {
			err = fmt.Errorf("%+v", reply)
		}
		return err
	})
	d.Run(t, "pin", user, "--admin-token-file", token, "--note", mark+"note")
	d.Run(t, "drain", names["a backend"], "--admin-token-file", token, "--note", mark+"note")

	b := startBrowser(t, d.OpsURL()+"/")
	b.visit(t, d.OpsURL(), view{1920, 1080, "light"})
	shows := func(condition string) {
		t.Helper()
		eventually(t, condition, func() error {
			if !look(t, b, chromedp.Evaluate[bool](condition)) {
				return fmt.Errorf("it does not hold: %s", look(t, b, chromedp.Evaluate[string](`document.body?.innerText.slice(0, 2000) ?? ""`)))
			}
			return nil
		})
	}
	shows(isLive)
	for _, name := range names {
		shows(fmt.Sprintf(`[...document.querySelectorAll("#backends th")].some((e) => e.textContent.includes(%q))`, name))
	}
	b.harmless(t)

	// The same by the form, which shows users and the journal.
	for _, asked := range []string{user, ""} {
		b.visit(t, d.OpsURL()+"/user", view{1920, 1080, "light"})
		look(t, b, chromedp.Evaluate[bool](fmt.Sprintf(`(() => { document.querySelector("#user").value = %q; document.querySelector("#token").value = "a-token-of-the-admin-api"; document.querySelector("form button").click(); return true })()`, asked)))
		shows(fmt.Sprintf(`!!document.body?.innerText.includes(%q)`, mark+"note"))
		b.harmless(t)
	}
	response, err := http.PostForm(d.OpsURL()+"/user", url.Values{"token": {mark}, "user": {mark}})
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || strings.Contains(string(body), mark) {
		t.Errorf("%v: %s", err, body)
	}
}

// harmless expects that nothing in the page came from a name.
func (b *browser) harmless(t *testing.T) {
	t.Helper()
	if made := look(t, b, chromedp.Evaluate[[]string](`[...document.querySelectorAll("img, script, [onerror], [onload]")].map((e) => e.outerHTML)`)); slices.ContainsFunc(made, func(e string) bool { return !strings.HasPrefix(e, `<script src="/assets/`) }) {
		t.Errorf("names have become elements: %q", made)
	}
	if title := look(t, b, chromedp.Evaluate[string](`document.title`)); title == "owned" {
		t.Error("a name has run")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, complaint := range b.complaints {
		t.Error(complaint)
	}
}
