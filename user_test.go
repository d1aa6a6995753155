package director_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	director "github.com/k-web-s/go-dovecot-director"
)

func template(tb testing.TB, source string) director.Template {
	tb.Helper()
	t, err := director.ParseTemplate(source)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func TestTemplateExpandsAsDovecotDoes(t *testing.T) {
	for _, tc := range []struct{ template, user, want string }{
		{"%u", "Ada@Example.ORG", "Ada@Example.ORG"},
		{"%Lu", "Ada@Example.ORG", "ada@example.org"},
		{"%Uu", "Ada@Example.ORG", "ADA@EXAMPLE.ORG"},
		{"%Ln", "Ada@Example.ORG", "ada"},
		{"%Ld", "Ada@Example.ORG", "example.org"},
		{"%Ld", "ada", ""},
		{"%n", "ada", "ada"},
		{"%Ln@%Ld", "Ada@Example.ORG", "ada@example.org"},
		{"%n+%d%%", "ada@b@c", "ada+b@c%"},
		{"%Lu", "ÄDA@example.org", "Äda@example.org"},
		{"%Lu", "ada", "ada"},
	} {
		if got := template(t, tc.template).Expand(tc.user); got != tc.want {
			t.Errorf("%s of %q is %q, want %q", tc.template, tc.user, got, tc.want)
		}
	}
}

func TestTemplateErrorsNameTheFault(t *testing.T) {
	for source, want := range map[string]string{
		"":           "empty",
		"%":          "ends inside",
		"%L":         "ends inside",
		"%x":         `"%x" is not known`,
		"%{user}":    `"%{" is not known`,
		"%Hu":        `"%H" is not known`,
		"ada":        "no variable",
		"100%%":      "no variable",
		"\xc2%u":     "not text",
		"\x00%u":     "not text",
		"%u and %LX": `"%X" is not known`,
	} {
		if _, err := director.ParseTemplate(source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", source, err, want)
		}
	}
}

func TestCanonical(t *testing.T) {
	long := strings.Repeat("ä", 243) + "@example.org" // 255 characters, 498 bytes
	for name, tc := range map[string]struct{ format, hash, raw, user, key, kind string }{
		"the usual name is lower-cased":                  {"%Lu", "%Lu", "Ada@Example.org", "ada@example.org", "ada@example.org", ""},
		"a domain can be kept together":                  {"%Lu", "%Ld", "Ada@Example.org", "ada@example.org", "example.org", ""},
		"a name without domain is its own key":           {"%Lu", "%Ld", "ada", "ada", "ada", ""},
		"a name of 255 characters fits":                  {"%Lu", "%Lu", long, long, long, ""},
		"a longer one does not":                          {"%Lu", "%Lu", "x" + long, "", "", director.UserTooLong},
		"a long name that the format makes short fits":   {"%Ln", "%Lu", "ada@" + strings.Repeat("x", 300), "ada", "ada", ""},
		"an empty name is refused":                       {"%Lu", "%Lu", "", "", "", director.UserEmpty},
		"a name that the format makes empty is refused":  {"%Ld", "%Lu", "ada", "", "", director.UserEmpty},
		"NUL is refused, PostgreSQL cannot store it":     {"%Lu", "%Lu", "ada\x00@example.org", "", "", director.UserNUL},
		"NUL in a part that is cut off is refused too":   {"%Ln", "%Lu", "ada@\x00", "", "", director.UserNUL},
		"broken UTF-8 is refused":                        {"%Lu", "%Lu", "ada\xff", "", "", director.UserEncoding},
		"Turkish letters have no case here":              {"%Lu", "%Lu", "\u0130I\u0131@x", "\u0130i\u0131@x", "\u0130i\u0131@x", ""},
		"nor have Greek ones, final or not":              {"%Lu", "%Lu", "\u03a3\u03c3\u03c2", "\u03a3\u03c3\u03c2", "\u03a3\u03c3\u03c2", ""},
		"what looks alike is not made one: NFC":          {"%Lu", "%Lu", "\u00e9", "\u00e9", "\u00e9", ""},
		"what looks alike is not made one: NFD":          {"%Lu", "%Lu", "e\u0301", "e\u0301", "e\u0301", ""},
		"the Kelvin sign is no K":                        {"%Lu", "%Lu", "\u212aK", "\u212ak", "\u212ak", ""},
		"255 characters of four bytes fit":               {"%Lu", "%Lu", strings.Repeat("\U0001f600", 255), strings.Repeat("\U0001f600", 255), strings.Repeat("\U0001f600", 255), ""},
		"a combining character is one of the 255":        {"%Lu", "%Lu", strings.Repeat("e\u0301", 128), "", "", director.UserTooLong},
		"a slash in two bytes is no UTF-8":               {"%Lu", "%Lu", "a\xc0\xafb", "", "", director.UserEncoding},
		"nor is half a pair of UTF-16":                   {"%Lu", "%Lu", "a\xed\xa0\x80", "", "", director.UserEncoding},
		"nor is what lies beyond Unicode":                {"%Lu", "%Lu", "a\xf4\x90\x80\x80", "", "", director.UserEncoding},
		"quotes, percent and backslash are just letters": {"%Lu", "%Lu", `a'b"c%d\e`, `a'b"c%d\e`, `a'b"c%d\e`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := director.UserFormat{Name: template(t, tc.format), Hash: template(t, tc.hash)}
			user, err := f.Canonical(tc.raw)
			var invalid *director.InvalidUserError
			if errors.As(err, &invalid); (invalid == nil) != (tc.kind == "") || invalid != nil && invalid.Kind != tc.kind {
				t.Fatalf("error %v, want kind %q", err, tc.kind)
			}
			if user.Name != tc.user || user.Key != tc.key {
				t.Errorf("got %+v, want name %q and key %q", user, tc.user, tc.key)
			}
		})
	}
}

