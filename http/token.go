package http

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	// leastToken is the least length of a token in bytes: one that can be guessed protects nothing.
	leastToken = 16
	// tokensEvery is how long a token may be accepted still that was taken out of its file. A new one is accepted at once: what is not known is
	// looked for in the file.
	tokensEvery = time.Second
)

// ReadTokens returns the tokens of a file, which holds one in each line. An error never quotes what is in it.
func ReadTokens(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var tokens []string
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		token := strings.TrimSpace(line)
		if token == "" {
			continue
		}
		if len(token) < leastToken || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return nil, fmt.Errorf("line %d of %s is not a token of at least %d printable ASCII characters; write each token into one line of its own", number, path, leastToken)
		}
		tokens = append(tokens, token)
	}
	if tokens == nil {
		return nil, fmt.Errorf("%s holds no token; write one into it, of at least %d printable ASCII characters", path, leastToken)
	}
	return tokens, nil
}

// TokenFile knows the tokens of a file, which is read again when it changes. It is safe for concurrent use.
type TokenFile struct{ file *reloaded[hashes] }

// hashes are those of tokens.
type hashes [][sha256.Size]byte

// OpenTokens reads a file of tokens. As long as it cannot be read again after a change, the tokens before are in force, and failed is told,
// which may be nil. A nil log discards.
func OpenTokens(path string, log *slog.Logger, failed func()) (*TokenFile, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := &TokenFile{&reloaded[hashes]{paths: []string{path}, every: tokensEvery, log: log, failed: failed, read: func() (hashes, error) {
		tokens, err := ReadTokens(path)
		if err != nil {
			return nil, err
		}
		all := make(hashes, len(tokens))
		for i, token := range tokens {
			all[i] = sha256.Sum256([]byte(token))
		}
		return all, nil
	}}}
	_, err := f.file.current()
	return f, err
}

// Has reports whether the file holds a token. It takes the same time whichever token it is, and the same for all that it does not hold.
func (f *TokenFile) Has(token string) bool {
	hash := sha256.Sum256([]byte(token))
	known, _ := f.file.current() // they were read before
	if known.have(hash) {
		return true
	}
	known, _ = f.file.fresh() // it may have been added just now
	return known.have(hash)
}

func (h hashes) have(hash [sha256.Size]byte) bool {
	found := 0
	for i := range h {
		found |= subtle.ConstantTimeCompare(h[i][:], hash[:])
	}
	return found == 1
}

// bearer returns the token that a request carries.
func bearer(r *http.Request) (token string, ok bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(token), strings.EqualFold(scheme, "Bearer")
}

// askForToken marks an answer as one to a request without a token that is known.
func askForToken(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="go-dovecot-director"`)
}
