package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// attempt is a request as it goes over the wire, and what it may be answered.
type attempt struct {
	line    string // method and target
	headers []string
	body    string
	want    []int
}

// send sends it to an address, and returns the answer with its body read.
func (a attempt) send(t *testing.T, address string) (*http.Response, string) {
	t.Helper()
	return answered(t, func() (*http.Response, error) { return a.request(t, address) }, http.StatusServiceUnavailable)
}

// request sends it once.
func (a attempt) request(t *testing.T, address string) (*http.Response, error) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	headers := a.headers
	if !slices.ContainsFunc(headers, func(h string) bool { return strings.HasPrefix(h, "Host:") }) {
		headers = append([]string{"Host: " + address}, headers...)
	}
	if a.body != "" {
		headers = append(slices.Clone(headers), fmt.Sprintf("Content-Length: %d", len(a.body)), "Content-Type: application/json")
	}
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nConnection: close\r\n%s\r\n\r\n%s", a.line, strings.Join(headers, "\r\n"), a.body)
	method, _, _ := strings.Cut(a.line, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.line, err)
	}
	return response, nil
}

// TestAttackersOfTheAdminAPI goes through what is tried first against an API, over the wire and with a director that runs.
func TestAttackersOfTheAdminAPI(t *testing.T) {
	const writer, reader = "Token-of-who-may-order", "token-of-who-may-look"
	const order, drain = "PATCH /api/v1/backends/dovecot-backend-0", `{"state":"drain"}`
	i := start(t, "--endpoints-file", endpoints, "--database-url", migrated(t), "--admin-token-file", file(t, writer), "--admin-read-token-file", file(t, reader))
	bearer := func(token string) string { return "Authorization: Bearer " + token }
	tokens := func(line, body string, want ...int) attempt {
		return attempt{line, []string{bearer(writer)}, body, want}
	}
	for name, a := range map[string]attempt{
		// Who does not say who he is.
		"no token":                        {order, nil, drain, []int{401}},
		"an empty header":                 {order, []string{"Authorization:"}, drain, []int{401}},
		"a kind without a token":          {order, []string{"Authorization: Bearer"}, drain, []int{401}},
		"blanks for a token":              {order, []string{"Authorization: Bearer    "}, drain, []int{401}},
		"another kind":                    {order, []string{"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+writer))}, drain, []int{401}},
		"the token without a kind":        {order, []string{"Authorization: " + writer}, drain, []int{401}},
		"the token in another case":       {order, []string{bearer(strings.ToLower(writer))}, drain, []int{401}},
		"the token in quotes":             {order, []string{bearer(`"` + writer + `"`)}, drain, []int{401}},
		"two tokens in one":               {order, []string{bearer(reader + "," + writer)}, drain, []int{401}},
		"a wrong token, then the token":   {order, []string{bearer("some-other-long-token"), bearer(writer)}, drain, []int{400, 401}},
		"no token, then the token":        {order, []string{"Authorization:", bearer(writer)}, drain, []int{400, 401}},
		"who may look, then who may more": {order, []string{bearer(reader), bearer(writer)}, drain, []int{400, 401, 403}},
		"the token in the query":          {order + "?token=" + writer + "&access_token=" + writer, nil, drain, []int{401}},
		"the token in a cookie":           {order, []string{"Cookie: token=" + writer}, drain, []int{401}},
		"the token for a proxy":           {order, []string{"Proxy-Authorization: Bearer " + writer, "X-Authorization: Bearer " + writer}, drain, []int{401}},
		"an address that looks local":     {order, []string{"X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1", "X-Real-IP: 127.0.0.1"}, drain, []int{401}},
		"the API's document":              {"GET /api/v1/openapi.json", nil, "", []int{401}},
		"a path that is not there":        {"GET /nowhere", nil, "", []int{401}},

		// Who may look.
		"orders of who may look":    {order, []string{bearer(reader)}, drain, []int{403}},
		"a look that is an order":   {"GET /api/v1/backends/dovecot-backend-0", []string{bearer(reader), "X-HTTP-Method-Override: PATCH", "X-HTTP-Method: PATCH", "X-Method-Override: PATCH"}, drain, []int{405}},
		"a method in the query":     {"GET /api/v1/backends/dovecot-backend-0?_method=PATCH", []string{bearer(reader)}, drain, []int{405}},
		"a head that is an order":   {"HEAD /api/v1/backends/dovecot-backend-0", []string{bearer(reader)}, drain, []int{405}},
		"a method in small letters": {"patch /api/v1/backends/dovecot-backend-0", []string{bearer(reader)}, drain, []int{400, 403, 405}},
		"a method and more":         {"PATCHX /api/v1/backends/dovecot-backend-0", []string{bearer(reader)}, drain, []int{403, 405}},
		"a kick":                    {"POST /api/v1/users/ada/kick", []string{bearer(reader)}, "{}", []int{403}},
		"an override of a post":     {"POST /api/v1/backends/dovecot-backend-0", []string{bearer(reader), "X-HTTP-Method-Override: PATCH"}, drain, []int{403, 405}},

		// Methods that servers have for themselves.
		"options": {"OPTIONS /api/v1/status", []string{bearer(reader), "Origin: http://evil.example", "Access-Control-Request-Method: PATCH"}, "", []int{403, 405}},
		"all":     {"OPTIONS *", nil, "", []int{400, 401, 404}},
		"trace":   {"TRACE /api/v1/status", []string{bearer(reader), "X-Secret: echo"}, "", []int{403, 405}},
		"connect": {"CONNECT 127.0.0.1:22", []string{bearer(reader)}, "", []int{400, 403, 404, 405}},
		"a proxy": {"GET http://192.0.2.1/api/v1/status", nil, "", []int{401}},

		// Paths that mean another one somewhere.
		"out of the API":        tokens("GET /api/v1/../../etc/passwd", "", 404),
		"back into it":          tokens("PATCH /api/v1/users/../backends/dovecot-backend-0", drain, 404),
		"encoded dots":          tokens("PATCH /api/v1/users/%2e%2e/backends/dovecot-backend-0", drain, 404),
		"encoded twice":         tokens("PATCH /api/v1/users/%252e%252e/backends/dovecot-backend-0", drain, 404),
		"an encoded slash":      tokens("PATCH /api/v1%2fbackends%2fdovecot-backend-0", drain, 404),
		"a name with a path":    tokens("PATCH /api/v1/backends/x%2f..%2fdovecot-backend-0", drain, 404, 409),
		"two slashes":           tokens("PATCH //api/v1/backends/dovecot-backend-0", drain, 404),
		"a slash at the end":    tokens("PATCH /api/v1/backends/dovecot-backend-0/", drain, 404),
		"backslashes":           tokens(`PATCH /api\v1\backends\dovecot-backend-0`, drain, 400, 404),
		"a parameter of a path": tokens("PATCH /api/v1/backends/dovecot-backend-0;x=y", drain, 404, 409),
		"another case":          tokens("PATCH /API/v1/backends/dovecot-backend-0", drain, 404),
		"NUL":                   tokens("PATCH /api/v1/backends/dovecot-backend-0%00", drain, 400),
		"overlong UTF-8":        tokens("PATCH /api/v1/users/%c0%ae%c0%ae/backends/dovecot-backend-0", drain, 400, 404),
		"a fragment":            tokens("PATCH /api/v1/backends/dovecot-backend-0#x", drain, 400, 404, 409),
	} {
		t.Run(name, func(t *testing.T) {
			response, body := a.send(t, i.admin)
			if !slices.Contains(a.want, response.StatusCode) || strings.Contains(body, "X-Secret") {
				t.Errorf("%s: %d %s; want one of %v", a.line, response.StatusCode, body, a.want)
			}
			wantHeaders(t, a.line, response.Header, "application/json")
		})
	}
	for _, tc := range []struct{ token, path string }{{reader, "/api/v1/status"}, {reader, "/api/v1/journal"}} {
		response, body := attempt{"GET " + tc.path, []string{bearer(tc.token)}, "", nil}.send(t, i.admin)
		if response.StatusCode != http.StatusOK || strings.Contains(body, "drain") {
			t.Errorf("somebody gave an order: %d %s", response.StatusCode, body)
		}
	}
	if log := i.log.String(); strings.Contains(log, writer) || strings.Contains(log, reader) {
		t.Errorf("a token is in the log:\n%s", log)
	}
	// The same with the right token is an order, or nothing was tried.
	if response, body := tokens(order, drain).send(t, i.admin); response.StatusCode != http.StatusOK || !strings.Contains(body, "drain") {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

// wantHeaders holds that a browser does with an answer what is meant.
func wantHeaders(t *testing.T, what string, h http.Header, kind string) {
	t.Helper()
	if h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s: browsers may guess what it is: %v", what, h)
	}
	if kind != "" && h.Get("Content-Type") != kind {
		t.Errorf("%s: it is said to be %q", what, h.Get("Content-Type"))
	}
	if kind == "application/json" && h.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: it may be kept: %v", what, h)
	}
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") || name == "Set-Cookie" || name == "Location" {
			t.Errorf("%s: it has %s: %v", what, name, h[name])
		}
	}
}

