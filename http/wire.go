package http

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	director "github.com/k-web-s/go-dovecot-director"
)

// decode reads the body of a lookup. Fields that are not known, and a service that is no string, are ignored. The error
// is for the caller: it says what is wrong with the body.
func decode(body []byte) (director.Request, error) {
	if r, ok := decodePlain(body); ok {
		return r, nil
	}
	return decodeJSON(body)
}

// decodeJSON reads any body. encoding/json would put U+FFFD in place of broken UTF-8 and of lone surrogates, and so turn two
// names into one; both are refused here.
func decodeJSON(body []byte) (director.Request, error) {
	if !utf8.Valid(body) {
		return director.Request{}, errors.New("the body is not valid UTF-8")
	}
	var fields map[string]json.RawMessage
	decoder := json.NewDecoder(bytes.NewReader(body))
	if err := decoder.Decode(&fields); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return director.Request{}, errors.New("the body ends too early; send a JSON object with a user")
		}
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return director.Request{}, errors.New("the body is not a JSON object")
		}
		return director.Request{}, fmt.Errorf("the body is not JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return director.Request{}, errors.New("something follows the JSON object")
	}
	var r director.Request
	raw, ok := fields["user"]
	if !ok {
		return r, errors.New("the user is missing")
	}
	if repeated(body, "user") {
		return r, errors.New("the user is there more than once")
	}
	user, ok := text(raw)
	if !ok {
		return r, errors.New("the user is not a string, or not a valid one")
	}
	r.User = user
	r.Session, _ = text(fields["session"])
	if r.Protocol, _ = text(fields["service"]); r.Protocol == "" {
		r.Protocol, _ = text(fields["protocol"])
	}
	return r, nil
}

// repeated reports whether a JSON object, which can be decoded, has a field more than once. encoding/json takes the last.
func repeated(object []byte, name string) bool {
	decoder := json.NewDecoder(bytes.NewReader(object))
	_, _ = decoder.Token() // its brace
	n := 0
	for decoder.More() {
		field, err := decoder.Token()
		if err != nil {
			return false
		}
		if field == name {
			n++
		}
		var value json.RawMessage
		if decoder.Decode(&value) != nil {
			return false
		}
	}
	return n > 1
}

// text returns the JSON string in raw. A string with a lone surrogate counts as none.
func text(raw json.RawMessage) (string, bool) {
	var s *string
	if len(raw) == 0 || json.Unmarshal(raw, &s) != nil || s == nil {
		return "", false
	}
	// U+FFFD in the result that is not in the source stands for something that was broken.
	if bytes.Count(raw, []byte("\uFFFD"))+countEscapes(raw) != bytes.Count([]byte(*s), []byte("\uFFFD")) {
		return "", false
	}
	return *s, true
}

// countEscapes counts the escapes \ufffd in a JSON string.
func countEscapes(raw []byte) int {
	n := 0
	for i := 0; i+5 < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		if raw[i+1] == 'u' && bytes.EqualFold(raw[i+2:i+6], []byte("fffd")) {
			n++
		}
		i++ // what is escaped starts no escape
	}
	return n
}

// appendSuccess appends the answer that names a backend. Dovecot tests proxy and nopassword by presence, so they are
// never sent as false; host must be an IP address (without one, 2.3's login process crashes).
func appendSuccess(b []byte, addr netip.Addr, port uint16, notBefore time.Time) []byte {
	b = append(b, `{"code":`...)
	b = strconv.AppendInt(b, codeOK, 10)
	b = append(b, `,"attributes":{"proxy":true,"nopassword":true,"host":"`...)
	b = addr.Unmap().WithZone("").AppendTo(b)
	b = append(b, '"')
	if port != 0 {
		b = append(b, `,"port":`...)
		b = strconv.AppendUint(b, uint64(port), 10)
	}
	if !notBefore.IsZero() {
		// A string: Lua writes a number of this size with a fraction. Whole seconds, rounded up.
		b = append(b, `,"delay_until":"`...)
		b = strconv.AppendInt(b, notBefore.Add(time.Second-1).Unix(), 10)
		b = append(b, '"')
	}
	return append(b, '}', '}')
}

// failure is the answer with any other code.
type failure struct {
	Code       int    `json:"code"`
	Attributes string `json:"attributes"`
}

func encodeFailure(code int, reason string) []byte {
	b, err := json.Marshal(failure{code, reason})
	if err != nil {
		panic(err) // an int and a string can always be encoded
	}
	return b
}
