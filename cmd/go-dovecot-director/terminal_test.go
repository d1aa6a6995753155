package main

import (
	"bytes"
	"io"
	"testing"
)

func TestTerminal(t *testing.T) {
	for text, want := range map[string]string{
		"zoë\tb-1\n\n":            "zoë\tb-1\n\n",
		"\x1b[31mred\r\n":         `\x1b[31mred\r` + "\n",
		"\xff\x00\u202e\u0085":    `\xff\x00\u202e\u0085`,
		"the replacement \ufffd.": "the replacement \ufffd.",
	} {
		var b bytes.Buffer
		if n, err := io.WriteString(terminal{&b}, text); err != nil || n != len(text) || b.String() != want {
			t.Errorf("%q became %q (%d, %v), want %q", text, b.String(), n, err, want)
		}
	}
}
