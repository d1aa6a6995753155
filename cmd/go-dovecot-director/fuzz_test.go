package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/pflag"

	director "github.com/k-web-s/go-dovecot-director"
)

// oneLine reports whether a text is one line that a terminal shows as it is.
func oneLine(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) })
}

// FuzzImport holds for any file that a check which finds nothing wrong lets every user be written once, under a canonical name and on one
// backend that the table can hold; and that what it finds wrong is one line for each row, which no name in the file can forge.
func FuzzImport(f *testing.F) {
	for _, text := range []string{
		"username,backend,last_ts\nada,b-0,2026-01-02T03:04:05.678Z\n", "ada\tb-0\r\nADA\tb-0", "ada,b-0\nAda,b-1\n", "ada,192.0.2.1\n\"a\nb\",b-0.example.org\n",
		"user hash mail server ip expire time\nada 4294967295 192.0.2.1 2026-01-02 03:04:05\n<unknown> 1 192.0.2.1 2026-01-02 03:04:05\n",
	} {
		f.Add([]byte(text), false)
		f.Add([]byte(text), true)
	}
	name, err := director.ParseTemplate("%Lu")
	if err != nil {
		f.Fatal(err)
	}
	users := director.UserFormat{Name: name, Hash: name}
	known := newKnownBackends([]director.Backend{{Name: "b-0", Addr: netip.MustParseAddr("192.0.2.1")}, {Name: "b-1", Addr: netip.MustParseAddr("2001:db8::1")}})
	f.Fuzz(func(t *testing.T, text []byte, any bool) {
		m := newMappingImport(bytes.NewReader(text), users)
		if !any {
			m.known = known
		}
		var told bytes.Buffer
		err := m.check(t.Context(), &told)
		faults := 0
		if err != nil {
			_, _ = fmt.Sscanf(err.Error(), "%d of its rows", &faults)
		}
		want := min(faults, maxFaults)
		if faults > maxFaults {
			want++ // and how many more
		}
		if lines := strings.Count(told.String(), "\n"); lines != want || !oneLine(harmless(strings.ReplaceAll(told.String(), "\n", " "))) {
			t.Errorf("%d faults, told in %d lines: %q", faults, lines, told.String())
		}
		if err != nil {
			if !oneLine(err.Error()) || len(err.Error()) > 2000 {
				t.Errorf("error %.3000q", err)
			}
			return
		}
		written := map[string]bool{}
		err = m.again(t.Context(), func(rows []director.Row) error {
			for _, r := range rows {
				user, err := users.Canonical(r.User)
				if err != nil || user.Name != r.User || written[r.User] || checkBackend(r.Backend) != nil || !any && !known.byName[r.Backend] || r.LastSeen.After(time.Now().Add(time.Hour)) {
					t.Errorf("row %+v, %v", r, err)
				}
				written[r.User] = true
			}
			return nil
		})
		if err != nil || len(written) != m.rows-m.repeated-m.nameless {
			t.Errorf("%d of %d rows are written, %d are repeated, %d nameless, %v", len(written), m.rows, m.repeated, m.nameless, err)
		}
	})
}

// FuzzSettings holds for every setting that a text is either taken, and then again as it is shown, or refused in one line that no name in
// it can forge; and that a password is shown in none.
func FuzzSettings(f *testing.F) {
	var all []string
	flags := func() *pflag.FlagSet {
		fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		fs.SetOutput(io.Discard)
		new(settings).register(fs)
		return fs
	}
	flags().VisitAll(func(flag *pflag.Flag) { all = append(all, flag.Name) })
	for i := range all {
		for _, text := range []string{"", "1h", "-1", "NaN", ":8080", "192.0.2.1:8080,[::1]:8080", "propose", "%Lu", "a\nb"} {
			f.Add(i, text)
		}
	}
	f.Fuzz(func(t *testing.T, number int, text string) {
		fs, name := flags(), all[uint(number)%uint(len(all))]
		if err := fs.Lookup(name).Value.Set(text); err != nil {
			if !oneLine(err.Error()) {
				t.Errorf("--%s: error %q", name, err)
			}
			return
		}
		again := flags()
		shown := fs.Lookup(name).Value.String()
		if err := again.Lookup(name).Value.Set(shown); err != nil || again.Lookup(name).Value.String() != shown {
			t.Errorf("--%s %q is shown as %q, which is refused: %v", name, text, shown, err)
		}
	})
}

// FuzzDatabaseURL holds that no URL, however broken, makes an error that shows the password in it.
func FuzzDatabaseURL(f *testing.F) {
	const secret = "s3cr3t-0451"
	for _, text := range []string{"postgres://director:%s@localhost:5432/mail", "postgres://director:%s@[::1/mail", "postgres://director:%s@localhost:port/", "postgresql://a:b%%zz:%s@h/d?sslmode=x", "postgres://:%s@h/d?sslrootcert=/none"} {
		before, after, _ := strings.Cut(text, "%s")
		f.Add(strings.TrimPrefix(strings.TrimPrefix(before, "postgres://"), "postgresql://"), after)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		if strings.ContainsAny(before, "/?#") {
			return // it would not be the password
		}
		s := databaseSettings{url: "postgres://" + before + secret + after, sslMode: "prefer"}
		if !strings.Contains(before, ":") || !strings.Contains(after, "@") {
			return
		}
		db, err := s.open(nil)
		if err != nil {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%q: error %q", s.url, err)
			}
			return
		}
		if err := db.Close(); err != nil && !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}
