package http

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// FuzzAdmin holds for any name, query, body and header on every path that either an error of the document comes back, in one line, and
// nobody was asked for anything, or the operator was asked once, for what the request says to the letter.
func FuzzAdmin(f *testing.F) {
	for i, verb := range adminVerbs {
		path, query, _ := strings.Cut(verb.path, "?")
		name := ""
		if strings.Contains(verb.route, "{") {
			name, _ = url.PathUnescape(strings.Split(path, "/")[2])
		}
		f.Add(i, name, query, "application/json", "eve@desk", dated(verb.body))
	}
	d := readDocument(f)
	f.Fuzz(func(t *testing.T, number int, name, query, kind, actor, body string) {
		d := openAPIDocument{t, d.root}
		verb := adminVerbs[uint(number)%uint(len(adminVerbs))]
		path := adminRoot + strings.NewReplacer("{user}", url.PathEscape(name), "{backend}", url.PathEscape(name), "{replica}", url.PathEscape(name)).Replace(verb.route)
		r, err := http.NewRequestWithContext(t.Context(), verb.method, "http://127.0.0.1:8082"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.URL.RawQuery = query
		r.Header.Set("Content-Type", kind)
		r.Header[actorHeader] = []string{actor}
		o := newOperator(t)
		w := httptest.NewRecorder()
		NewAdmin(AdminConfig{Operator: o}).ServeHTTP(w, r)

		if strings.Contains(verb.route, "{") && (name == "" || name == "." || name == "..") {
			if w.Code != http.StatusNotFound || len(o.calls) > 0 {
				t.Errorf("%s: %d %s, asked %q", path, w.Code, w.Body, o.calls)
			}
			return
		}
		if err := d.check(verb.method, adminRoot+verb.route, w.Code, w.Body.Bytes()); err != nil {
			t.Fatal(err)
		}
		if w.Code/100 != 2 {
			var refused errorAnswer
			if err := json.Unmarshal(w.Body.Bytes(), &refused); err != nil || refused.Error == "" || len(refused.Error) > 1000 || !printable(refused.Error) {
				t.Errorf("%s: %d %.2000q", path, w.Code, w.Body)
			}
			if len(o.calls) > 0 {
				t.Errorf("%s: %d %s, but asked %q", path, w.Code, w.Body, o.calls)
			}
			return
		}
		if verb.call == "" {
			return
		}
		if len(o.calls) != 1 {
			t.Fatalf("%s: %d %s, asked %q", path, w.Code, w.Body, o.calls)
		}
		if verb.method == http.MethodGet {
			return
		}
		if actor != "" && !strings.Contains(o.calls[0], actor) && !strings.Contains(o.calls[0], strings.Trim(strconv.Quote(actor), `"`)) {
			t.Errorf("%s by %q: asked %q", path, actor, o.calls)
		}
		known, _ := d.fields(verb.method, adminRoot+verb.route)
		for i, field := range fieldsOf(t, body) {
			if !slices.Contains(known, field) || slices.Contains(fieldsOf(t, body)[:i], field) {
				t.Errorf("%s %s: field %q was taken, asked %q", path, body, field, o.calls)
			}
		}
	})
}

// fields are what the document lets a body hold.
func (d openAPIDocument) fields(method, path string) (known []string, ok bool) {
	body := d.follow(d.operation(method, path)["requestBody"])
	content, _ := body["content"].(object)
	media, _ := content["application/json"].(object)
	properties, ok := d.follow(media["schema"])["properties"].(object)
	for name := range properties {
		known = append(known, name)
	}
	return known, ok
}

// fieldsOf are the fields of a body that was taken, as they stand there.
func fieldsOf(t *testing.T, body string) (names []string) {
	if strings.TrimSpace(body) == "" {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader([]byte(body)))
	if _, err := decoder.Token(); err != nil {
		t.Fatal(err)
	}
	for decoder.More() {
		name, err := decoder.Token()
		var value json.RawMessage
		if err == nil {
			err = decoder.Decode(&value)
		}
		if err != nil {
			t.Fatalf("%s was taken: %v", body, err)
		}
		names = append(names, name.(string))
	}
	return names
}
