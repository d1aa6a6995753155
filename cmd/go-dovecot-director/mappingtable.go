package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// table reads records of fields that a comma or another byte divides, after RFC 4180. It is not encoding/csv, which takes the CR out of a
// CR LF within quotes, reads on to the end of the file for a quote that is missing, and gives up at the first fault.
type table struct {
	r     *bufio.Reader
	comma byte
	lines int // that were read to their end
}

// faulty is a record that cannot be read; the next one can.
type faulty struct{ error }

var errRecordTooLong = fmt.Errorf("it is longer than %d bytes", maxRecord)

// record returns the fields of the next record that is not empty, and the line on which it begins. The error is io.EOF after the last,
// a faulty, or one of reading.
func (t *table) record() (fields []string, line int, err error) {
	line = t.lines + 1
	var field []byte
	var quoted, open bool // the field began with a quote, and that is not closed yet
	for n := 0; ; n++ {
		c, err := t.r.ReadByte()
		end := errors.Is(err, io.EOF)
		switch {
		case err != nil && !end:
			return nil, line, err
		case end && open:
			return nil, line, faulty{errors.New("a quote is opened and never closed")}
		case end && n == 0:
			return nil, line, io.EOF
		case n >= maxRecord:
			return nil, line, t.skip(c, errRecordTooLong)
		case c == '\n' && !end:
			t.lines++
		}
		switch {
		case open && c == '"' && t.next('"'):
			field = append(field, '"')
			_, _ = t.r.Discard(1)
		case open && c == '"':
			open = false
		case open:
			field = append(field, c)
		case !end && c == '\r' && t.next('\n'):
		case !end && c == t.comma:
			fields = append(fields, string(field))
			field, quoted = field[:0], false
		case end || c == '\n':
			if len(fields) == 0 && len(field) == 0 && !quoted { // an empty line
				n, line = -1, t.lines+1
				continue
			}
			return append(fields, string(field)), line, nil
		case quoted:
			return nil, line, t.skip(c, fmt.Errorf("after a closing quote stands %q", c))
		case c == '"' && len(field) > 0:
			return nil, line, t.skip(c, errors.New(`a quote stands within a field; write the field in quotes, and "" for a quote in it`))
		case c == '"':
			quoted, open = true, true
		default:
			field = append(field, c)
		}
	}
}

// next reports whether b comes next, or nothing does where a line may end.
func (t *table) next(b byte) bool {
	next, err := t.r.Peek(1)
	if err != nil {
		return b == '\n'
	}
	return next[0] == b
}

// skip reads to the end of the line, of which c was read, and makes a faulty of why.
func (t *table) skip(c byte, why error) error {
	for c != '\n' {
		var err error
		if c, err = t.r.ReadByte(); err != nil {
			return faulty{why} // whatever it is, the next read meets it again
		}
	}
	t.lines++
	return faulty{why}
}
