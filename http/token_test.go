package http

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

const (
	oldToken = "old-token-of-the-proxies"
	newToken = "new-token-of-the-proxies"
)

// secret is a folder as Kubernetes mounts a Secret: its files are links by way of another, which is all that changes.
type secret struct{ dir string }

// write replaces all files.
func (s secret) write(t *testing.T, files map[string]string) {
	t.Helper()
	version, err := os.MkdirTemp(s.dir, "..version")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(version, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(s.dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	link := filepath.Join(s.dir, "..data_tmp")
	if err := os.Symlink(filepath.Base(version), link); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link, filepath.Join(s.dir, "..data")); err != nil {
		t.Fatal(err)
	}
}

func (s secret) path(name string) string { return filepath.Join(s.dir, name) }

func TestTokensFollowTheirFile(t *testing.T) {
	s := secret{t.TempDir()}
	synctest.Test(t, func(t *testing.T) { // for its clock
		var log bytes.Buffer
		failed := 0
		s.write(t, map[string]string{"token": oldToken + "\n"})
		tokens, err := OpenTokens(s.path("token"), slog.New(slog.NewTextHandler(&log, nil)), func() { failed++ })
		if err != nil {
			t.Fatal(err)
		}
		want := func(when string, old, fresh bool) {
			t.Helper()
			if got := tokens.Has(oldToken); got != old {
				t.Errorf("%s: the old token is known: %v", when, got)
			}
			if got := tokens.Has(newToken); got != fresh {
				t.Errorf("%s: the new token is known: %v", when, got)
			}
			for _, no := range []string{"", oldToken[1:], oldToken + "x", oldToken + "\n" + newToken} {
				if tokens.Has(no) {
					t.Errorf("%s: %q is known", when, no)
				}
			}
		}
		want("at first", true, false)
		s.write(t, map[string]string{"token": oldToken + "\n" + newToken + "\n"})
		want("with both", true, true)
		s.write(t, map[string]string{"token": newToken})
		time.Sleep(tokensEvery)
		want("with the new one", false, true)
		if failed != 0 || strings.Count(log.String(), "are in force") != 2 {
			t.Errorf("%d failures; log:\n%s", failed, &log)
		}
		for _, broken := range []string{"", "short", newToken + "\n" + oldToken + " \x01"} {
			s.write(t, map[string]string{"token": broken})
			time.Sleep(tokensEvery)
			want(fmt.Sprintf("with %q", broken), false, true)
		}
		if err := os.Remove(s.path("token")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(tokensEvery)
		want("without the file", false, true)
		if failed != 4 || strings.Count(log.String(), "level=ERROR") != 4 {
			t.Errorf("4 changes that were no good: told of %d times; log:\n%s", failed, &log)
		}
		time.Sleep(retryEvery)
		want("later", false, true)
		if failed != 5 || strings.Count(log.String(), "level=ERROR") != 4 {
			t.Errorf("tried again: told of %d times; log:\n%s", failed, &log)
		}
		s.write(t, map[string]string{"token": oldToken})
		time.Sleep(tokensEvery)
		want("when all is well", true, false)
		if strings.Contains(log.String(), "of-the-proxies") {
			t.Errorf("tokens are in the log:\n%s", &log)
		}
	})
}

func TestTokenFilesThatAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "holds no token; write one into it, of at least 16 printable ASCII characters",
		" \r\n\n":                             "holds no token",
		"fifteen-of-them":                     "line 1 of ",
		oldToken + "\n\nfifteen-of-them\n":    "line 3 of ",
		"a token with blanks in it":           "line 1 of ",
		"a-token-with-\rbreaks-in-it":         "line 1 of ",
		"one-with-letters-like-ä":             "line 1 of ",
		"\ufeff" + oldToken:                   "line 1 of ",
		string(make([]byte, 20)):              "is not a token of at least 16 printable ASCII characters; write each token into one line of its own",
		"a-token-that-is-broken-\nin-two":     "line 2 of ",
		oldToken + "\n" + "{\"token\": null}": "line 2 of ",
	} {
		path := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenTokens(path, nil, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "fifteen-of") || strings.Contains(err.Error(), "token-with") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := OpenTokens(t.TempDir(), nil, nil); err == nil {
		t.Error("a folder is taken")
	}
}

// untouched is a body that nobody may read.
type untouched struct{ t *testing.T }

func (u untouched) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

type countedFaults map[string]int

func (countedFaults) Resolved(bool, director.Verb, director.Reason, time.Duration) {}

func (c countedFaults) Failed(readOnly bool, fault string, _ time.Duration) {
	c[fmt.Sprint(readOnly, fault)]++
}

// answering gives one answer to all.
type answering director.Answer

func (a answering) Resolve(context.Context, director.Request) (director.Answer, error) {
	return director.Answer(a), nil
}

// run serves until the test ends.
func run(t testing.TB, s *Server) (address string) {
	t.Helper()
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s.Addr()
}

func TestLookupsWithoutATokenAreRefused(t *testing.T) {
	var log bytes.Buffer
	faults := countedFaults{}
	for authorization, reason := range map[string]string{
		"":                        "a token is needed: send Authorization: Bearer TOKEN",
		"Bearer":                  "the token is not known",
		"Bearer " + newToken:      "the token is not known",
		"Bearer " + oldToken[:9]:  "the token is not known",
		"Basic " + oldToken:       "a token is needed",
		oldToken:                  "a token is needed",
		"Bearer x\"\r\nlevel=ERR": "the token is not known",
	} {
		l := NewLookups(nil, slog.New(slog.NewTextHandler(&log, nil)), WithTokens(only(oldToken)), WithMeter(faults))
		for _, path := range []string{passdbPath, userdbPath, "/elsewhere"} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, untouched{t})
			r.Header["Authorization"] = []string{authorization}
			w := httptest.NewRecorder()
			l.ServeHTTP(w, r)
			if body := w.Body.String(); w.Code != http.StatusUnauthorized || !strings.HasPrefix(body, `{"code":-1,"attributes":"`+reason) || w.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%s with %q: %d %s %v", path, authorization, w.Code, w.Body, w.Header())
			}
		}
	}
	if faults["true"+faultUnauthorized] != 7 || faults["false"+faultUnauthorized] != 14 {
		t.Errorf("%v were counted", faults)
	}
	if text := log.String(); strings.Count(text, "\n") != 7 || strings.Contains(text, "token-of-the") || strings.Contains(text, "old-token") || strings.Contains(text, "level=ERR") {
		t.Errorf("the log is to have one line of each three, without tokens:\n%s", text)
	}
}

