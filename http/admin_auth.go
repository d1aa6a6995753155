package http

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guard decides who may ask for what.
type guard struct {
	writers, readers [][sha256.Size]byte
	origins          *http.CrossOriginProtection
}

func newGuard(writers, readers []string) guard {
	return guard{writers: hashed(writers), readers: hashed(readers), origins: http.NewCrossOriginProtection()}
}

func hashed(tokens []string) [][sha256.Size]byte {
	hashes := make([][sha256.Size]byte, len(tokens))
	for i, token := range tokens {
		hashes[i] = sha256.Sum256([]byte(token))
	}
	return hashes
}

// check returns why a request is refused, nil if it is not.
func (g guard) check(r *http.Request) *requestError {
	// Pages in an operator's browser can reach what he can. They cannot read what they are answered, but to look costs something too.
	site := r.Header.Get("Sec-Fetch-Site")
	if err := g.origins.Check(r); err != nil || site != "" && site != "same-origin" && site != "none" {
		return &requestError{http.StatusForbidden, "requests from pages of other sites are refused"}
	}
	if len(g.writers) == 0 && len(g.readers) == 0 {
		// The name of such a page's site may have been made to mean this machine.
		if !loopbackHost(r.Host) {
			return &requestError{http.StatusForbidden, "without tokens, the API answers to localhost and loopback addresses only; the request is for another host"}
		}
		return nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return &requestError{http.StatusUnauthorized, "a token is needed: send Authorization: Bearer TOKEN"}
	}
	hash := sha256.Sum256([]byte(strings.TrimSpace(token)))
	writes, reads := has(g.writers, hash), has(g.readers, hash)
	switch {
	case !writes && !reads:
		return &requestError{http.StatusUnauthorized, "the token is not known"}
	case !writes && r.Method != http.MethodGet && r.Method != http.MethodHead:
		return &requestError{http.StatusForbidden, "this token may only read"}
	}
	return nil
}

// Tokens returns what reports whether a token is one of some. It takes the same time whichever it is, and for none.
func Tokens(tokens ...string) func(token string) bool {
	hashes := hashed(tokens)
	return func(token string) bool { return has(hashes, sha256.Sum256([]byte(token))) }
}

// has takes the same time whichever token it is, and for none.
func has(hashes [][sha256.Size]byte, hash [sha256.Size]byte) bool {
	found := 0
	for _, h := range hashes {
		found |= subtle.ConstantTimeCompare(h[:], hash[:])
	}
	return found == 1
}

// loopbackHost reports whether a Host header, with or without a port, is a name or an address of this machine only.
func loopbackHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return Loopback(strings.Trim(host, "[]"))
}

// Loopback reports whether a host, without a port, is localhost or a loopback address.
func Loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
