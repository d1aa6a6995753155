package http

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxOrder is the longest body of an order in bytes.
	maxOrder = 16 << 10
	// Texts of operators in bytes. They are kept in the journal, and shown on terminals.
	maxActor = 255
	maxNote  = 1000
	maxName  = 253

	// actorHeader says who orders something.
	actorHeader = "X-Actor"
	// unnamedActor is who did not say.
	unnamedActor = "api"
)

// requestError is a request that makes no sense. Nothing was done.
type requestError struct {
	status  int
	message string
}

func (e *requestError) Error() string { return e.message }

func badRequest(format string, args ...any) error {
	return &requestError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// document is JSON that is encoded already.
type document []byte

// answer writes an answer.
func answer(w http.ResponseWriter, status int, what any) {
	body, ready := what.(document)
	if !ready {
		var err error
		if body, err = json.Marshal(what); err != nil {
			panic(err) // reports can always be encoded
		}
		body = append(body, '\n')
	}
	write(w, status, body)
}

// readOrder reads who orders what. An empty body orders nothing in particular.
func readOrder[T any](w http.ResponseWriter, r *http.Request) (order T, actor string, err error) {
	if actor, err = readActor(r.Header); err != nil {
		return order, "", err
	}
	if _, err := readQuery(r); err != nil {
		return order, "", err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxOrder))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return order, "", &requestError{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is longer than %d KiB", maxOrder>>10)}
		}
		return order, "", badRequest("the body cannot be read")
	}
	body = bytes.TrimSpace(body)
	if len(body) == 0 {
		return order, actor, nil
	}
	// A page in a browser could send any other type without asking.
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != contentType[0] {
		return order, "", &requestError{http.StatusUnsupportedMediaType, "the body must be JSON: send Content-Type: application/json"}
	}
	return order, actor, decodeOrder(body, &order)
}

func readNote(w http.ResponseWriter, r *http.Request) (note, actor string, err error) {
	order, actor, err := readOrder[noteOrder](w, r)
	if err == nil {
		err = checkNote(order.Note)
	}
	return order.Note, actor, err
}

// decodeOrder takes one JSON object with known fields.
func decodeOrder(body []byte, order any) error {
	if body[0] != '{' {
		return badRequest("the body is not a JSON object")
	}
	if err := checkObject(body); err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(order); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return badRequest("the body: a JSON %.60s cannot be the value of %q", wrong.Value, wrong.Field)
		}
		return badRequest("the body: %.90s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return badRequest("the body is more than one JSON object")
	}
	return nil
}

// checkObject refuses what encoding/json would pass over: broken text, which it repairs, and one field that is there twice, or in another
// case, of which it takes the last. What else is wrong it leaves to the decoder.
func checkObject(body []byte) error {
	if !utf8.Valid(body) {
		return badRequest("the body is not valid UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	if _, err := decoder.Token(); err != nil {
		return nil
	}
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil
		}
		name, _ := token.(string)
		if seen[name] {
			return badRequest("the body: %.60q is there more than once", name)
		}
		// encoding/json takes some letters outside ASCII for those of a name, too.
		if strings.ContainsFunc(name, func(c rune) bool { return c < 'a' || c > 'z' }) {
			return badRequest("the body: unknown field %.60q", name)
		}
		seen[name] = true
		var value json.RawMessage
		if decoder.Decode(&value) != nil {
			return nil
		}
		if value[0] == '"' {
			if _, ok := text(value); !ok {
				return badRequest("the body: the value of %q is not valid text", name)
			}
		}
	}
	return nil
}

func readActor(h http.Header) (string, error) {
	values := h.Values(actorHeader)
	switch {
	case len(values) == 0 || len(values) == 1 && values[0] == "":
		return unnamedActor, nil
	case len(values) > 1 || len(values[0]) > maxActor || !printable(values[0]):
		return "", badRequest("%s is not one header of printable text in UTF-8 of at most %d bytes", actorHeader, maxActor)
	}
	return values[0], nil
}

func checkNote(note string) error {
	if len(note) > maxNote || !printable(note) {
		return badRequest("note: it is not one line of printable text of at most %d bytes", maxNote)
	}
	return nil
}

// checkName checks the name of a backend or a replica.
func checkName(what, name string) error {
	if err := CheckName(name); err != nil {
		return badRequest("%s: %v", what, err)
	}
	return nil
}

// CheckName returns what is wrong with the name of a backend or a replica.
func CheckName(name string) error {
	if name == "" || len(name) > maxName || !printable(name) {
		return fmt.Errorf("%.60q is not a name: printable text of at most %d bytes", name, maxName)
	}
	return nil
}

func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) })
}

// query are the values behind the question mark.
type query struct{ values url.Values }

// readQuery reads the values of these names, each once at most, and refuses others: a misspelt one would be passed over.
func readQuery(r *http.Request, known ...string) (query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query{}, badRequest("the query cannot be read: %v", err)
	}
	for name, all := range values {
		switch {
		case !slices.Contains(known, name):
			return query{}, badRequest("the query: %.60q is not known here", name)
		case len(all) > 1:
			return query{}, badRequest("the query: %s is there more than once", name)
		}
	}
	return query{values}, nil
}

// flag reads true or false. An empty value is as good as none, as with all.
func (q query) flag(name string) (bool, error) {
	switch text := q.values.Get(name); text {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, badRequest("%s: %.60q is not known; write true or false", name, text)
	}
}

func (q query) number(name string, preset, least, most int64) (int64, error) {
	text := q.values.Get(name)
	if text == "" {
		return preset, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, badRequest("%s: %.60q is not a whole number from %d to %d", name, text, least, most)
	}
	return n, nil
}
