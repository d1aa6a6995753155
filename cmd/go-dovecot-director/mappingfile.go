package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

// mappingRow is one row of a mapping file, as it stands there.
type mappingRow struct {
	line          int // on which it begins
	user, backend string
	lastSeen      time.Time // zero when the file does not say
	nameless      bool      // Dovecot knows the user's hash only
	fault         error     // why the row cannot be read; the rest of it is missing then
}

// dovecotUnknown is what Dovecot's Director calls a user whom nobody has named.
const dovecotUnknown = "<unknown>"

// maxRecord is the longest row in bytes: a quote that is never closed must not read the whole file into memory.
const maxRecord = 64 << 10

// readMappings reads a mapping: CSV or tab-separated with a header or without, or what 'doveadm director map' prints. It calls
// each with every row; a row that cannot be read has a fault, and the next one is read all the same. An error of each ends it.
func readMappings(r io.Reader, each func(mappingRow) error) error {
	t := &table{r: bufio.NewReaderSize(r, maxRecord)}
	start, err := t.r.Peek(maxRecord)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if bytes.HasPrefix(start, []byte("\xff\xfe")) || bytes.HasPrefix(start, []byte("\xfe\xff")) {
		return errors.New("it is UTF-16; save it as UTF-8")
	}
	if rest, found := bytes.CutPrefix(start, []byte("\ufeff")); found {
		start = rest
		_, _ = t.r.Discard(len("\ufeff"))
	}
	start = bytes.TrimLeft(start, "\r\n")
	if len(start) == 0 {
		return errors.New("it is empty; without any user there would still be a header")
	}
	first, _, _ := bytes.Cut(start, []byte("\n"))
	switch {
	case doveadmHeader.Match(first) || doveadmRow.Match(first):
		return t.readDoveadm(each)
	case bytes.IndexByte(first, '\t') >= 0:
		t.comma = '\t'
	default:
		t.comma = ','
	}
	return t.readTable(each)
}

// readMappingFile calls each with the users of a mapping file that have a name, up to the first row that cannot be read.
func readMappingFile(name string, each func(user, backend string) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return readMappings(f, func(row mappingRow) error {
		switch {
		case row.fault != nil:
			return fmt.Errorf("line %d: %w", row.line, row.fault)
		case row.nameless:
			return nil
		}
		return each(row.user, row.backend)
	})
}

// doveadm's table is aligned by spaces, but only as wide as its first rows need. So a row is taken apart from its end, where nothing
// holds a space, and what is left is the user.
var (
	doveadmHeader = regexp.MustCompile(`^user +hash +mail server ip +expire time *\r?$`)
	doveadmRow    = regexp.MustCompile(`^(\S.*?) +[0-9]+ +([0-9a-fA-F:.]+) +[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} *\r?$`)
)

// readDoveadm reads what 'doveadm director map' prints. When an entry expires says nothing of when the user was last seen: the time
// that entries live is a setting.
func (t *table) readDoveadm(each func(mappingRow) error) error {
	for n := 1; ; n++ {
		text, err := t.r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return each(mappingRow{line: n, fault: errRecordTooLong})
		case err != nil && !errors.Is(err, io.EOF):
			return err
		}
		text = bytes.TrimRight(text, "\r\n")
		if len(text) > 0 && !doveadmHeader.Match(text) {
			row := mappingRow{line: n}
			if m := doveadmRow.FindSubmatch(text); m == nil {
				row.fault = errors.New("it is no row of 'doveadm director map': a user, a hash, an address, and a date and time")
			} else {
				row.user, row.backend = string(m[1]), string(m[2])
				row.nameless = row.user == dovecotUnknown
			}
			if err := each(row); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

// columns says where in a row things are; what is nowhere is -1.
type columns struct {
	user, backend, lastSeen int
	least, most             int // how many fields a row has
	dovecot                 bool
}

// headerless are the columns of a file without a header.
var headerless = columns{user: 0, backend: 1, lastSeen: 2, least: 2, most: 3}

// header returns the columns that a file's first row names. Found is false if it is not a header, but a user's row.
func header(fields []string) (c columns, found bool, err error) {
	c = columns{user: -1, backend: -1, lastSeen: -1, least: len(fields), most: len(fields)}
	for i, field := range fields {
		at, name := (*int)(nil), strings.ToLower(strings.TrimSpace(field))
		switch name {
		case "username", "user":
			at = &c.user
		case "backend", "hostname", "host", "mail server ip":
			at = &c.backend
			c.dovecot = name == "mail server ip" // doveadm -f tab
		case "last_ts":
			at = &c.lastSeen
		default:
			continue
		}
		if *at >= 0 {
			return c, true, fmt.Errorf("the header has two columns that may be meant, %q and %q; rename or remove one", fields[*at], field)
		}
		*at, found = i, true
	}
	switch {
	case found && c.user < 0:
		err = errors.New("the header has no column of users; name it username or user")
	case found && c.backend < 0:
		err = errors.New("the header has no column of backends; name it backend, hostname or host")
	}
	return c, found, err
}

// readTable reads CSV, or the same with tabs.
func (t *table) readTable(each func(mappingRow) error) error {
	c := headerless
	for first := true; ; first = false {
		fields, line, err := t.record()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if fault, ok := errors.AsType[faulty](err); ok {
			if err := each(mappingRow{line: line, fault: fault.error}); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if first {
			named, found, err := header(fields)
			if err != nil {
				return fmt.Errorf("line %d: %w", line, err)
			}
			if found {
				c = named
				continue
			}
		}
		if err := each(c.row(line, fields)); err != nil {
			return err
		}
	}
}

// row makes a row of its fields.
func (c columns) row(line int, fields []string) mappingRow {
	switch n := len(fields); {
	case (n < c.least || n > c.most) && c.least == c.most:
		return mappingRow{line: line, fault: fmt.Errorf("fields: %d, in the header: %d", n, c.most)}
	case n < c.least || n > c.most:
		return mappingRow{line: line, fault: fmt.Errorf("fields: %d; without a header they are a user, a backend, and possibly last_ts", n)}
	}
	row := mappingRow{line: line, user: fields[c.user], backend: fields[c.backend]}
	row.nameless = c.dovecot && row.user == dovecotUnknown
	if c.lastSeen >= 0 && c.lastSeen < len(fields) {
		row.lastSeen, row.fault = parseLastSeen(fields[c.lastSeen])
	}
	return row
}

// lastSeenForms are RFC 3339 and what PostgreSQL prints.
var lastSeenForms = []string{time.RFC3339, "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05Z07"}

func parseLastSeen(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, form := range lastSeenForms {
		if at, err := time.Parse(form, text); err == nil && at.UTC().Year() >= 1 && at.UTC().Year() <= 9999 {
			return at.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("last_ts: %q is not a time; write it like 2006-01-02T15:04:05.000Z, with its zone", text)
}
