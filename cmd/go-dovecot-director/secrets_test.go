package main

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// secrets are texts that are to be found nowhere, by what they are.
type secrets map[string]string

// leaks returns what is found of them in a text, in any form in which it may be written.
func (s secrets) leaks(text string) (found []string) {
	for what, secret := range s {
		encoded := base64.StdEncoding.EncodeToString([]byte(secret))
		forms := []string{secret, url.QueryEscape(secret), encoded, strings.TrimRight(encoded, "=")}
		for _, form := range forms {
			forms = append(forms, strings.ReplaceAll(form, "+", "&#43;")) // as in HTML
		}
		if slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(text, form) }) {
			found = append(found, what)
		}
	}
	return found
}

// tells expects that a text holds none of them.
func (s secrets) tells(t *testing.T, where, text string) {
	t.Helper()
	if found := s.leaks(text); found != nil {
		t.Errorf("%s shows %s:\n%s", where, strings.Join(found, ", "), text)
	}
}

// process is a director of its own, which another user of the machine can look at.
type process struct {
	t                   *testing.T
	cmd                 *exec.Cmd
	output              lockedBuffer
	lookups, ops, admin string
}

// startProcess starts one at debug level, and waits until it serves.
func startProcess(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t}
	p.cmd = exec.CommandContext(t.Context(), os.Args[0], append([]string{
		"serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--drain-delay", "0s", "--log-level", "debug", "--log-format", "json",
	}, args...)...)
	p.cmd.Env = append(append(os.Environ(), asProgram+"=1"), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	until(t, "it serves", func() bool {
		for line := range strings.Lines(p.output.String()) {
			var serving struct {
				Msg         string
				Listen      string
				OpsListen   string `json:"ops_listen"`
				AdminListen string `json:"admin_listen"`
			}
			if json.Unmarshal([]byte(line), &serving) == nil && serving.Msg == "serving" {
				p.lookups, p.ops, p.admin = "http://"+serving.Listen, "http://"+serving.OpsListen, "http://"+serving.AdminListen
				return true
			}
		}
		return false
	})
	return p
}

// stop ends it as an operator does.
func (p *process) stop() {
	if p.cmd.ProcessState != nil {
		return
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Error(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("%v:\n%s", err, p.output.String())
	}
}

// ask makes a request and returns its status, with all of the answer.
func (p *process) ask(method, address, body string, headers ...string) (status int, answer string) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		p.t.Fatal(err)
	}
	status, answer = read(p.t, response)
	var text strings.Builder
	_ = response.Header.Write(&text) // a Builder takes everything
	return status, fmt.Sprintf("%s\n%s\n%s", response.Status, text.String(), answer)
}

// echoes are doveadms that refuse the key, and tell all that they were sent: in a status line, in a body, and in a broken answer.
func echoes(t *testing.T) (endpointsFile string) {
	t.Helper()
	var text strings.Builder
	text.WriteString("apiVersion: v1\nkind: Endpoints\nmetadata:\n  name: dovecot-backend\nsubsets:\n")
	for i, answer := range []string{"HTTP/1.1 401 %[1]s\r\n\r\n%[1]s", "HTTP/1.1 500 %[1]s\r\nX: %[1]s\r\n\r\n%[1]s", "HTTP/1.1 200 OK\r\n\r\n%[1]s", `HTTP/1.1 200 OK` + "\r\n\r\n" + `[["error",{"type":"%[1]s"},"%[1]s"]]`} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, answer, r.Header.Get("Authorization"))
			conn.Close()
		}))
		t.Cleanup(server.Close)
		_, port, err := net.SplitHostPort(server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "- addresses:\n  - {ip: 127.0.0.1, hostname: dovecot-backend-%d}\n  ports:\n  - {name: doveadm-http, port: %s}\n", i, port)
	}
	return file(t, text.String())
}

