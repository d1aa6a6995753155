package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Parts of requests on the wire.
const (
	passdb = "POST /auth_passdb_lookup HTTP/1.1\r\nHost: x\r\n"
	honest = passdb + "Content-Length: 14\r\n\r\n{\"user\":\"ada\"}"
)

// lookupOf is a lookup on the wire with this body.
func lookupOf(body string, headers ...string) string {
	more := strings.Join(append(headers, ""), "\r\n")
	return fmt.Sprintf("%s%sContent-Length: %d\r\n\r\n%s", passdb, more, len(body), body)
}

// to is a lookup that goes elsewhere.
func to(target string) string {
	return strings.Replace(honest, "/auth_passdb_lookup", target, 1)
}

// hostileRequest is what an attacker sends on one connection, and what comes of it.
type hostileRequest struct {
	send string
	// want are the statuses of the answers. After them the connection is closed, or takes an honest request.
	want []int
	open bool
	// ends says that the client closes its side after it.
	ends bool
}

// hostileReply is an answer to one.
type hostileReply struct {
	*http.Response
	body string
}

// errBusy says that the database had no time for a request.
var errBusy = errors.New("it gets 503")

// talk sends bytes, and reads as many answers as are expected. It fails the test unless the connection is then as it should be. It begins anew
// for a minute where the machine stands still: the database has no time, or the server none to wait for the request.
func (h hostileRequest) talk(t *testing.T, address, after string) []hostileReply {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		begun := time.Now()
		replies, err := h.once(address, after)
		stood := errors.Is(err, errBusy) || time.Since(begun) > 3*time.Second
		switch {
		case err != nil && !stood:
			t.Error(err)
			return replies
		case err == nil:
			return replies
		case time.Now().After(deadline):
			t.Fatalf("for a minute: %v", err)
		}
	}
}

func (h hostileRequest) once(address, after string) (replies []hostileReply, err error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(conn, h.send) // the server may have enough before all of it
		if h.ends {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
	}()
	reader := bufio.NewReader(conn)
	next := func() (hostileReply, error) {
		r, err := http.ReadResponse(reader, nil)
		if err != nil {
			return hostileReply{}, err
		}
		body, err := io.ReadAll(r.Body)
		return hostileReply{r, string(body)}, err
	}
	for i, want := range h.want {
		reply, err := next()
		switch {
		case err != nil:
			return replies, fmt.Errorf("answer %d: %w, want %d", i, err, want)
		case reply.StatusCode == 503:
			return replies, fmt.Errorf("answer %d: %w: %q, want %d", i, errBusy, reply.body, want)
		case reply.StatusCode != want:
			return replies, fmt.Errorf("answer %d: %d %q, want %d", i, reply.StatusCode, reply.body, want)
		case reply.Header.Get("X-Evil") != "" || strings.Contains(fmt.Sprint(reply.Header), "Set-Cookie"):
			return replies, fmt.Errorf("answer %d has a header that was sent to it: %v", i, reply.Header)
		}
		replies = append(replies, reply)
	}
	if h.open {
		<-sent
		if _, err := io.WriteString(conn, after); err != nil {
			return replies, fmt.Errorf("the connection is not kept: %w", err)
		}
		reply, err := next()
		switch {
		case err != nil:
			return replies, fmt.Errorf("an honest request after it: %w", err)
		case reply.StatusCode == 503:
			return replies, fmt.Errorf("an honest request after it: %w: %q", errBusy, reply.body)
		case reply.StatusCode != 200:
			return replies, fmt.Errorf("an honest request after it: %v", reply)
		}
		return replies, nil
	}
	// What is still being sent may be met by a reset.
	if more, err := reader.Peek(1); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		return replies, fmt.Errorf("the connection is not closed: %q, %v", more, err)
	}
	conn.Close()
	<-sent
	return replies, nil
}

