package e2e_test

import (
	"bytes"
	"context"
	_ "embed" // the checks that run in the browser
	"flag"
	"fmt"
	"image"
	_ "image/png" // the form of pictures
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

var picture = flag.String("picture", "", "write the picture of a simulation to this `file`")

// pageChecks returns what is wrong with the page, a line for each.
//
//go:embed testdata/page.js
var pageChecks string

// browser is a real one that shows local files, and one site of this machine if a test says which; nothing else. Its methods are for one
// goroutine at a time.
type browser struct {
	ctx  context.Context
	site string // how addresses of the site begin

	mu         sync.Mutex
	complaints []string // of the page, since it was opened
}

// startBrowser starts one. It shows a site, or none if that is empty, and finds these hosts, each as MAP NAME ADDRESS, besides addresses of this
// machine.
func startBrowser(t *testing.T, site string, hosts ...string) *browser {
	t.Helper()
	const path = "/usr/bin/chromium"
	if _, err := os.Stat(path); err != nil {
		t.Fatal("Chromium is missing; as root: apt-get install chromium")
	}
	rules := strings.Join(append(hosts, "MAP * ~NOTFOUND", "EXCLUDE 127.*"), ", ")
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.WSURLReadTimeout(patience),
		chromedp.NoSandbox, // it refuses to run as root in one
		chromedp.Flag("host-resolver-rules", rules), chromedp.Flag("disable-component-update", true))
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	b := &browser{site: site}
	var end context.CancelFunc
	b.ctx, end = chromedp.NewContext(allocator)
	t.Cleanup(end)
	if err := chromedp.Listen(b.ctx, b.listen); err != nil {
		t.Fatal(err)
	}
	send(t, b, log.Enable, cdp.Empty{})
	send(t, b, network.Enable, network.EnableParams{})
	return b
}

// listen notes what a page does that it should not: errors, what its Content-Security-Policy refuses, and requests.
func (b *browser) listen(event any) {
	complaint := ""
	switch e := event.(type) {
	case *log.EventEntryAdded:
		complaint = fmt.Sprintf("log: %s: %s", e.Entry.Source, e.Entry.Text)
	case *runtime.EventConsoleAPICalled:
		complaint = fmt.Sprintf("console: %s", e.Type)
	case *runtime.EventExceptionThrown:
		complaint = "exception: " + e.ExceptionDetails.Text
	case *network.EventRequestWillBeSent:
		if e.Type == network.ResourceTypeDocument && strings.HasPrefix(e.Request.URL, "file://") || b.site != "" && strings.HasPrefix(e.Request.URL, b.site) ||
			e.Request.URL == "data:," {
			return
		}
		complaint = "request: " + e.Request.URL
	default:
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, complaint)
}

// look lets the browser do something and returns what comes of it.
func look[T any](t *testing.T, b *browser, action chromedp.Action[T]) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		t.Fatalf("the browser: %v", err)
	}
	return result
}

// send gives the browser a command of its protocol.
func send[P, R any](t *testing.T, b *browser, command cdp.Command[P, R], params P) R {
	t.Helper()
	return look(t, b, func(ctx context.Context, tab *chromedp.Target) (R, error) { return cdp.Call(ctx, tab, command, params) })
}

// view is how somebody looks at a page.
type view struct {
	width, height int64
	scheme        string
}

func (b *browser) open(t *testing.T, file string, v view) {
	t.Helper()
	b.visit(t, "file://"+file, v)
}

func (b *browser) visit(t *testing.T, address string, v view) {
	t.Helper()
	b.mu.Lock()
	b.complaints = nil
	b.mu.Unlock()
	send(t, b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: v.width, Height: v.height, DeviceScaleFactor: 1})
	send(t, b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: v.scheme}}})
	look(t, b, chromedp.Navigate(address))
}

// problems are what the checks find in the page, and what the page has complained about.
func (b *browser) problems(t *testing.T) []string {
	t.Helper()
	found := look(t, b, chromedp.Evaluate[[]string](pageChecks))
	b.mu.Lock()
	defer b.mu.Unlock()
	return append(found, b.complaints...)
}

// shoot takes a picture of a part of the page.
func (b *browser) shoot(t *testing.T, area page.Viewport) []byte {
	t.Helper()
	beyond := true
	return send(t, b, page.CaptureScreenshot, page.CaptureScreenshotParams{Clip: &area, CaptureBeyondViewport: &beyond}).Data
}

// simulate plays scenarios and returns the page about them.
func simulate(t *testing.T, args ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "page.html")
	runDirector(t, append([]string{"simulate", "--html", file}, args...)...)
	return file
}

func scenario(name string) string {
	return filepath.Join(module(), "testdata", "scenarios", name+".yaml")
}

