package e2e_test

import (
	"bytes"
	_ "embed" // the checks that run in the browser
	"errors"
	"flag"
	"fmt"
	"image"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
)

var screenshots = flag.String("screenshots", "", "write pictures of the status page to this `folder`")

// statusChecks returns what is wrong with the status page that the other checks do not look for.
//
//go:embed testdata/status.js
var statusChecks string

// watched is a director whose status page a browser shows. Its backends are names in a file.
type watched struct {
	*program.Director
	database  *database
	endpoints endpointsFile
	backends  []*dovecot.Server
	token     string
	browser   *browser
}

func watchDirector(t *testing.T, backends int, arguments ...string) *watched {
	t.Helper()
	w := &watched{database: startDatabase(t), endpoints: endpointsFile{filepath.Join(t.TempDir(), "endpoints.yaml")}, token: "a-token-of-the-admin-api"}
	if _, stderr, code := program.Run(t, "migrate", "--database-url", w.database.url); code != 0 {
		t.Fatal(stderr)
	}
	for i := range backends {
		w.backends = append(w.backends, &dovecot.Server{Name: fmt.Sprintf("dovecot-backend-%d", i), Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(11 + i)})})
	}
	w.endpoints.write(t, false, w.backends...)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(w.token), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Director = program.Start(t, dovecot.NewNet(t).Addr(100), nil, nil, append([]string{
		"--endpoints-file", w.endpoints.path, "--database-url", w.database.url, "--admin-token-file", file, "--replica-name", "director-0",
	}, arguments...)...)
	w.browser = startBrowser(t, w.OpsURL()+"/")
	return w
}

// without are all backends but some.
func (w *watched) without(out ...int) []*dovecot.Server {
	var all []*dovecot.Server
	for i, b := range w.backends {
		if !slices.Contains(out, i) {
			all = append(all, b)
		}
	}
	return all
}

// shows waits until a condition of JavaScript holds in the page.
func (w *watched) shows(t *testing.T, condition string) {
	t.Helper()
	eventually(t, condition, func() error {
		if !look(t, w.browser, chromedp.Evaluate[bool](condition)) {
			return errors.New("it does not hold")
		}
		return nil
	})
}

// healthy expects that nothing is wrong with the page that is shown.
func (w *watched) healthy(t *testing.T) {
	t.Helper()
	problems := append(w.browser.problems(t), look(t, w.browser, chromedp.Evaluate[[]string](statusChecks))...)
	for _, node := range send(t, w.browser, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		if node.Ignored || node.Role == nil {
			continue
		}
		role := strings.Trim(string(node.Role.Value), `"`)
		named := node.Name != nil && strings.Trim(string(node.Name.Value), `" `) != ""
		if slices.Contains([]string{"button", "textbox", "link", "region", "image", "img", "table", "heading", "RootWebArea"}, role) && !named {
			problems = append(problems, "a screen reader has no name for a "+role)
		}
	}
	for _, problem := range problems {
		t.Error(problem)
	}
}

const (
	// isLive is true once the page is told what changes.
	isLive = `document.body.dataset.live === "yes"`
	// isWell and isLost are how the page shows a backend, and what is wrong.
	isWell = `document.querySelectorAll("#backends tr.alive").length === 3 && document.querySelector("#wrong").textContent.includes("Nothing is wrong")`
	isLost = `document.querySelector("#backends tr.lost th")?.textContent === "dovecot-backend-1" && document.querySelector("#wrong").textContent.includes("dovecot-backend-1 is lost since") &&
		/^\d+ (s|min|h)/.test(document.querySelector("[data-until]").textContent)`
	// notes keeps when the table was changed so that a backend is lost, or none.
	notes = `(() => {
		let lost = document.querySelector("#backends tr.lost") !== null;
		window.noted = [];
		new MutationObserver(() => {
			const now = document.querySelector("#backends tr.lost") !== null;
			if (now !== lost) window.noted.push(Date.now());
			lost = now;
		}).observe(document.querySelector("#backends"), { childList: true, subtree: true });
		return true;
	})()`
)

// changed matches what the director logs when it sees that a backend is lost or back.
var changed = regexp.MustCompile(`(?m)^time=(\S+) .*msg="backend (?:lost|is back)`)

