package http

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzDecode holds that the fast way of reading a body agrees with the other one.
func FuzzDecode(f *testing.F) {
	for _, body := range []string{
		`{"user":"ada@example.org"}`, `{ "service" : "imap" , "user":"ada" }`, `{"user":"a","user":"b","service":"","protocol":"lmtp"}`,
		`{"protocol":"imap","user":""}`, `{"user":"a"} `, `{"user":"a"}x`, `{"user":"a",}`, `{"user":"\u0061"}`, `{"USER":"a"}`, `{"user":1}`, `{}`, `[]`, "",
		`{"user":"a","service":null,"protocol":"imap"}`, `{"user":"ä"}`, "{\"user\":\"a\x7f\"}", `{"user":"a","x":{"user":"b"}}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		plain, ok := decodePlain(body)
		if !ok {
			return
		}
		if any, err := decodeJSON(body); err != nil || any != plain {
			t.Errorf("%q: %+v, but %+v, %v", body, plain, any, err)
		}
	})
}

// TestRecordedRequestsArePlain holds that the fast way is the one that Dovecot's requests take.
func TestRecordedRequestsArePlain(t *testing.T) {
	recorded, err := filepath.Glob("../testdata/requests/*.json")
	if err != nil || len(recorded) == 0 {
		t.Fatal("no recorded requests", err)
	}
	for _, name := range recorded {
		body, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if r, ok := decodePlain(body); !ok || r.User != "ada@example.org" || r.Protocol == "" {
			t.Errorf("%s: %+v, %v", name, r, ok)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	body := []byte(`{"user":"ada@example.org","service":"imap","session":"hSCb2FBEKoV/AAAB","rip":"192.0.2.77","lip":"192.0.2.10"}`)
	b.Run("plain", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = decodePlain(body)
		}
	})
	b.Run("json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = decodeJSON(body)
		}
	})
}