// hostileNames are names that are users, each another one, and hostileNonames are none: as they stand in JSON.
var (
	hostileNames = []string{
		`Ada`, `zo\u00eb`, `zoe\u0308`, `ZO\u00cb`, `\u0130stanbul`, `istanbul`, `i\u0307stanbul`, `\u0131stanbul`, `\u039f\u03a3`, `\u03bf\u03c3`, `\u03bf\u03c2`, `stra\u00dfe`, `strasse`, `\ufb01n`, `fin`, `\uff21da`,
		`\u212aelvin`, `kelvin`, `ad\u200ba`, `ad\u202ea`, `\u2066ada\u2069`, `a\u0300\u0301\u0302`, `a\u0301\u0300\u0302`, `\ud83d\ude00`, `\ud83d\udc69\u200d\ud83d\udcbb`, `\u0440\u0430`, `pa`, `\ufeffada`, `a\u0001`, `\ufffd`,
		`'; DROP TABLE mailbox_username_backend; --`, `\" OR 1=1`, `$1`, `{a,b}`, `\\N`, `NULL`, `%s%n`, `../../etc/passwd`, `<script>`, `a\r\nSet-Cookie: x`, `a\nlevel=ERROR msg=forged`, `\u001b[2J`, ` ada`, `ada `, `ada\u00a0`, `*`, `10`,
		strings.Repeat(`\u00e9`, 255), strings.Repeat(`\ud83d\ude00`, 255), strings.Repeat("x", 255),
	}
	hostileNonames = []string{
		``, `a\u0000`, `\u0000`, `\ud800`, `\udc00\ud800`, "a\xff", "a\xc0\xaf", "a\xed\xa0\x80", "a\xf4\x90\x80\x80", "\xc3", "a\x00", "a\nb", strings.Repeat("x", 256), strings.Repeat(`\u00e9`, 256), strings.Repeat(`e\u0301`, 128),
	}
)

