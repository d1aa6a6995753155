package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
)

// answer is what a stand-in for the director says to one lookup.
type answer func(w http.ResponseWriter, r *http.Request)

// body answers 200 with this text.
func body(text string) answer {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }
}

// status answers with this status and what would bounce mail if the status were not looked at.
func status(code int, header ...string) answer {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		io.WriteString(w, `{"code":-3,"attributes":"no such mailbox"}`)
	}
}

// success is the body of a good answer with more fields, as JSON behind a comma.
func success(host, more string) string {
	return fmt.Sprintf(`{"code":1,"attributes":{"proxy":true,"nopassword":true,"host":%q%s}}`, host, more)
}

// hostile are answers that no director should give. Dovecot by itself makes a wrong password of some, a local login or
// an endless wait of others, and crashes on the rest. With the shipped script all of them are temporary failures.
var hostile = map[string]answer{
	"status 201":                            status(201),
	"status 204":                            func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
	"status 302 to nowhere":                 status(302, "Location", "/elsewhere"),
	"status 307 without a place":            status(307),
	"status 400":                            status(400),
	"status 401":                            status(401),
	"status 403":                            status(403),
	"status 404":                            status(404),
	"status 408":                            status(408),
	"status 429 with Retry-After":           status(429, "Retry-After", "1"),
	"status 500":                            status(500),
	"status 502":                            status(502),
	"status 503":                            status(503),
	"status 503 with Retry-After":           status(503, "Retry-After", "1"),
	"status 503 with a distant Retry-After": status(503, "Retry-After", "50"),
	"status 504":                            status(504),
	"no body":                               body(""),
	"text":                                  body("everything is fine"),
	"half a body":                           body(`{"code":1,"attributes":{"proxy":true`),
	"a body shorter than announced": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "4000")
		io.WriteString(w, `{"code":-3,"attributes":"no such`)
	},
	"a megabyte of brackets":               body(strings.Repeat("[", 1<<20)),
	"null":                                 body("null"),
	"a number":                             body("1"),
	"a string":                             body(`"1"`),
	"a list":                               body("[1,2]"),
	"an empty object":                      body("{}"),
	"a connection that is cut":             func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	"silence":                              func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	"a code that is text":                  body(strings.Replace(success("127.0.0.1", ""), `"code":1`, `"code":"1"`, 1)),
	"a code that is true":                  body(strings.Replace(success("127.0.0.1", ""), `"code":1`, `"code":true`, 1)),
	"a code that is null":                  body(strings.Replace(success("127.0.0.1", ""), `"code":1`, `"code":null`, 1)),
	"a code with a fraction":               body(strings.Replace(success("127.0.0.1", ""), `"code":1`, `"code":1.5`, 1)),
	"a code above the table":               body(`{"code":2,"attributes":"x"}`),
	"a code below the table":               body(`{"code":-7,"attributes":"x"}`),
	"a code far below the table":           body(`{"code":-2147483649,"attributes":"x"}`),
	"a code beyond all integers":           body(`{"code":1e300,"attributes":"x"}`),
	"an internal failure":                  body(`{"code":-1,"attributes":"please wait"}`),
	"an internal failure with an object":   body(`{"code":-1,"attributes":{}}`),
	"an internal failure with null":        body(`{"code":-1,"attributes":null}`),
	"an internal failure and nothing else": body(`{"code":-1}`),
	"code 0 with an object":                body(`{"code":0,"attributes":{}}`),
	"code -2 with an object":               body(`{"code":-2,"attributes":{}}`),
	"code -2 and nothing else":             body(`{"code":-2}`),
	"code -3 with an object":               body(`{"code":-3,"attributes":{}}`),
	"code -3 with null":                    body(`{"code":-3,"attributes":null}`),
	"code -3 and nothing else":             body(`{"code":-3}`),
	"code -6, next passdb":                 body(`{"code":-6,"attributes":"ask another"}`),
	"success and nothing else":             body(`{"code":1}`),
	"success with null":                    body(`{"code":1,"attributes":null}`),
	"success with text":                    body(`{"code":1,"attributes":"proxy=y nopassword=y host=127.0.0.1"}`),
	"success with a list":                  body(`{"code":1,"attributes":["proxy","nopassword"]}`),
	"success with an empty object":         body(`{"code":1,"attributes":{}}`),
	"success without nopassword":           body(`{"code":1,"attributes":{"proxy":true,"host":"127.0.0.1"}}`),
	"success without proxy":                body(`{"code":1,"attributes":{"nopassword":true,"host":"127.0.0.1"}}`),
	"success without host":                 body(`{"code":1,"attributes":{"proxy":true,"nopassword":true}}`),
	"proxy is false":                       body(`{"code":1,"attributes":{"proxy":false,"nopassword":true,"host":"127.0.0.1"}}`),
	"nopassword is null":                   body(`{"code":1,"attributes":{"proxy":true,"nopassword":null,"host":"127.0.0.1"}}`),
	"host is empty":                        body(success("", "")),
	"host is a name":                       body(success("backend.example.org", "")),
	"host is blank":                        body(success(" ", "")),
	"host has more behind a NUL":           body(`{"code":1,"attributes":{"proxy":true,"nopassword":true,"host":"\u0000127.0.0.1"}}`),
	"host is null":                         body(`{"code":1,"attributes":{"proxy":true,"nopassword":true,"host":null}}`),
	"host is a number":                     body(`{"code":1,"attributes":{"proxy":true,"nopassword":true,"host":127}}`),
	"host is true":                         body(`{"code":1,"attributes":{"proxy":true,"nopassword":true,"host":true}}`),
	"host is a list":                       body(`{"code":1,"attributes":{"proxy":true,"nopassword":true,"host":["127.0.0.1"]}}`),
	"nologin is false":                     body(success("127.0.0.1", `,"nologin":false`)),
	"port is 0":                            body(success("127.0.0.1", `,"port":0`)),
	"port is 70000":                        body(success("127.0.0.1", `,"port":70000`)),
	"port is text":                         body(success("127.0.0.1", `,"port":"imap"`)),
	"port is negative":                     body(success("127.0.0.1", `,"port":-143`)),
	"port has a fraction":                  body(success("127.0.0.1", `,"port":143.5`)),
	"an attribute is an object":            body(success("127.0.0.1", `,"delay_until":{}`)),
	"an attribute's name is empty":         body(success("127.0.0.1", `,"":"x"`)),
	"an attribute has line breaks":         body(success("127.0.0.1", `,"reason":"a\r\nt1 OK"`)),
}
