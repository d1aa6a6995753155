package director

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxUserLength is the longest canonical user name in characters: the width of the column that holds it.
const MaxUserLength = 255

// Template is a parsed Dovecot variable template of one user name: %u (whole name), %n (the part before the first @),
// %d (the part after it), %% and literal text, with the modifiers L (lower-case) and U (upper-case), as in %Lu or
// %Ln@%Ld. The rules are those of Dovecot 2.3's auth_username_format and director_username_hash
// (src/auth/auth-request-var-expand.c, src/lib/var-expand.c): letters outside ASCII keep their case, a name without @
// has an empty %d. The zero value yields the empty string.
type Template struct {
	source string
	parts  []templatePart
}

type templatePart struct {
	literal  string
	variable byte // 'u', 'n', 'd', or 0 for a literal
	modifier byte // 'L', 'U', or 0
}

// ParseTemplate parses a template. The error names the offending part and what may stand there.
func ParseTemplate(source string) (Template, error) {
	t := Template{source: source}
	if source == "" {
		return t, fmt.Errorf("the template is empty; the usual one is %%Lu")
	}
	if !utf8.ValidString(source) || strings.IndexByte(source, 0) >= 0 {
		return t, fmt.Errorf("the template %q is not text", source)
	}
	rest := source
	for rest != "" {
		literal, after, found := strings.Cut(rest, "%")
		if literal != "" {
			t.parts = append(t.parts, templatePart{literal: literal})
		}
		if !found {
			break
		}
		part, tail, err := parseVariable(after)
		if err != nil {
			return Template{}, fmt.Errorf("template %q: %w", source, err)
		}
		t.parts = append(t.parts, part)
		rest = tail
	}
	for _, p := range t.parts {
		if p.variable != 0 {
			return t, nil
		}
	}
	return Template{}, fmt.Errorf("template %q has no variable: all users would get one name; use %%u, %%n or %%d", source)
}

// parseVariable parses what follows a percent sign.
func parseVariable(s string) (part templatePart, rest string, err error) {
	if strings.HasPrefix(s, "%") {
		return templatePart{literal: "%"}, s[1:], nil
	}
	if s != "" && (s[0] == 'L' || s[0] == 'U') {
		part.modifier, s = s[0], s[1:]
	}
	if s == "" {
		return part, "", fmt.Errorf("it ends inside a variable; write %%u, %%n, %%d (with L or U after the %% for the case) or %%%%")
	}
	switch s[0] {
	case 'u', 'n', 'd':
		part.variable = s[0]
		return part, s[1:], nil
	}
	c, _ := utf8.DecodeRuneInString(s)
	return part, "", fmt.Errorf("%q is not known; write %%u, %%n, %%d (with L or U after the %% for the case) or %%%%", "%"+string(c))
}

// String returns the template as it was written.
func (t Template) String() string { return t.source }

// Expand applies the template to a user name.
func (t Template) Expand(user string) string {
	if len(t.parts) == 1 {
		return t.parts[0].expand(user)
	}
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.expand(user))
	}
	return b.String()
}

func (p templatePart) expand(user string) string {
	var s string
	switch p.variable {
	case 'u':
		s = user
	case 'n':
		s, _, _ = strings.Cut(user, "@")
	case 'd':
		_, s, _ = strings.Cut(user, "@")
	default:
		return p.literal
	}
	switch p.modifier {
	case 'L':
		return mapASCII(s, 'A', 'Z')
	case 'U':
		return mapASCII(s, 'a', 'z')
	}
	return s
}

// mapASCII flips the case of the letters between first and last. It does not allocate when there is none.
func mapASCII(s string, first, last byte) string {
	for i := range len(s) {
		if s[i] >= first && s[i] <= last {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if b[j] >= first && b[j] <= last {
					b[j] ^= 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// UserFormat turns the names that proxies send into canonical users and hash keys.
type UserFormat struct {
	// Name makes the canonical name, under which the mapping is stored. Dovecot's default is %Lu.
	Name Template
	// Hash makes what the ring hashes, from the canonical name. %Ld keeps the users of one domain together.
	Hash Template
}

// User is a canonical user.
type User struct {
	// Name is the canonical name.
	Name string
	// Key is what the ring hashes: the expanded hash template, or Name where that is empty (a user without a domain
	// under %Ld), so that such users do not all fall on one backend.
	Key string
}

// The kinds of InvalidUserError.
const (
	UserEmpty    = "empty"
	UserTooLong  = "too_long"
	UserNUL      = "nul"
	UserEncoding = "encoding"
)

// Canonical checks a name as a proxy sent it and makes the user of it. The error is an *InvalidUserError; what it
// refuses could not be stored, or would be stored as somebody else. A director cannot rely on Dovecot's
// auth_username_chars for that: sites change it.
func (f UserFormat) Canonical(raw string) (User, error) {
	if raw == "" {
		return User{}, &InvalidUserError{Kind: UserEmpty, Detail: "the name is empty"}
	}
	if !utf8.ValidString(raw) {
		return User{}, &InvalidUserError{Kind: UserEncoding, Detail: "the name is not valid UTF-8"}
	}
	if strings.IndexByte(raw, 0) >= 0 {
		return User{}, &InvalidUserError{Kind: UserNUL, Detail: "the name holds a NUL character"}
	}
	name := f.Name.Expand(raw)
	if name == "" {
		return User{}, &InvalidUserError{Kind: UserEmpty, Detail: fmt.Sprintf("the name is empty after the user name format %s", f.Name)}
	}
	if n := utf8.RuneCountInString(name); n > MaxUserLength {
		return User{}, &InvalidUserError{Kind: UserTooLong, Detail: fmt.Sprintf("the name has %d characters, %d is the most", n, MaxUserLength)}
	}
	key := f.Hash.Expand(name)
	if key == "" {
		key = name
	}
	return User{Name: name, Key: key}, nil
}

// CaseOnly reports whether canonical names differ in the case of letters at most from those that proxies send.
func (f UserFormat) CaseOnly() bool {
	return len(f.Name.parts) == 1 && f.Name.parts[0].variable == 'u'
}