// hostileLookups are shapes of requests, for the listener of lookups.
func hostileLookups() map[string]hostileRequest {
	ok, bad := []int{200}, []int{400}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, `{"user":"ada"}`)
	_ = z.Close()
	evil := `'; DROP TABLE mailbox_username_backend; --\r\nX-Evil: 1\nlevel=ERROR msg=forged`
	all := map[string]hostileRequest{
		"two users":                   {send: lookupOf(`{"user":"two-a","user":"two-b"}`), want: bad, open: true},
		"two users, one in escapes":   {send: lookupOf(`{"user":"two-a","\u0075ser":"two-b"}`), want: bad, open: true},
		"a user in capitals too":      {send: lookupOf(`{"USER":"capitals","user":"ada","u\u017fer":"long-s"}`), want: ok, open: true},
		"a user in capitals only":     {send: lookupOf(`{"USER":"capitals"}`), want: bad, open: true},
		"10,000 levels":               {send: lookupOf(`{"user":"deep","x":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`), want: bad, open: true},
		"1,000 levels":                {send: lookupOf(`{"user":"ada","x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`), want: ok, open: true},
		"1,000,000 levels":            {send: lookupOf(strings.Repeat("[", 1_000_000)), want: []int{413}},
		"a number beyond all":         {send: lookupOf(`{"user":"ada","x":1e999,"service":1e999,"y":` + strings.Repeat("9", 400) + `}`), want: ok, open: true},
		"a number for a user":         {send: lookupOf(`{"user":1e999}`), want: bad, open: true},
		"SQL and headers in fields":   {send: lookupOf(`{"user":"ada","service":"` + evil + `","session":"` + evil + `","rip":"` + evil + `","` + evil + `":1}`), want: ok, open: true},
		"a byte order mark":           {send: lookupOf("\ufeff" + `{"user":"bom"}`), want: bad, open: true},
		"UTF-16":                      {send: lookupOf("{\x00\"\x00u\x00s\x00e\x00r\x00\"\x00"), want: bad, open: true},
		"NULs behind it":              {send: lookupOf("{\"user\":\"nul\"}\x00\x00"), want: bad, open: true},
		"a form":                      {send: lookupOf("user=form", "Content-Type: application/x-www-form-urlencoded"), want: bad, open: true},
		"another charset is not read": {send: lookupOf(`{"user":"ada"}`, "Content-Type: application/json; charset=utf-16"), want: ok, open: true},
		"a body in gzip":              {send: lookupOf(zipped.String(), "Content-Encoding: gzip"), want: bad, open: true},

		"chunks":                         {send: passdb + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\nd;x=\"y\"\r\n\"user\":\"ada\"}\r\n0\r\nX-Trailer: 1\r\n\r\n", want: ok, open: true},
		"a chunk of no size":             {send: passdb + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n", want: bad},
		"a chunk of huge size":           {send: passdb + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n", want: bad},
		"a chunk that is longer":         {send: passdb + "Transfer-Encoding: chunked\r\n\r\n2\r\n{\"user\":\"longer\"}\r\n0\r\n\r\n", want: bad},
		"chunks that end too early":      {send: passdb + "Transfer-Encoding: chunked\r\n\r\n12\r\n{\"user\":\"early\"", want: bad, ends: true},
		"a body that ends too early":     {send: passdb + "Content-Length: 30\r\n\r\n{\"user\":\"early\"}", want: bad, ends: true},
		"a body that is longer":          {send: passdb + "Content-Length: 5\r\n\r\n{\"user\":\"longer\"}", want: []int{400, 400}},
		"a request within a body":        {send: lookupOf(lookupOf(`{"user":"smuggled"}`)), want: bad, open: true},
		"two lengths":                    {send: passdb + "Content-Length: 14\r\nContent-Length: 15\r\n\r\n{\"user\":\"len\"}", want: bad},
		"two lengths in one":             {send: passdb + "Content-Length: 14, 15\r\n\r\n{\"user\":\"len\"}", want: bad},
		"a length with a sign":           {send: passdb + "Content-Length: +14\r\n\r\n{\"user\":\"len\"}", want: bad},
		"a negative length":              {send: passdb + "Content-Length: -1\r\n\r\n{\"user\":\"len\"}", want: bad},
		"a length beyond all":            {send: passdb + "Content-Length: 99999999999999999999\r\n\r\n{\"user\":\"len\"}", want: bad},
		"a length in hexadecimal":        {send: passdb + "Content-Length: 0xe\r\n\r\n{\"user\":\"len\"}", want: bad},
		"no length at all":               {send: passdb + "\r\n", want: bad, open: true},
		"chunks win over a length":       {send: passdb + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n{\"user\":\"ada\"}\r\n0\r\n\r\n", want: ok, open: true},
		"chunks twice":                   {send: passdb + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", want: []int{501}},
		"another coding":                 {send: passdb + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", want: []int{501}},
		"two codings":                    {send: passdb + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", want: []int{501}},
		"a coding behind a tabulator":    {send: passdb + "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", want: bad},
		"a blank before the colon":       {send: passdb + "Content-Length : 14\r\n\r\n{\"user\":\"len\"}", want: bad},
		"a header on two lines":          {send: passdb + "X-Folded: a\r\n b\r\nContent-Length: 14\r\n\r\n{\"user\":\"ada\"}", want: ok, open: true},
		"a first header that goes on":    {send: "POST /auth_passdb_lookup HTTP/1.1\r\n Host: x\r\n\r\n", want: bad},
		"line feeds alone":               {send: strings.ReplaceAll(honest, "\r\n", "\n"), want: ok, open: true},
		"carriage returns alone":         {send: "POST /auth_passdb_lookup HTTP/1.1\rHost: x\r\r\n\r\n", want: bad},
		"a NUL in a header":              {send: passdb + "X: a\x00b\r\n\r\n", want: bad},
		"no host":                        {send: "POST /auth_passdb_lookup HTTP/1.1\r\nContent-Length: 0\r\n\r\n", want: bad},
		"two hosts":                      {send: passdb + "Host: y\r\n\r\n", want: bad},
		"a host that is none":            {send: strings.Replace(honest, "Host: x", "Host: x/../y z", 1), want: bad},
		"a header of a megabyte":         {send: passdb + "X: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", want: []int{431}},
		"a target of a megabyte":         {send: to("/" + strings.Repeat("x", 1<<20)), want: []int{431}},
		"many headers":                   {send: passdb + strings.Repeat("X: y\r\n", 10_000) + "\r\n", want: []int{431}},
		"HTTP/1.0":                       {send: strings.Replace(honest, "1.1", "1.0", 1), want: ok},
		"HTTP/1.0 that stays":            {send: strings.Replace(honest, "1.1\r\n", "1.0\r\nConnection: keep-alive\r\n", 1), want: ok, open: true},
		"HTTP/0.9":                       {send: "POST /auth_passdb_lookup\r\n\r\n", want: bad},
		"HTTP/3.0":                       {send: strings.Replace(honest, "1.1", "3.0", 1), want: []int{505}},
		"HTTP/1.1 and more":              {send: strings.Replace(honest, "1.1", "1.1x", 1), want: bad},
		"HTTP/2 at once":                 {send: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", want: []int{404}},
		"an upgrade to HTTP/2":           {send: lookupOf(`{"user":"ada"}`, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"), want: ok, open: true},
		"TLS":                            {send: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", want: bad},
		"three at once":                  {send: honest + lookupOf(`{"user":`) + honest, want: []int{200, 400, 200}, open: true},
		"after asking whether":           {send: lookupOf(`{"user":"ada"}`, "Expect: 100-continue"), want: []int{100, 200}, open: true},
		"expecting something else":       {send: lookupOf(`{"user":"ada"}`, "Expect: the-unexpected"), want: []int{417}},
		"closing":                        {send: lookupOf(`{"user":"ada"}`, "Connection: close"), want: ok},
		"a method that is overridden":    {send: "GET /auth_passdb_lookup HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: POST\r\nX-Method-Override: POST\r\n\r\n", want: []int{405}, open: true},
		"a path that is overridden":      {send: strings.Replace(to("/"), "Host: x", "Host: x\r\nX-Original-URL: /auth_passdb_lookup\r\nX-Rewrite-URL: /auth_passdb_lookup", 1), want: []int{404}, open: true},
		"a method with a blank":          {send: "PO ST /auth_passdb_lookup HTTP/1.1\r\nHost: x\r\n\r\n", want: bad},
		"a method in small letters":      {send: strings.Replace(honest, "POST", "post", 1), want: []int{405}, open: true},
		"TRACE":                          {send: "TRACE /auth_passdb_lookup HTTP/1.1\r\nHost: x\r\nX-Evil: 1\r\n\r\n", want: []int{405}, open: true},
		"CONNECT":                        {send: "CONNECT other:80 HTTP/1.1\r\nHost: other:80\r\n\r\n", want: []int{404}, open: true},
		"OPTIONS *":                      {send: "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", want: []int{404}, open: true},
		"another host by the whole URI":  {send: to("http://other/auth_passdb_lookup"), want: ok, open: true},
		"a target that is no path":       {send: to("auth_passdb_lookup"), want: bad},
		"a target with broken escapes":   {send: to("/auth_passdb_lookup%zz"), want: bad},
		"a target with a line break":     {send: to("/auth_passdb_lookup%0d%0aX-Evil:%201"), want: []int{404}, open: true},
		"a query is not looked at":       {send: to("/auth_passdb_lookup?user=query"), want: ok, open: true},
		"letters in escapes are letters": {send: to("/%61uth_passdb_lookup"), want: ok, open: true},
	}
	for _, target := range []string{
		"/./auth_passdb_lookup", "//auth_passdb_lookup", "/x/../auth_passdb_lookup", "/%2e/auth_passdb_lookup", "/x/%2e%2e/auth_passdb_lookup", "/..%2fauth_passdb_lookup", "/auth_passdb_lookup/", "/auth_passdb_lookup/.",
		"/auth_passdb_lookup;x=1", "/auth_passdb_lookup%00", "/auth_passdb_lookup%20", "/auth_passdb_lookup%3f", "/AUTH_PASSDB_LOOKUP", "/auth_passdb_lookup.json", "/%2561uth_passdb_lookup", "/metrics", "/api/v1/status",
	} {
		all["the path "+target] = hostileRequest{send: to(target), want: []int{404}, open: true}
	}
	return all
}

// checkLookup holds that an answer of our handler is one of the contract's.
func checkLookup(t *testing.T, r hostileReply) {
	t.Helper()
	if r.Header.Get("Content-Type") != "application/json" {
		// What cannot be read as HTTP net/http refuses itself, in words.
		if r.StatusCode == 200 || r.StatusCode != 100 && !r.Close {
			t.Errorf("%d %v %q", r.StatusCode, r.Header, r.body)
		}
		return
	}
	var answer struct {
		Code       int
		Attributes any
	}
	if err := json.Unmarshal([]byte(r.body), &answer); err != nil {
		t.Fatalf("%q: %v", r.body, err)
	}
	attributes, _ := answer.Attributes.(map[string]any)
	if r.StatusCode != 200 {
		if text, ok := answer.Attributes.(string); answer.Code != -1 || !ok || !oneLine(text) {
			t.Errorf("%d %s", r.StatusCode, r.body)
		}
		return
	}
	host, _ := attributes["host"].(string)
	if _, err := netip.ParseAddr(host); err != nil || answer.Code != 1 || attributes["proxy"] != true || attributes["nopassword"] != true {
		t.Errorf("%s", r.body)
	}
}

// TestHostileLookups sends to a running director, over the wire, what attackers would. Each is answered as it should be, none harms the next
// honest request, only users who are some are stored, under exactly their names, and the log cannot be forged nor filled.
func TestHostileLookups(t *testing.T) {
	onDatabases(t, func(t *testing.T, empty func() ported) {
		p, begun := empty(), time.Now()
		i := start(t, "--endpoints-file", endpoints, "--database-url", p.url, "--log-format", "text")
		after := hostileRequest{send: honest, want: []int{200}, open: true}
		stored := []string{"ada"}
		for _, name := range hostileNames {
			body := `{"user":"` + name + `","session":"` + name + `"}`
			for _, reply := range (hostileRequest{send: lookupOf(body), want: []int{200}, open: true}).talk(t, i.lookups, honest) {
				checkLookup(t, reply)
			}
			var asked struct{ User string }
			if err := json.Unmarshal([]byte(body), &asked); err != nil {
				t.Fatal(err)
			}
			stored = append(stored, strings.Map(func(c rune) rune { // as Dovecot does: no letters but those of ASCII
				if c >= 'A' && c <= 'Z' {
					return c + 'a' - 'A'
				}
				return c
			}, asked.User))
		}
		for _, name := range hostileNonames {
			for _, path := range []string{"/auth_passdb_lookup", "/auth_userdb_lookup"} {
				request := strings.Replace(lookupOf(`{"user":"`+name+`"}`), "/auth_passdb_lookup", path, 1)
				for _, reply := range (hostileRequest{send: request, want: []int{400}, open: true}).talk(t, i.lookups, honest) {
					checkLookup(t, reply)
				}
			}
		}
		for name, h := range hostileLookups() {
			t.Run(name, func(t *testing.T) {
				for _, reply := range h.talk(t, i.lookups, honest) {
					checkLookup(t, reply)
				}
				after.talk(t, i.lookups, honest)
			})
		}

		slices.Sort(stored)
		stored = slices.Compact(stored)
		rows, err := csv.NewReader(strings.NewReader(strings.ReplaceAll(p.export(), "\r", "\\r"))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		var kept []string
		for _, row := range rows[1:] {
			kept = append(kept, strings.ReplaceAll(row[0], "\\r", "\r"))
		}
		slices.Sort(kept)
		if !slices.Equal(kept, stored) {
			t.Errorf("stored are\n%q, want\n%q", kept, stored)
		}

		warnings := map[string]int{}
		for line := range strings.Lines(i.log.String()) {
			level, text, _ := strings.Cut(strings.TrimPrefix(line[strings.IndexByte(line, ' ')+1:], "level="), " msg=")
			slow := tellsOfASlowDatabase(line)
			if !strings.HasPrefix(line, "time=") || !oneLine(strings.TrimSuffix(line, "\n")) || level != "INFO" && level != "WARN" && !(level == "ERROR" && slow) {
				t.Errorf("the log has the line %q", line)
			}
			if level == "WARN" && !slow {
				message, _, _ := strings.Cut(text, " error=")
				warnings[message]++
			}
		}
		// In a minute, one line for requests that make no sense, and one for each of the kinds of names that are none: empty, too long, with a NUL.
		want, minutes := map[string]int{`"a lookup makes no sense; it gets HTTP 400"`: 1, `"a lookup has an invalid user name; it gets HTTP 400 and nothing is stored"`: 3}, 1+int(time.Since(begun)/time.Minute)
		if !maps.EqualFunc(warnings, want, func(n, least int) bool { return least <= n && n <= least*minutes }) {
			t.Errorf("the log warns of %v within %d minutes, want %v", warnings, minutes, want)
		}
	})
}

// TestHostileOperations does the same to the listeners of operators, in short: they are the same server.
func TestHostileOperations(t *testing.T) {
	p := ported{t, migrated(t)}
	i := start(t, "--endpoints-file", endpoints, "--database-url", p.url, "--log-format", "text")
	order := func(method, path, body string, headers ...string) string {
		return fmt.Sprintf("%s /api/v1%s HTTP/1.1\r\nHost: localhost\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", method, path, strings.Join(append(headers, ""), "\r\n"), len(body), body)
	}
	status, ready := order("GET", "/status", ""), "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
	evil := "%27;%20DROP%20TABLE%20director_pin;--%0d%0aX-Evil:%201%0alevel=ERROR%20msg=forged"
	for name, h := range map[string]hostileRequest{
		"an unknown user of an odd name":    {send: order("GET", "/users/"+evil, ""), want: []int{200}, open: true},
		"a pin of an odd name":              {send: order("PUT", "/users/"+evil+"/pin", `{"note":"'); DROP TABLE director_journal; --"}`, "X-Actor: '); DROP TABLE x; --"), want: []int{200}, open: true},
		"a NUL":                             {send: order("PUT", "/users/a%00/pin", ""), want: []int{400}, open: true},
		"a name that is no UTF-8":           {send: order("PUT", "/users/a%c0%af/pin", ""), want: []int{400}, open: true},
		"a drain of a backend of odd name":  {send: order("PATCH", "/backends/"+evil, `{"state":"drain"}`), want: []int{400}, open: true},
		"a replica of odd name":             {send: order("DELETE", "/replicas/"+evil, ""), want: []int{400}, open: true},
		"a state twice, once by a long s":   {send: order("PATCH", "/backends/dovecot-backend-0", `{"state":"drain","\u017ftate":"off"}`), want: []int{400}, open: true},
		"a state twice, once in capitals":   {send: order("PATCH", "/backends/dovecot-backend-0", `{"state":"drain","STATE":"off"}`), want: []int{400}, open: true},
		"a weight beyond all":               {send: order("PATCH", "/backends/dovecot-backend-0", `{"weight":1e999}`), want: []int{400}, open: true},
		"deep":                              {send: order("PATCH", "/backends/dovecot-backend-0", `{"note":`+strings.Repeat("[", 8000)), want: []int{400}, open: true},
		"1,000,000 levels":                  {send: order("PATCH", "/backends/dovecot-backend-0", strings.Repeat("[", 1_000_000)), want: []int{413}},
		"an actor on two lines":             {send: order("PUT", "/users/ada/pin", "", "X-Actor: a\r\n b"), want: []int{200}, open: true},
		"an actor with a carriage return":   {send: order("PUT", "/users/ada/pin", "", "X-Actor: a\rlevel=ERROR"), want: []int{400}},
		"two actors":                        {send: order("PUT", "/users/ada/pin", "", "X-Actor: a", "X-Actor: b"), want: []int{400}, open: true},
		"a method that is overridden":       {send: order("GET", "/users/ada/pin", "", "X-HTTP-Method-Override: PUT"), want: []int{405}, open: true},
		"a host that is another":            {send: strings.Replace(status, "localhost", "evil.example", 1), want: []int{403}, open: true},
		"a host by the whole URI":           {send: strings.Replace(status, "/api", "http://evil.example/api", 1), want: []int{403}, open: true},
		"a path with dots":                  {send: order("GET", "/users/../status", ""), want: []int{404}, open: true},
		"a path with two slashes":           {send: order("GET", "//status", ""), want: []int{404}, open: true},
		"a path with dots in escapes":       {send: order("GET", "/x/%2e%2e/status", ""), want: []int{404}, open: true},
		"a path with a parameter":           {send: order("GET", "/status;x=1", ""), want: []int{404}, open: true},
		"a path in capitals":                {send: order("GET", "/STATUS", ""), want: []int{404}, open: true},
		"two lengths":                       {send: strings.Replace(status, "Content-Length: 0", "Content-Length: 0\r\nContent-Length: 1", 1), want: []int{400}},
		"a header of a megabyte":            {send: order("GET", "/status", "", "X: "+strings.Repeat("x", 1<<20)), want: []int{431}},
		"a body that ends too early":        {send: strings.Replace(order("PUT", "/users/early/pin", ""), "Content-Length: 0", "Content-Length: 9", 1), want: []int{400}, ends: true},
		"HTTP/2 at once":                    {send: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", want: []int{403}},
		"three at once":                     {send: status + status + status, want: []int{200, 200, 200}, open: true},
		"a lookup":                          {send: honest, want: []int{403}, open: true},
		"a lookup that says it is for here": {send: strings.Replace(honest, "Host: x", "Host: localhost", 1), want: []int{404}, open: true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range h.talk(t, i.admin, status) {
				if kind := r.Header.Get("Content-Type"); kind == "application/json" && !json.Valid([]byte(r.body)) || kind != "application/json" && !r.Close {
					t.Errorf("%d %v %q", r.StatusCode, r.Header, r.body)
				}
			}
			hostileRequest{send: status, want: []int{200}, open: true}.talk(t, i.admin, status)
		})
	}
	for name, h := range map[string]hostileRequest{
		"a lookup":               {send: honest, want: []int{404}, open: true},
		"the admin API":          {send: status, want: []int{404}, open: true},
		"a POST":                 {send: strings.Replace(ready, "GET", "POST", 1), want: []int{405}, open: true},
		"TRACE":                  {send: "TRACE / HTTP/1.1\r\nHost: localhost\r\nX-Evil: 1\r\n\r\n", want: []int{405}, open: true},
		"OPTIONS *":              {send: "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", want: []int{400}},
		"a redirect elsewhere":   {send: strings.Replace(ready, "/readyz", "//evil.example/%0d%0aX-Evil:1/..", 1), want: []int{307}, open: true},
		"an asset outside":       {send: strings.Replace(ready, "/readyz", "/assets/..%2f..%2fetc%2fpasswd", 1), want: []int{404}, open: true},
		"the profiler":           {send: strings.Replace(ready, "/readyz", "/debug/pprof/", 1), want: []int{404}, open: true},
		"a header of a megabyte": {send: strings.Replace(ready, "\r\n\r\n", "\r\nX: "+strings.Repeat("x", 1<<20)+"\r\n\r\n", 1), want: []int{431}},
		"two lengths":            {send: strings.Replace(ready, "\r\n\r\n", "\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 1), want: []int{400}},
		"HTTP/2 at once":         {send: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", want: []int{400}},
		"a form of a megabyte":   {send: fmt.Sprintf("POST /user HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\nuser=%s", 1<<20, strings.Repeat("x", 1<<20-5)), want: []int{403}},
	} {
		t.Run("operations: "+name, func(t *testing.T) {
			for _, r := range h.talk(t, i.ops, ready) {
				if location := r.Header.Get("Location"); strings.HasPrefix(location, "//") || strings.Contains(location, ":") {
					t.Errorf("it leads to %q", location)
				}
			}
			hostileRequest{send: ready, want: []int{200}, open: true}.talk(t, i.ops, ready)
		})
	}
	for line := range strings.Lines(i.log.String()) {
		if !strings.HasPrefix(line, "time=") || !oneLine(strings.TrimSuffix(line, "\n")) {
			t.Errorf("the log has the line %q", line)
		}
	}
	if got := p.export(); strings.Count(got, "\n") != 1 {
		t.Errorf("stored is %s", got)
	}
}
