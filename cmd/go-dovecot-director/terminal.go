package main

import (
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// terminal writes text so that whoever reads it on a terminal is not at its mercy: names of users, backends and files may hold what
// terminals obey. Lines and tabs stay.
type terminal struct{ io.Writer }

// Write implements io.Writer. A character is never split over two writes: all that is written here is whole texts.
func (t terminal) Write(b []byte) (int, error) {
	text := string(b)
	if !strings.ContainsFunc(text, obeyed) && utf8.ValidString(text) {
		return t.Writer.Write(b)
	}
	if _, err := io.WriteString(t.Writer, harmless(text)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// obeyed reports characters that terminals do not just show.
func obeyed(c rune) bool { return c != '\n' && c != '\t' && c != ' ' && !unicode.IsPrint(c) }

// harmless writes them as Go does in a string.
func harmless(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		c, n := utf8.DecodeRuneInString(text)
		switch {
		case c == utf8.RuneError && n == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(text[0])+0x100, 16)[1:])
		case obeyed(c):
			quoted := strconv.QuoteRune(c)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteString(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}