// crowded has more backends than there are colours, names that cannot be broken, and some that are no text.
func crowded() string {
	names := make([]string, 20)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", strings.Repeat("w", 50), i)
	}
	return fmt.Sprintf(`
name: <script>alert(1)</script><img src=x onerror=alert(1)> %[1]s
duration: 10m
backends: {names: [%[2]s]}
users: {count: 2000}
timeline:
- {at: 1m, phase: "<b>%[1]s", crash: {backends: 3, down: forever}}
- {at: 2m, phase: b, restart: {backends: 4}}
- {at: 2m1s, phase: c, restart: {backends: 5}}
- {at: 2m50s, phase: d, drain: {backends: [6, 7, 8, 9]}}
- {at: 10m, phase: e, weight: {backends: 10, to: 3}}`, strings.Repeat("W", 120), strings.Join(names, ", "))
}

// TestPage looks at pages with a browser: on a phone and on a large screen, in the light and in the dark.
func TestPage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "crowded.yaml")
	if err := os.WriteFile(file, []byte(crowded()), 0o600); err != nil {
		t.Fatal(err)
	}
	pages := map[string]string{
		"one":      simulate(t, scenario("roll10-slow")),
		"crowded":  simulate(t, file),
		"compared": simulate(t, "--compare", scenario("crash-short"), scenario("scale-down-10-9")),
	}
	b := startBrowser(t, "")
	for name, file := range pages {
		for _, size := range [][2]int64{{360, 740}, {1920, 1080}} {
			background := map[string]float64{}
			for _, scheme := range []string{"light", "dark"} {
				t.Run(fmt.Sprintf("%s at %d, %s", name, size[0], scheme), func(t *testing.T) {
					b.open(t, file, view{size[0], size[1], scheme})
					for _, problem := range b.problems(t) {
						t.Error(problem)
					}
					background[scheme] = look(t, b, chromedp.Evaluate[float64](`luminance(backgroundOf(document.body))`))
				})
			}
			if background["light"] < 0.8 || background["dark"] > 0.1 {
				t.Errorf("the luminance of the background is %v", background)
			}
		}
	}
}

// TestPageChecks breaks a page and expects that the browser sees it.
func TestPageChecks(t *testing.T) {
	good, err := os.ReadFile(simulate(t, scenario("crash-short")))
	if err != nil {
		t.Fatal(err)
	}
	b := startBrowser(t, "")
	for name, broken := range map[string]struct{ old, becomes, want string }{
		"too wide":       {"<footer>", `<p style="width:400px">wide</p><footer>`, "wider than the window"},
		"too faint":      {"<footer>", `<p style="color:#999">faint</p><footer>`, "contrast"},
		"text too small": {"font-size: .75rem; }", "font-size: .375rem; }", "high"},
		"labels collide": {"font-size: .75rem; }", "font-size: 3rem; }", "covers"},
		"no name":        {"<title id=", "<title data-id=", "has no name"},
		"no height":      {"height: 18rem", "height: 0", "is not visible"},
		"an image":       {"<footer>", `<img src="page.png" alt=""><footer>`, "Content Security Policy"},
		"a script":       {"<footer>", `<script>1</script><footer>`, "Content Security Policy"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "broken.html")
			if !bytes.Contains(good, []byte(broken.old)) {
				t.Fatalf("there is no %q", broken.old)
			}
			if err := os.WriteFile(file, bytes.Replace(good, []byte(broken.old), []byte(broken.becomes), 1), 0o600); err != nil {
				t.Fatal(err)
			}
			b.open(t, file, view{360, 740, "light"})
			if all := strings.Join(b.problems(t), "\n"); !strings.Contains(all, broken.want) {
				t.Errorf("nothing about %q in: %s", broken.want, all)
			}
		})
	}
}

// TestPicture takes the picture for the README, and writes it if it is told where.
func TestPicture(t *testing.T) {
	const width, most = 1200, 400_000
	b := startBrowser(t, "")
	b.open(t, simulate(t, scenario("roll10-slow")), view{width, 1000, "light"})
	const margin = 16
	clip := look(t, b, chromedp.Evaluate[struct{ Top, Bottom float64 }](`({Top: document.querySelector("h2").getBoundingClientRect().top, Bottom: document.querySelector(".topics").getBoundingClientRect().bottom})`))
	shot := b.shoot(t, page.Viewport{Y: clip.Top - margin, Width: width, Height: clip.Bottom - clip.Top + 2*margin, Scale: 1})
	size, _, err := image.DecodeConfig(bytes.NewReader(shot))
	if err != nil || size.Width != width || size.Height < width/2 || len(shot) > most {
		t.Errorf("a picture of %d x %d, %d bytes: %v", size.Width, size.Height, len(shot), err)
	}
	if *picture != "" {
		if err := os.WriteFile(*picture, shot, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