// TestSecretsAreToldNobody lets things go wrong that have to do with secrets, and looks for these wherever others can look.
func TestSecretsAreToldNobody(t *testing.T) {
	const role, right = "director", "right+password/of=database"
	server := pgtest.Start(t)
	admin := server.Database(t)
	if code := run(t.Context(), []string{"migrate", "--database-url", admin}, none, io.Discard, io.Discard); code != 0 {
		t.Fatal("there are no tables")
	}
	for _, statement := range []string{
		"CREATE ROLE " + role + " LOGIN PASSWORD '" + right + "'",
		"GRANT ALL ON ALL TABLES IN SCHEMA public TO " + role, "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO " + role,
	} {
		pgtest.Exec(t, admin, statement)
	}
	server.WriteFile(t, "pg_hba.conf", []byte("host all "+role+" 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"))
	server.Reload()
	u, err := url.Parse(admin)
	if err != nil {
		t.Fatal(err)
	}
	database := strings.TrimPrefix(u.Path, "/")
	until(t, "the server asks for passwords", func() bool {
		db, err := sql.Open("postgres", "postgres://"+role+":wrong@"+u.Host+u.Path+"?sslmode=disable")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		return db.PingContext(t.Context()) != nil
	})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()

	hidden := secrets{
		"the database's password": right, "a wrong password": "wrong+password/of=database", "doveadm's key": "key+of/doveadm=secret",
		"the token": "token-of-who-may-order", "the token to read": "token-of-who-may-look",
		"the proxies' token": "token-of-the-proxies", "an offered token": "token-that-a-client-offers", "an offered password": "password-that-a-client-sends",
	}
	wrong := hidden["a wrong password"]
	parts := []string{"DATABASE_HOST=127.0.0.1", "DATABASE_PORT=" + u.Port(), "DATABASE_NAME=" + database, "DATABASE_USER=" + role}
	inURL := func(password, host, rest string) string {
		return "DATABASE_URL=postgres://" + role + ":" + url.QueryEscape(password) + "@" + host + u.Path + "?sslmode=prefer" + rest
	}
	runs := 0
	for name, tc := range map[string]struct {
		env  []string
		well bool // the database lets it in
		want string
	}{
		"right, in a variable": {append(parts, "DATABASE_PASSWORD="+right), true, ""},
		"right, in a file":     {append(parts, "DATABASE_PASSWORD_FILE="+file(t, right+"\n")), true, ""},
		"right, in the URL":    {[]string{inURL(right, u.Host, "")}, true, ""},
		"wrong, in a variable": {append(parts, "DATABASE_PASSWORD="+wrong), false, "password authentication failed"},
		"wrong, in a file":     {append(parts, "DATABASE_PASSWORD_FILE="+file(t, wrong)), false, "password authentication failed"},
		"wrong, in the URL":    {[]string{inURL(wrong, u.Host, "")}, false, "password authentication failed"},
		"wrong, in the query":  {[]string{"DATABASE_URL=postgres://" + role + "@" + u.Host + u.Path + "?password=" + url.QueryEscape(wrong)}, false, "password authentication failed"},
		"nobody to tell it":    {[]string{inURL(right, closed.Addr().String(), "")}, false, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			p := startProcess(t, append(tc.env,
				"DOVEADM_KEY_FILE="+file(t, hidden["doveadm's key"]), "ADMIN_TOKEN_FILE="+file(t, hidden["the token"]), "ADMIN_READ_TOKEN_FILE="+file(t, hidden["the token to read"]),
				"LOOKUP_TOKEN_FILE="+file(t, hidden["the proxies' token"]),
			), "--endpoints-file", echoes(t), "--session-poll", "1s")
			until(t, "the outcome is known: "+tc.want, func() bool {
				status, answer := p.ask("GET", p.ops+"/readyz?verbose", "")
				return tc.well && status == http.StatusOK || !tc.well && strings.Contains(answer, tc.want)
			})
			p.provoke(hidden, runs)
			runs++
			if tc.well {
				until(t, "the backends were polled", func() bool { return strings.Contains(p.output.String(), "asked doveadm") })
			}
			if cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid)); err != nil || len(cmdline) == 0 {
				t.Errorf("the process list: %q, %v", cmdline, err)
			} else {
				hidden.tells(t, "the process list", string(cmdline))
			}
			p.stop()
			hidden.tells(t, "the log", p.output.String())
			if !strings.Contains(p.output.String(), `"level":"DEBUG"`) && tc.well {
				t.Error("nothing was logged at debug level")
			}
		})
	}
	t.Run("the tables", func(t *testing.T) { hidden.tells(t, "a table", dump(t, admin)) })
	t.Run("the verbs", func(t *testing.T) { verbsTellNothing(t, hidden, u) })
}