// TestARefusedConnectionGoesOn sends what is refused and what is not over one connection, as an auth worker does in whose file the token changes.
func TestARefusedConnectionGoesOn(t *testing.T) {
	l := NewLookups(answering{Decision: director.Decision{Verb: director.Serve}, Addr: netip.MustParseAddr("192.0.2.12")}, nil, WithTokens(only(newToken)))
	address := run(t, NewServer(l, nil, WithLimits(time.Minute, time.Minute))) // the machine may stand still
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for _, token := range []string{oldToken, newToken, "", newToken} {
		body := `{"user":"ada@example.org"}`
		if token == "" {
			body += strings.Repeat(" ", maxBody) // longer than what a lookup may be
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: director\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", passdbPath, token, len(body), body)
		response, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		if ok := token == newToken; ok != (response.StatusCode == 200) || ok != strings.Contains(string(text), "192.0.2.12") || response.Close {
			t.Errorf("%q: %s %s", token, response.Status, text)
		}
	}
}

// BenchmarkTokens is what asking for tokens adds to a lookup, and what one costs that is refused.
func BenchmarkTokens(b *testing.B) {
	path := filepath.Join(b.TempDir(), "token")
	if err := os.WriteFile(path, []byte(oldToken+"\n"+newToken), 0o600); err != nil {
		b.Fatal(err)
	}
	tokens, err := OpenTokens(path, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	for name, token := range map[string]string{"known": newToken, "unknown": "a-token-of-nobody"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				tokens.Has(token)
			}
		})
	}
}
