package doveadm

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	director "github.com/k-web-s/go-dovecot-director"
)

// number4 is what inet_aton takes for an IPv4 address: up to four numbers, decimal, octal or hexadecimal. It does not look
// at what follows a blank; what follows a slash is the network's size.
var number4 = regexp.MustCompile(`^(0[xX][0-9a-fA-F]+|[0-9]+)(\.(0[xX][0-9a-fA-F]+|[0-9]+)){0,3}([\s/]|$)`)

// checkName returns an ErrPattern if doveadm would not take name as the name of one user.
func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: the name is empty", director.ErrPattern)
	case strings.ContainsAny(name, "*?"):
		return fmt.Errorf("%w: %.255q holds * or ?", director.ErrPattern, name)
	case strings.ContainsRune(name, utf8.RuneError):
		return fmt.Errorf("%w: %.255q is not valid text", director.ErrPattern, name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w: %.255q holds control characters", director.ErrPattern, name)
	case isAddress(name):
		return fmt.Errorf("%w: %.255q reads as an address or a network", director.ErrPattern, name)
	}
	return nil
}

// isAddress reports whether Dovecot's net_parse_range could take name for an address or a network. It errs on the safe side.
func isAddress(name string) bool {
	if number4.MatchString(name) {
		return true
	}
	address, _, _ := strings.Cut(name, "/")
	_, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(address, "["), "]"))
	return err == nil
}