// provoke asks for all that there is, with tokens that are right, wrong and in the wrong place; the admin API with the first of some.
func (p *process) provoke(hidden secrets, first int) {
	p.t.Helper()
	offered, sent := hidden["an offered token"], hidden["an offered password"]
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	for _, path := range []string{"/", "/user", "/metrics", "/healthz", "/readyz", "/readyz?verbose", "/nowhere", "/debug/pprof/", "/debug/vars", "/?token=" + offered} {
		_, answer := p.ask("GET", p.ops+path, "", "Authorization", "Bearer "+offered)
		hidden.tells(p.t, path, answer)
	}
	for _, token := range []string{offered, hidden["the token to read"]} {
		_, answer := p.ask("POST", p.ops+"/user", url.Values{"token": {token}, "user": {"ada"}}.Encode(), form...)
		hidden.tells(p.t, "/user", answer)
	}
	authorizations := []string{
		"Bearer " + offered, "Basic " + base64.StdEncoding.EncodeToString([]byte("root:"+sent)), "Digest " + offered, offered, "Bearer " + hidden["the token to read"], "Bearer " + hidden["the token"], "",
	}
	// Of those that are refused, one a minute is logged: the first.
	for i := range authorizations {
		authorization := authorizations[(i+first)%len(authorizations)]
		for _, order := range [][3]string{
			{"GET", "/status?sessions=true"},
			{"GET", "/users/ada"},
			{"GET", "/journal"},
			{"GET", "/rebalance"},
			{"GET", "/openapi.json"},
			{"GET", "/nowhere"},
			{"GET", "/status?token=" + offered},
			{"GET", "/status?access_token=" + offered},
			{"BREW", "/status"},
			{"TRACE", "/status"},
			{"POST", "/users/ada/kick", `{"note":"x"}`},
			{"POST", "/users/ada/move", `{"to":"dovecot-backend-1"}`},
			{"PATCH", "/backends/dovecot-backend-0", `{"state":"drain"}`},
			{"POST", "/users/ada/kick", `{"password":"` + sent + `"`},
			{"PUT", "/rebalance", `{"rate":"` + sent + `"}`},
		} {
			headers := []string{"Content-Type", "application/json", "X-Actor", "eve"}
			if authorization != "" {
				headers = append(headers, "Authorization", authorization)
			}
			_, answer := p.ask(order[0], p.admin+"/api/v1"+order[1], order[2], headers...)
			hidden.tells(p.t, "the admin API's "+order[0]+" "+order[1], answer)
		}
	}
	for _, body := range []string{
		`{"user":"ada","service":"imap","password":"` + sent + `"}`, `{"user":"ada","password":"` + sent + `"`, `{"user":["` + sent + `"]}`, `{"password":"` + sent + `"}`, sent, `{"user":"ada","user":"` + sent + `"}`, "\xff" + sent,
	} {
		for _, path := range []string{"/auth_passdb_lookup", "/auth_userdb_lookup", "/nowhere?token=" + offered} {
			for _, token := range []string{offered, hidden["the proxies' token"]} {
				_, answer := p.ask("POST", p.lookups+path, body, "Authorization", "Bearer "+token)
				hidden.tells(p.t, "the lookup API's "+path, answer)
			}
		}
	}
	// What is no HTTP is logged by net/http.
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.lookups, "http://"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s %s\r\nAuthorization: Bearer %s\r\n\r\n", sent, sent, offered)
	answer, _ := io.ReadAll(conn) // it closes
	hidden.tells(p.t, "the lookup API", string(answer))
}

// dump returns all rows of all tables.
func dump(t *testing.T, url string) string {
	t.Helper()
	db, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), `SELECT table_to_xml(c.oid::regclass, true, false, '')::text FROM pg_class AS c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var all strings.Builder
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		all.WriteString(text)
	}
	if err := rows.Err(); err != nil || !strings.Contains(all.String(), "<director_journal") {
		t.Errorf("no journal: %v", err)
	}
	return all.String()
}

// verbsTellNothing runs verbs that fail, and asks for help with secrets in the environment.
func verbsTellNothing(t *testing.T, hidden secrets, u *url.URL) {
	secret := hidden["a wrong password"]
	escaped := url.QueryEscape(secret)
	token := file(t, hidden["the token"])
	refused := file(t, hidden["the token"]+"\n"+hidden["an offered token"]+" \x00")
	for _, args := range [][]string{
		{"migrate", "--database-url", "postgres://director:" + escaped + "@" + u.Host + u.Path},
		{"export", "--database-url", "postgres://director:" + escaped + "@" + u.Host + u.Path},
		{"migrate", "--database-url", "postgres://director:" + escaped + "@" + u.Host + ":port" + u.Path},
		{"migrate", "--database-url", "postgres://director@" + u.Host + u.Path + "?sslmode=maybe&password=" + escaped},
		{"migrate", "--database-url", "postgres://director@" + u.Host + u.Path + "?password=" + escaped + "&connect_timeout=soon"},
		{"migrate", "--database-url", "host=127.0.0.1 password=" + secret},
		{"serve", "--endpoints-file", endpoints, "--database-url", "sqlite:x", "--admin-token-file", refused},
		{"status", "--admin-token-file", token, "--admin-url", "http://127.0.0.1:1"},
		{"status", "--admin-token-file", refused, "--admin-url", "http://127.0.0.1:1"},
		{"status", "--admin-url", "http://eve:" + escaped + "@127.0.0.1:1"},
		{"status", "--admin-url", "eve:" + secret + "@127.0.0.1:1"},
		{"status", "--admin-url", "http://127.0.0.1:1/?token=" + escaped},
		{"serve", "--help"},
		{"migrate", "--help"},
		{"status", "--help"},
		{"--help"},
		{"--version"},
		{"completion", "bash"},
	} {
		var stdout, stderr bytes.Buffer
		env := environment("DATABASE_PASSWORD", hidden["the database's password"], "PGPASSWORD", secret)
		_ = run(t.Context(), args, env, &stdout, &stderr) // what it ends with is not what this is about
		if stdout.Len()+stderr.Len() == 0 {
			t.Errorf("%q says nothing", args)
		}
		hidden.tells(t, fmt.Sprintf("%q", args), stdout.String()+stderr.String())
	}
}
