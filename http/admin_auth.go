package http

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guard decides who may ask for what.
type guard struct {
	writes, reads func(token string) bool // nil if there are no such tokens
	origins       *http.CrossOriginProtection
}

func newGuard(writes, reads func(token string) bool) guard {
	return guard{writes: writes, reads: reads, origins: http.NewCrossOriginProtection()}
}

// check returns why a request is refused, nil if it is not.
func (g guard) check(r *http.Request) *requestError {
	// Pages in an operator's browser can reach what he can. They cannot read what they are answered, but to look costs something too.
	site := r.Header.Get("Sec-Fetch-Site")
	if err := g.origins.Check(r); err != nil || site != "" && site != "same-origin" && site != "none" {
		return &requestError{http.StatusForbidden, "requests from pages of other sites are refused"}
	}
	if g.writes == nil && g.reads == nil {
		// The name of such a page's site may have been made to mean this machine.
		if !loopbackHost(r.Host) {
			return &requestError{http.StatusForbidden, "without tokens, the API answers to localhost and loopback addresses only; the request is for another host"}
		}
		return nil
	}
	token, ok := bearer(r)
	if !ok {
		return &requestError{http.StatusUnauthorized, "a token is needed: send Authorization: Bearer TOKEN"}
	}
	writes, reads := g.writes != nil && g.writes(token), g.reads != nil && g.reads(token)
	switch {
	case !writes && !reads:
		return &requestError{http.StatusUnauthorized, "the token is not known"}
	case !writes && r.Method != http.MethodGet && r.Method != http.MethodHead:
		return &requestError{http.StatusForbidden, "this token may only read"}
	}
	return nil
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