func TestCanonicalDoesNotAllocateForALowerCaseName(t *testing.T) {
	f := director.UserFormat{Name: template(t, "%Lu"), Hash: template(t, "%Lu")}
	if n := testing.AllocsPerRun(100, func() { _, _ = f.Canonical("ada@example.org") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzCanonical holds for any template and name that what is accepted can be stored; and for %Lu that it stays the same when it is asked
// for under its canonical name, and differs from what the proxy sent in the case of ASCII letters only: no two users become one.
func FuzzCanonical(f *testing.F) {
	f.Add("%Lu", "Ada@Example.org")
	f.Add("%Ln@%Ld", "a@b@c")
	f.Add("%%%u", "\xff\x00")
	f.Fuzz(func(t *testing.T, source, raw string) {
		parsed, err := director.ParseTemplate(source)
		if err != nil {
			if text := err.Error(); strings.ContainsFunc(text, unicode.IsControl) || !utf8.ValidString(text) {
				t.Errorf("%q: error %q", source, text)
			}
			return
		}
		if parsed.String() != source {
			t.Errorf("%q is written %q", source, parsed)
		}
		format := director.UserFormat{Name: parsed, Hash: parsed}
		user, err := format.Canonical(raw)
		if err != nil {
			invalid, ok := errors.AsType[*director.InvalidUserError](err)
			if kinds := []string{director.UserEmpty, director.UserTooLong, director.UserNUL, director.UserEncoding}; !ok || !slices.Contains(kinds, invalid.Kind) || user != (director.User{}) {
				t.Errorf("%q of %q made %+v, %v", source, raw, user, err)
			}
			if strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("%q of %q: error %q", source, raw, err)
			}
			return
		}
		if user.Name == "" || user.Key == "" || !utf8.ValidString(user.Name) || strings.ContainsRune(user.Name, 0) || utf8.RuneCountInString(user.Name) > 255 {
			t.Errorf("%q of %q made %+v", source, raw, user)
		}
		if again, _ := format.Canonical(raw); again != user {
			t.Errorf("%q of %q made %+v and %+v", source, raw, user, again)
		}
		if !format.CaseOnly() {
			return
		}
		if again, err := format.Canonical(user.Name); err != nil || again != user {
			t.Errorf("%q of %q made %+v, and of that %+v, %v", source, raw, user, again, err)
		}
		if len(user.Name) != len(raw) {
			t.Fatalf("%q of %q made %q", source, raw, user.Name)
		}
		for i := range len(raw) {
			if a, b := raw[i], user.Name[i]; a != b && (a^b != 'a'-'A' || a|0x20 < 'a' || a|0x20 > 'z') {
				t.Errorf("%q of %q made %q", source, raw, user.Name)
			}
		}
	})
}