// TestStatusPage looks at the page while a backend is lost and returns, in the light and in the dark, on a phone and on a wall.
func TestStatusPage(t *testing.T) {
	w := watchDirector(t, 3, "--restart-grace", longGrace)
	views := []view{{360, 740, "light"}, {360, 740, "dark"}, {1920, 1080, "light"}, {1920, 1080, "dark"}}
	background := map[string]float64{}
	var took []time.Duration
	for _, v := range views {
		t.Run(fmt.Sprintf("%d, %s", v.width, v.scheme), func(t *testing.T) {
			w.browser.visit(t, w.OpsURL(), v)
			w.shows(t, isLive)
			w.shows(t, isWell)
			w.healthy(t)
			background[v.scheme] = look(t, w.browser, chromedp.Evaluate[float64](`luminance(backgroundOf(document.body))`))
			look(t, w.browser, chromedp.Evaluate[bool](notes))
			before := len(changed.FindAllString(w.Log(), -1))

			w.endpoints.write(t, false, w.without(1)...)
			w.shows(t, isLost)
			w.healthy(t)
			w.endpoints.write(t, false, w.backends...)
			w.shows(t, isWell)
			w.healthy(t)

			known := changed.FindAllStringSubmatch(w.Log(), -1)[before:]
			shown := look(t, w.browser, chromedp.Evaluate[[]int64](`window.noted`))
			if len(known) != 2 || len(shown) != 2 {
				t.Fatalf("the director logged %d changes, the page showed %d", len(known), len(shown))
			}
			for i := range known {
				at, err := time.Parse(time.RFC3339Nano, known[i][1])
				if err != nil {
					t.Fatal(err)
				}
				took = append(took, time.UnixMilli(shown[i]).Sub(at))
			}
		})
	}
	if background["light"] < 0.8 || background["dark"] > 0.1 {
		t.Errorf("the luminance of the background is %v", background)
	}
	t.Logf("from when the director knew until the page showed it: %v", took)
	slices.Sort(took)
	// A machine that is busy may hold up some of them.
	if len(took) != 2*len(views) || took[len(took)/2] > time.Second {
		t.Errorf("the page did not show most of the changes within a second")
	}
}

// TestStatusPageWithoutScript has a browser that runs none: it loads the page again by itself.
func TestStatusPageWithoutScript(t *testing.T) {
	w := watchDirector(t, 3, "--restart-grace", longGrace)
	send(t, w.browser, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	for _, v := range []view{{360, 740, "dark"}, {1920, 1080, "light"}} {
		w.browser.visit(t, w.OpsURL(), v)
		w.shows(t, isWell)
		w.healthy(t)
		w.endpoints.write(t, false, w.without(1)...)
		w.shows(t, isLost)
		w.healthy(t)
		w.endpoints.write(t, false, w.backends...)
		w.shows(t, isWell)
	}
	if look(t, w.browser, chromedp.Evaluate[bool](isLive)) {
		t.Error("a script ran")
	}
}

// TestStatusPageIsLeft stops the director: the page says that it is old, and is live again by itself when the director is back.
func TestStatusPageIsLeft(t *testing.T) {
	w := watchDirector(t, 3)
	w.browser.visit(t, w.OpsURL(), view{1920, 1080, "light"})
	w.shows(t, isLive)
	w.Stop(t)
	w.shows(t, `/^The connection to the director is lost.* \d\d:\d\d:\d\d UTC\.$/.test(document.querySelector("#link:not([hidden])")?.textContent)`)
	w.Start(t)
	w.shows(t, isLive+` && document.querySelector("#link").hidden && !document.body.matches(".old")`)
}

// TestStatusPageByKeyboard finds a user without a mouse.
func TestStatusPageByKeyboard(t *testing.T) {
	w := watchDirector(t, 3)
	if _, err := w.Ask(t.Context(), "ada@example.org"); err != nil {
		t.Fatal(err)
	}
	w.browser.visit(t, w.OpsURL(), view{360, 740, "light"})
	w.shows(t, isLive)
	focus := func() string {
		return look(t, w.browser, chromedp.Evaluate[string](`(() => {
			const e = document.activeElement, style = getComputedStyle(e);
			return (e.id || e.textContent.trim()) + (style.outlineStyle === "none" || style.outlineWidth === "0px" ? " without an outline" : "");
		})()`))
	}
	press := func(keys string, want string) {
		t.Helper()
		look(t, w.browser, chromedp.KeyEvent(keys))
		if got := focus(); want != "" && got != want {
			t.Fatalf("the focus is on %q, want %q", got, want)
		}
	}
	press("\t", "Find a user")
	press("\r", "")
	press("\t", "user")
	// What is typed stays while the page changes around it.
	look(t, w.browser, chromedp.KeyEvent("ada@exa"))
	w.endpoints.write(t, false, w.without(1)...)
	w.shows(t, isLost)
	look(t, w.browser, chromedp.KeyEvent("mple.org"))
	press("\t", "token")
	look(t, w.browser, chromedp.KeyEvent(w.token))
	press("\t", "Explain")
	look(t, w.browser, chromedp.KeyEvent("\r"))
	w.shows(t, `document.querySelector("#found-title")?.textContent === "ada@example.org"`)
	w.shows(t, `/^dovecot-backend-\d, /.test(document.querySelector("dd").textContent) && !location.href.includes("token")`)
	for _, problem := range look(t, w.browser, chromedp.Evaluate[[]string](statusChecks)) {
		t.Error(problem)
	}
}

// TestStatusPageChecks breaks the page and expects that the checks see it.
func TestStatusPageChecks(t *testing.T) {
	w := watchDirector(t, 3)
	send(t, w.browser, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}) // it would mend the page
	for name, broken := range map[string]struct{ script, want string }{
		"no label":      {`document.querySelector("label").remove()`, "has no name"},
		"no caption":    {`document.querySelector("caption").remove()`, "has no caption"},
		"no scope":      {`document.querySelector("th").removeAttribute("scope")`, "has no scope"},
		"no heading":    {`document.querySelector("h1").remove()`, "0 of h1"},
		"only a colour": {`document.querySelector(".state").textContent = "●"`, "only a colour"},
		"an order":      {`document.querySelector("input").tabIndex = 3`, "order of the keyboard"},
	} {
		t.Run(name, func(t *testing.T) {
			w.browser.visit(t, w.OpsURL(), view{360, 740, "light"})
			look(t, w.browser, chromedp.Evaluate[any](`(() => {`+broken.script+`; return 0 })()`))
			if all := strings.Join(look(t, w.browser, chromedp.Evaluate[[]string](statusChecks)), "\n"); !strings.Contains(all, broken.want) {
				t.Errorf("nothing about %q in: %s", broken.want, all)
			}
		})
	}
}

