package program_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// What a director believes the time to be is what it is set to.
func TestClock(t *testing.T) {
	server := pgtest.Start(t)
	clock := program.NewClock(t)
	d := clock.Start(t, netip.MustParseAddr("127.0.98.1"), "--database-url", database(t, server), "--endpoints-file", "../../../testdata/endpoints.yaml")
	for _, ahead := range []time.Duration{0, 3 * time.Hour, -5 * time.Hour, 0} {
		clock.Set(t, ahead)
		response, err := http.Get(d.OpsURL() + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		date, err := http.ParseTime(response.Header.Get("Date"))
		if err != nil {
			t.Fatal(err)
		}
		if off := date.Sub(time.Now().Add(ahead)); off.Abs() > time.Minute {
			t.Errorf("set to %s from now, it answers that it is %s from that", ahead, off)
		}
	}
}

// database makes one with the table.
func database(t *testing.T, server *pgtest.Server) string {
	t.Helper()
	url := server.Database(t)
	if _, stderr, code := program.Run(t, "migrate", "--database-url", url); code != 0 {
		t.Fatal(fmt.Errorf("migrate: %s", stderr))
	}
	return url
}
