package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// described reads a mapping and writes each row as one text: line, user, backend, last_ts, and what is wrong.
func described(t *testing.T, text string) ([]string, error) {
	t.Helper()
	var rows []string
	err := readMappings(strings.NewReader(text), func(row mappingRow) error {
		d := fmt.Sprintf("%d %s|%s", row.line, row.user, row.backend)
		if !row.lastSeen.IsZero() {
			d += "|" + row.lastSeen.Format(time.RFC3339Nano)
		}
		if row.nameless {
			d += " nameless"
		}
		if row.fault != nil {
			d = fmt.Sprintf("%d: %v", row.line, row.fault)
		}
		rows = append(rows, d)
		return nil
	})
	return rows, err
}

func TestMappingsOfEveryForm(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"as exported":               {"username,backend,last_ts\nada,b-0,2026-01-02T03:04:05.678Z\n", []string{"2 ada|b-0|2026-01-02T03:04:05.678Z"}},
		"with tabs":                 {"username\tbackend\tlast_ts\nada l\tb-0\t2026-01-02T03:04:05.678Z\n", []string{"2 ada l|b-0|2026-01-02T03:04:05.678Z"}},
		"without last_ts":           {"username,backend\nada,b-0\n", []string{"2 ada|b-0"}},
		"other columns and names":   {"ID, Host ,USER,last_ts\n1,b-0,ada,\n", []string{"2 ada|b-0"}},
		"hostname":                  {"hostname,user\nb-0,ada\n", []string{"2 ada|b-0"}},
		"no header":                 {"ada,b-0\nbob,b-1,2026-01-02 04:04:05.5+01\n", []string{"1 ada|b-0", "2 bob|b-1|2026-01-02T03:04:05.5Z"}},
		"no header, with tabs":      {"ada\tb-0\nbob\tb-1\t2026-01-02 08:34:05+05:30", []string{"1 ada|b-0", "2 bob|b-1|2026-01-02T03:04:05Z"}},
		"a header alone":            {"username,backend,last_ts\n", nil},
		"a BOM and CRLF":            {"\ufeffuser,host\r\nada,b-0\r\n", []string{"2 ada|b-0"}},
		"CRLF and no header":        {"ada,b-0\r\nbob,b-1\r", []string{"1 ada|b-0", "2 bob|b-1"}},
		"a CR that ends no line":    {"a\rb,b-0\n", []string{"1 a\rb|b-0"}},
		"no newline at the end":     {"ada,b-0\nbob,b-1", []string{"1 ada|b-0", "2 bob|b-1"}},
		"empty lines":               {"\n\r\nada,b-0\n\n\nbob,b-1\n\n", []string{"3 ada|b-0", "6 bob|b-1"}},
		"quotes":                    {"\"a,b\",b-0\r\n\"say \"\"hi\"\"\",\"b-1\"\n\"a\r\nb\",b-2\nbob,b-3\n", []string{"1 a,b|b-0", `2 say "hi"|b-1`, "3 a\r\nb|b-2", "5 bob|b-3"}},
		"spaces are part of a name": {" ada , b-0\n", []string{"1  ada | b-0"}},
		"empty fields":              {"\"\",b-0\n,\n", []string{"1 |b-0", "2 |"}},
		"<unknown> is a name here":  {"<unknown>,b-0\n", []string{"1 <unknown>|b-0"}},
		"doveadm without a header":  {"ada,l   12 192.0.2.11   2026-01-02 03:04:05\n", []string{"1 ada,l|192.0.2.11"}},
		"doveadm and IPv6":          {"user hash mail server ip expire time\nada 4294967295 2001:db8::1 2026-01-02 03:04:05\nada 1 x y 2 fe80::1  2026-01-02 03:04:05  \r\n<unknown> 3 192.0.2.1 2026-01-02 03:04:05", []string{"2 ada|2001:db8::1", "3 ada 1 x y|fe80::1", "4 <unknown>|192.0.2.1 nameless"}},
	} {
		got, err := described(t, tc.text)
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s:\n%q, %v; want\n%q", name, got, err, tc.want)
		}
	}
}

func TestBadRowsAreToldAndTheNextIsRead(t *testing.T) {
	long := strings.Repeat("x", maxRecord)
	for name, tc := range map[string]struct{ text, want string }{
		"a field too few":           {"user,host,last_ts\nada,b-0\nbob,b-1,", "2: fields: 2, in the header: 3"},
		"a field too many":          {"user,host\nada,b-0,x\nbob,b-1", "2: fields: 3, in the header: 2"},
		"four fields, no header":    {"ada,b-0,,\nbob,b-1", "1: fields: 4; without a header"},
		"one field":                 {"ada\nbob,b-1", "1: fields: 1; without a header"},
		"a bad last_ts":             {"ada,b-0,2026-01-02\nbob,b-1", `1: last_ts: "2026-01-02" is not a time; write it like`},
		"a last_ts without a zone":  {"ada,b-0,2026-01-02T03:04:05\nbob,b-1", "1: last_ts:"},
		"a last_ts before all time": {"ada,b-0,0000-01-02T03:04:05Z\nbob,b-1", "1: last_ts:"},
		"a quote in a field":        {"a\"da,b-0\nbob,b-1", "1: a quote stands within a field"},
		"text after a quote":        {"\"ada\"x,b-0\nbob,b-1", "1: after a closing quote stands 'x'"},
		"a row without an end":      {"ada," + long + "\nbob,b-1", "1: it is longer than"},
		"a doveadm row of no kind":  {"user hash mail server ip expire time\nada 1 192.0.2.1\nbob 1 192.0.2.2 2026-01-02 03:04:05", "2: it is no row of 'doveadm director map'"},
	} {
		got, err := described(t, tc.text)
		if err != nil || len(got) != 2 || !strings.HasPrefix(got[0], tc.want) || !strings.Contains(got[1], "bob|") {
			t.Errorf("%s: %.200q, %v", name, got, err)
		}
	}
	// After these nothing can be made out.
	for name, tc := range map[string]struct{ text, want string }{
		"a quote that is left open": {"ada,b-0\n\"bob,b-1\ncy,b-2\n", "2: a quote is opened and never closed"},
		"a doveadm row of no end":   {"ada 1 192.0.2.2 2026-01-02 03:04:05\n" + long + long, "2: it is longer than"},
	} {
		got, err := described(t, tc.text)
		if err != nil || len(got) != 2 || !strings.HasPrefix(got[1], tc.want) {
			t.Errorf("%s: %.200q, %v", name, got, err)
		}
	}
}

