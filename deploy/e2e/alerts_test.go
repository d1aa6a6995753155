package e2e_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/mail"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
)

// quickened are the shipped rules for a test: a minute is a second, in what is looked at ([1h] is a minute) and in how long an alert has to
// be so before it fires (for), which is five seconds at most. Everything else is as shipped, thresholds too.
func quickened(t *testing.T) monitoringv1.PrometheusRuleSpec {
	t.Helper()
	quick := func(text string, most time.Duration) string {
		unit, number := text[len(text)-1:], text[:len(text)-1]
		n, err := strconv.Atoi(number)
		length := time.Duration(n) * map[string]time.Duration{"m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[unit] / 60
		if err != nil || length == 0 {
			t.Fatalf("%q is no number of minutes, hours or days", text)
		}
		return fmt.Sprintf("%dms", min(length, most).Milliseconds())
	}
	spec := shippedRules(t)
	for _, group := range spec.Groups {
		for i := range group.Rules {
			rule := &group.Rules[i]
			rule.Expr.StrVal = regexp.MustCompile(`\[\w+\]`).ReplaceAllStringFunc(rule.Expr.StrVal, func(window string) string {
				return "[" + quick(strings.Trim(window, "[]"), math.MaxInt64) + "]"
			})
			if rule.For != nil {
				*rule.For = monitoringv1.Duration(quick(string(*rule.For), 5*time.Second))
			}
		}
	}
	return spec
}

// scraped is a pair of directors that a Prometheus watches. They need no Dovecots, and each reads a file of its own.
type scraped struct {
	*prometheus
	database  *database
	files     [2]endpointsFile
	backends  []*dovecot.Server // of which there is a name and an address only
	directors [2]*program.Director
}

// watchPair starts one. The directors get the arguments.
func watchPair(t *testing.T, arguments ...string) *scraped {
	t.Helper()
	net := dovecot.NewNet(t)
	w := &scraped{database: startDatabase(t)}
	for n := range 3 {
		w.backends = append(w.backends, &dovecot.Server{Name: fmt.Sprintf("b%d", n), Addr: net.Addr(byte(11 + n))})
	}
	if _, stderr, code := program.Run(t, "migrate", "--database-url", w.database.url); code != 0 {
		t.Fatal(stderr)
	}
	dir := t.TempDir()
	for i := range w.directors {
		w.files[i] = endpointsFile{filepath.Join(dir, strconv.Itoa(i))}
		w.files[i].write(t, false, w.backends...)
		w.directors[i] = program.StartRelease(t, net.Addr(byte(101+i)), append([]string{"--endpoints-file", w.files[i].path, "--database-url", w.database.url}, arguments...)...)
	}
	w.prometheus = startPrometheus(t, net.Addr(200), quickened(t), net.Addr(101), net.Addr(102))
	w.wantNone(t)
	return w
}

// write shows these backends to both directors.
func (w *scraped) write(t *testing.T, backends ...*dovecot.Server) {
	t.Helper()
	for _, f := range w.files {
		f.write(t, false, backends...)
	}
}

// lookups lets many users log in through both directors all the time, some of whom nobody has seen before, until it is stopped.
func (w *scraped) lookups(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				_, _ = w.directors[i%2].Ask(ctx, fmt.Sprintf("%d-%d@example.org", i, n/4)) // that some fail is the point
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// wantNone waits until nothing fires.
func (p *prometheus) wantNone(t *testing.T) {
	t.Helper()
	eventuallyWithin(t, 3*patience, "nothing fires", func() error {
		if now := p.firing(t); len(now) > 0 {
			return fmt.Errorf("%v", now)
		}
		return nil
	})
}

// Each alert fires when its fault is made, in a real Prometheus that scrapes real directors, and stops when that is gone. What is left to
// TestRules: the tickets of the objectives, which look back for days, a director that has no view at all, and the borders.
func TestAlerts(t *testing.T) {
	// Not at the same time as others: on a busy machine lookups are slow, and an alert says so.
	t.Run("database", func(t *testing.T) {
		t.Parallel()
		w := watchPair(t)
		w.lookups(t)
		unlock := w.database.lock(t)
		w.wantFiring(t, "DovecotDirectorLookupsSlow page")
		unlock()
		w.wantQuiet(t, "DovecotDirectorLookupsSlow page")
		w.database.server.Stop()
		w.wantFiring(t, "DovecotDirectorStoreDown page", "DovecotDirectorLookupErrors page")
		w.database.server.Restart(t)
		w.wantQuiet(t, "DovecotDirectorStoreDown page", "DovecotDirectorLookupErrors page")
	})
	t.Run("directors that differ, and none at all", func(t *testing.T) {
		t.Parallel()
		w := watchPair(t)
		w.files[1].write(t, false, w.backends[:2]...)
		w.wantFiring(t, "DovecotDirectorsDisagree ticket")
		w.files[1].write(t, false, w.backends...)
		w.wantQuiet(t, "DovecotDirectorsDisagree ticket")
		for _, d := range w.directors {
			d.Stop(t)
		}
		w.wantFiring(t, "DovecotDirectorAbsent page", "DovecotDirectorDown ticket")
		for _, d := range w.directors {
			d.Start(t)
		}
		w.wantQuiet(t, "DovecotDirectorAbsent page", "DovecotDirectorDown ticket")
		w.wantNone(t)
	})
	t.Run("a director that restarts, and dies", func(t *testing.T) {
		t.Parallel()
		w := watchPair(t)
		d, instance := w.directors[1], strings.Replace(w.directors[1].Addr(), ":8080", ":8081", 1)
		for n := range 3 {
			d.Kill(t)
			d.Start(t)
			eventually(t, "the new process is scraped", func() error {
				if v := w.values(t, fmt.Sprintf(`changes(process_start_time_seconds{instance=%q}[5m]) == %d`, instance, n+1)); len(v) == 0 {
					return fmt.Errorf("not yet")
				}
				return nil
			})
		}
		w.wantFiring(t, "DovecotDirectorRestarts ticket")
		d.Kill(t)
		w.wantFiring(t, "DovecotDirectorDown ticket", "DovecotDirectorSilent ticket")
		d.Start(t)
		w.wantQuiet(t, "DovecotDirectorDown ticket", "DovecotDirectorSilent ticket", "DovecotDirectorRestarts ticket")
	})
	t.Run("backends", func(t *testing.T) {
		t.Parallel()
		w := watchPair(t, "--restart-grace", "1m")
		w.database.exec(t, `INSERT INTO mailbox_username_backend SELECT 'u' || i || '@example.org', 'b1', now() FROM generate_series(0, 99) AS i`)
		w.write(t, w.backends[0], w.backends[2])
		w.wantFiring(t, "DovecotDirectorHoldsTooLong page")
		w.write(t, w.backends...)
		w.wantQuiet(t, "DovecotDirectorHoldsTooLong page")

		w.write(t, w.backends[0], w.backends[2])
		eventually(t, "the wait for the backend is over", func() error {
			got, err := w.directors[0].Ask(t.Context(), "u0@example.org")
			if err == nil && got.Code != 1 || got.Host == w.backends[1].Addr.String() {
				err = fmt.Errorf("%+v", got)
			}
			return err
		})
		w.wantQuiet(t, "DovecotDirectorHoldsTooLong page")
		if err := os.Remove(w.files[0].path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(w.files[1].path, []byte("kind: Endpoints\nsubsets: 7\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		w.wantFiring(t, "DovecotDirectorViewSourceDown ticket")
		ctx, cancel := context.WithCancel(t.Context())
		var logins sync.WaitGroup
		defer logins.Wait()
		defer cancel()
		logins.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
				_, _ = w.directors[0].Ask(ctx, "u1@example.org") // he is put off
			}
		})
		w.wantFiring(t, "DovecotDirectorNoCurrentView page")
		cancel()
		logins.Wait()
		w.write(t, w.backends...)
		w.wantQuiet(t, "DovecotDirectorViewSourceDown ticket", "DovecotDirectorNoCurrentView page")
		w.wantNone(t)
	})
	t.Run("users", func(t *testing.T) {
		t.Parallel()
		p, w := watchedUsers(t)
		t.Run("dashboard", func(t *testing.T) { wantDashboard(t, p, w) })
		t.Run("on two backends", func(t *testing.T) { userOnTwoBackends(t, p, w) })
		t.Run("balance", func(t *testing.T) { balanceIsLost(t, p, w) })
	})
}

// The users of a watched platform: who is logged in, and how many have a row and are not.
const (
	loggedIn = "vip@example.org"
	settlers = 600
)

// watchedUsers is a platform whose second director has a budget of five moves, which the first one does not have. All users but one are on
// b0, and a rebalance has begun that takes its time.
func watchedUsers(t *testing.T) (*platform, *prometheus) {
	t.Helper()
	p := operatedBy(t, true, func(i int) []string {
		return []string{"--session-poll", "1s", "--rebalance-budget", strconv.Itoa(5 * i)}
	})
	w := startPrometheus(t, p.net.Addr(200), quickened(t), p.net.Addr(101), p.net.Addr(102))
	w.wantNone(t)
	p.proxies[0].connect(t, loggedIn)
	p.database.exec(t, fmt.Sprintf(`INSERT INTO mailbox_username_backend SELECT 'u' || i || '@example.org', 'b0', now() FROM generate_series(1, %d) AS i`, settlers))
	p.recount(t)
	p.proxies[0].director.Run(t, "rebalance", "--apply", "--rate", "1", "--yes")
	return p, w
}

// recount has the directors count users now: a backend is away for a moment.
func (p *platform) recount(t *testing.T) {
	t.Helper()
	lost := func(n int) {
		for _, via := range p.proxies {
			eventually(t, "the directors see it", func() error {
				if _, detail := via.director.Ready(); !strings.Contains(detail, fmt.Sprintf("%d lost", n)) {
					return fmt.Errorf("%s", detail)
				}
				return nil
			})
		}
	}
	p.endpoints.write(t, false, p.without("b2")...)
	lost(1)
	p.endpoints.write(t, false, p.backends...)
	lost(0)
}

// Somebody goes round the proxies.
func userOnTwoBackends(t *testing.T, p *platform, w *prometheus) {
	wrong := p.other(p.database.rows(t)[loggedIn])
	session, err := mail.LoginIMAP(t.Context(), p.backend(wrong).At(143), loggedIn, dovecot.Password)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	w.wantFiring(t, "DovecotDirectorUserOnTwoBackends page")
	session.Close()
	w.wantQuiet(t, "DovecotDirectorUserOnTwoBackends page")
}

// A backend has all the users; they are moved off it by a director that has no budget, and one is started that has.
func balanceIsLost(t *testing.T, p *platform, w *prometheus) {
	w.wantFiring(t, "DovecotDirectorImbalance ticket")
	free, bounded := p.proxies[0].director, p.proxies[1].director
	bounded.Stop(t)
	free.Run(t, "rebalance", "--apply", "--rate", "6000", "--yes")
	eventually(t, "users are moved", func() error {
		if n := p.database.count(t, `SELECT count(*) FROM mailbox_username_backend WHERE backend <> 'b0'`); n < settlers/2 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	bounded.Start(t)
	w.wantFiring(t, "DovecotDirectorMovesBeyondBudget ticket")
	p.recount(t)
	w.wantQuiet(t, "DovecotDirectorImbalance ticket", "DovecotDirectorMovesBeyondBudget ticket")
}