// TestAnswersInBrowsers looks at the headers of the operations listener, which has the page.
func TestAnswersInBrowsers(t *testing.T) {
	i := start(t, "--endpoints-file", endpoints, "--database-url", migrated(t), "--admin-token-file", file(t, "sixteen-or-more-characters"))
	for _, path := range []string{"/", "/user", "/healthz", "/readyz", "/readyz?verbose", "/metrics", "/nowhere", "/assets/nothing"} {
		response, _ := attempt{"GET " + path, []string{"Origin: http://evil.example"}, "", nil}.send(t, i.ops)
		wantHeaders(t, path, response.Header, "")
		if path != "/" && path != "/user" {
			continue
		}
		policy := response.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: the policy lacks %s: %s", path, want, policy)
			}
		}
		if response.Header.Get("Referrer-Policy") == "" || response.Header.Get("Cache-Control") != "no-store" || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: %v", path, response.Header)
		}
	}
	// Another site's page sends the form, with the token that its author knows or guesses.
	for _, headers := range [][]string{{"Sec-Fetch-Site: cross-site"}, {"Sec-Fetch-Site: same-site"}, {"Origin: http://evil.example"}, {"Origin: null"}} {
		response, _ := attempt{"POST /user", append(headers, "Content-Type: application/x-www-form-urlencoded"), "token=x&user=ada", nil}.send(t, i.ops)
		if response.StatusCode != http.StatusForbidden {
			t.Errorf("%v: %d", headers, response.StatusCode)
		}
	}
	for _, line := range []string{"TRACE /", "OPTIONS /", "POST /", "PUT /metrics", "DELETE /user", "CONNECT 127.0.0.1:22", "GET /../etc/passwd", "GET /assets/..%2fpage.css", "GET /assets/%2e%2e/%2e%2e/etc/passwd"} {
		response, body := attempt{line, nil, "", nil}.send(t, i.ops)
		if response.StatusCode < 300 || strings.Contains(body, "root:") {
			t.Errorf("%s: %d %s", line, response.StatusCode, body)
		}
	}
}