func TestFilesThatAreNoMapping(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "it is empty",
		"\ufeff\r\n\n":                "it is empty",
		"\xff\xfea\x00":               "it is UTF-16",
		"user,server\nada,b-0\n":      "line 1: the header has no column of backends",
		"\nname,host\nada,b-0\n":      "line 2: the header has no column of users",
		"user,host,hostname\na,b,c\n": `line 1: the header has two columns that may be meant, "host" and "hostname"`,
	} {
		if got, err := described(t, text); err == nil || !strings.Contains(err.Error(), want) || len(got) > 0 {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	broken := errors.New("the disk is broken")
	for _, text := range []string{"", "ada,b-0\nbo", "ada 1 192.0.2.2 2026-01-02 03:04:05\nbo"} {
		if err := readMappings(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken)), func(mappingRow) error { return nil }); !errors.Is(err, broken) {
			t.Errorf("after %q: error %v", text, err)
		}
	}
}

// TestDoveadmDirectorMap reads what Dovecot 2.3's own Director printed for three backends, once as a table and once with -f tab.
func TestDoveadmDirectorMap(t *testing.T) {
	want := []string{
		"2 Ada@Example.org|192.0.2.13", "3 bob@example.org|192.0.2.12", "4 carol@example.net|192.0.2.12", "5 Dan O'Hara@example.org|192.0.2.11",
		"6 erin,jr@example.org|192.0.2.11", "7 josé@example.org|192.0.2.13", "8 frances.with.a.rather.long.name.for.one.column.of.a.table@mail.example.com|192.0.2.13",
		"9 grace|192.0.2.13", "10 heidi+lists@example.org|192.0.2.11", "11 ivan@example.net|192.0.2.13", "12 <unknown>|192.0.2.13 nameless", "13 <unknown>|192.0.2.13 nameless",
	}
	for _, ext := range []string{"txt", "tsv"} {
		text, err := os.ReadFile("../../testdata/mappings/doveadm-director-map." + ext)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := described(t, string(text)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s:\n%q, %v", ext, got, err)
		}
	}
}

func TestAMappingFileForOthers(t *testing.T) {
	users := 0
	if err := readMappingFile("../../testdata/mappings/doveadm-director-map.txt", func(_, _ string) error { users++; return nil }); err != nil || users != 10 {
		t.Errorf("%d users, %v", users, err)
	}
	path := filepath.Join(t.TempDir(), "x.csv")
	if err := os.WriteFile(path, []byte("ada,b-0\nbob\ncy,b-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := readMappingFile(path, func(_, _ string) error { return nil }); err == nil || !strings.HasPrefix(err.Error(), "line 2: fields: 1") {
		t.Errorf("error %v", err)
	}
	if err := readMappingFile(path+"x", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

// FuzzMappings holds for any bytes that lines are counted rightly, and that what was read is read again after it was written.
func FuzzMappings(f *testing.F) {
	for _, ext := range []string{"txt", "tsv"} {
		text, err := os.ReadFile("../../testdata/mappings/doveadm-director-map." + ext)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, text := range []string{
		"username,backend,last_ts\nada,b-0,2026-01-02T03:04:05.678Z\n", "ada\tb-0\r\nbob\tb-1", "\"a\r\nb\",b-2\n\n\"\"\"\",x\n", "user,host\n\"", "\ufeffa,b\n", "a\"b,c\na,b\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var written bytes.Buffer
		w := csv.NewWriter(&written)
		_ = w.Write([]string{"username", "backend", "last_ts"})
		var rows []mappingRow
		last := 0
		err := readMappings(bytes.NewReader(text), func(row mappingRow) error {
			if row.line <= last || row.line > bytes.Count(text, []byte("\n"))+1 {
				t.Fatalf("line %d after line %d", row.line, last)
			}
			last = row.line
			if row.fault != nil {
				return nil
			}
			rows = append(rows, row)
			at := ""
			if !row.lastSeen.IsZero() {
				at = row.lastSeen.Format(time.RFC3339Nano)
			}
			return w.Write([]string{row.user, row.backend, at})
		})
		if err != nil {
			return
		}
		w.Flush()
		i := 0
		err = readMappings(&written, func(row mappingRow) error {
			if i >= len(rows) || row.fault != nil || row.user != rows[i].user || row.backend != rows[i].backend || !row.lastSeen.Equal(rows[i].lastSeen) {
				t.Fatalf("row %d: %+v was read again as %+v", i, rows[min(i, len(rows)-1)], row)
			}
			i++
			return nil
		})
		if err != nil || i != len(rows) {
			t.Fatalf("%d of %d rows are read again, %v", i, len(rows), err)
		}
	})
}