// TestStatusPicture takes the pictures for the README, and writes them if it is told where.
func TestStatusPicture(t *testing.T) {
	const width, height, scale, most = 1920, 1200, .75, 200_000
	w := watchDirector(t, 6, "--restart-grace", "10m", "--failover-grace", "1s")
	users := make([]string, 400)
	for i := range users {
		users[i] = fmt.Sprintf("user-%d@example.org", i)
	}
	logins := func() {
		for _, user := range users {
			if _, err := w.Ask(t.Context(), user); err != nil {
				t.Fatal(err)
			}
		}
	}
	logins()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(w.token), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Run(t, "drain", "dovecot-backend-4", "--admin-token-file", token)
	// One fails, and its users are moved when they log in after a second. Then another one is deleted.
	text, err := os.ReadFile(w.endpoints.path)
	if err != nil {
		t.Fatal(err)
	}
	address := "- addresses:\n  - ip: " + w.backends[2].Addr.String()
	w.replaceEndpoints(t, bytes.Replace(text, []byte(address), []byte(strings.Replace(address, "addresses", "notReadyAddresses", 1)), 1))
	w.browser.visit(t, w.OpsURL(), view{width, height, "light"})
	w.shows(t, isLive)
	w.shows(t, `document.querySelector("#backends").textContent.includes("no more")`)
	logins()
	w.endpoints.write(t, false, w.without(1)...)
	w.shows(t, `/^9 min/.test(document.querySelector("[data-until]")?.textContent)`)
	logins()
	if *screenshots != "" { // there is more to see of what takes longer
		for begun := time.Now(); time.Since(begun) < 90*time.Second; time.Sleep(time.Duration(rand.IntN(3000)) * time.Millisecond) {
			logins()
		}
	}
	w.shows(t, `document.querySelector("#moves").textContent.includes("their backend was lost") && document.querySelector(".arc.inner.lost") !== null`)
	for _, scheme := range []string{"light", "dark"} {
		send(t, w.browser, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		shot := w.browser.shoot(t, page.Viewport{Width: width, Height: height, Scale: scale})
		if size, _, err := image.DecodeConfig(bytes.NewReader(shot)); err != nil || size.Width != width*scale || len(shot) > most {
			t.Errorf("a picture of %d x %d, %d bytes: %v", size.Width, size.Height, len(shot), err)
		}
		if *screenshots != "" {
			if err := os.WriteFile(filepath.Join(*screenshots, "status-"+scheme+".png"), shot, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (w *watched) replaceEndpoints(t *testing.T, text []byte) {
	t.Helper()
	if err := os.WriteFile(w.endpoints.path+".new", text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.endpoints.path+".new", w.endpoints.path); err != nil {
		t.Fatal(err)
	}
}
