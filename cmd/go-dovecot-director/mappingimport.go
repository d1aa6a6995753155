package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	director "github.com/k-web-s/go-dovecot-director"
)

const (
	// maxFaults is how many bad lines are shown.
	maxFaults = 20
	// maxBackendLength is the width of the column that holds a backend's name.
	maxBackendLength = 255
)

// mappingImport is a file of mappings that is read twice: once to check it, and once to write it. Of each user it remembers 16 bytes,
// so that a million need little memory.
type mappingImport struct {
	file  io.ReadSeeker
	users director.UserFormat
	known *knownBackends // nil: backends are taken as they are

	rows, repeated, nameless int

	latest time.Time // that somebody can have been seen: clocks differ a little
	seed   maphash.Seed
	first  map[uint64]mention
	number map[string]uint32 // of a backend
	names  []string          // of backends, by their number
}

// mention is where a user's first row is, and the number of the backend that it names.
type mention struct{ line, backend uint32 }

func newMappingImport(file io.ReadSeeker, users director.UserFormat) *mappingImport {
	return &mappingImport{file: file, users: users, latest: time.Now().Add(time.Minute), seed: maphash.MakeSeed(), first: map[uint64]mention{}, number: map[string]uint32{}}
}

// errUnknownBackend says that a row names no backend that is known.
var errUnknownBackend = errors.New("there is no such backend")

// check reads the whole file and writes what is wrong with its lines to w. The error says how many there are.
func (m *mappingImport) check(ctx context.Context, w io.Writer) error {
	faults, unknown := 0, 0
	err := m.read(ctx, func(row mappingRow) error {
		m.rows++
		if row.nameless && row.fault == nil {
			m.nameless++
			return nil
		}
		r, err := m.row(row)
		if err == nil {
			err = m.note(row, r)
		}
		if err == nil {
			return nil
		}
		if errors.Is(err, errUnknownBackend) {
			unknown++
		}
		if faults++; faults <= maxFaults {
			_, err = fmt.Fprintf(w, "line %d: %v\n", row.line, err)
			return err
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case faults == 0:
		return nil
	case faults > maxFaults:
		if _, err := fmt.Fprintf(w, "and %d more\n", faults-maxFaults); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("%d of its rows cannot be imported", faults)
	if unknown > 0 {
		text += fmt.Sprintf(", %d of them for their backend; the known ones are %s", unknown, m.known)
	}
	return errors.New(text)
}

// again reads the file that was checked once more, and calls do with the rows to write, each user's first one, batch by batch.
func (m *mappingImport) again(ctx context.Context, do func([]director.Row) error) error {
	changed := errors.New("the file was changed while it was read")
	batch := make([]director.Row, 0, importBatch)
	rows := 0
	err := m.read(ctx, func(row mappingRow) error {
		rows++
		if row.nameless {
			return nil
		}
		r, err := m.row(row)
		if err != nil {
			return changed
		}
		switch at, ok := m.first[maphash.String(m.seed, r.User)]; {
		case !ok || m.names[at.backend] != r.Backend:
			return changed
		case at.line != uint32(row.line):
			return nil
		}
		if batch = append(batch, r); len(batch) < importBatch {
			return nil
		}
		err = do(batch)
		batch = batch[:0]
		return err
	})
	switch {
	case err != nil:
		return err
	case rows != m.rows:
		return changed
	case len(batch) > 0:
		return do(batch)
	}
	return nil
}

// read reads the file from its beginning.
func (m *mappingImport) read(ctx context.Context, each func(mappingRow) error) error {
	if _, err := m.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return readMappings(m.file, func(row mappingRow) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return each(row)
	})
}

// row makes of a row what is to be stored.
func (m *mappingImport) row(row mappingRow) (director.Row, error) {
	if row.fault != nil {
		return director.Row{}, row.fault
	}
	user, err := m.users.Canonical(row.user)
	if err != nil {
		return director.Row{}, err
	}
	r := director.Row{User: user.Name, Backend: row.backend, LastSeen: row.lastSeen}
	if r.LastSeen.After(m.latest) {
		return r, fmt.Errorf("last_ts: %s is in the future; leave it empty if it is not known", r.LastSeen.Format(time.RFC3339))
	}
	if m.known == nil {
		return r, checkBackend(row.backend)
	}
	name, ok := m.known.name(row.backend)
	if !ok {
		return r, fmt.Errorf("%w: %q", errUnknownBackend, row.backend)
	}
	r.Backend = name
	return r, nil
}

// checkBackend looks whether the table can hold a backend's name.
func checkBackend(name string) error {
	switch n := utf8.RuneCountInString(name); {
	case name == "":
		return errors.New("the backend's name is empty")
	case n > maxBackendLength:
		return fmt.Errorf("the backend's name has %d characters, %d is the most", n, maxBackendLength)
	case !utf8.ValidString(name) || strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("the backend's name %q is not text", name)
	}
	return nil
}

// note remembers a user's first row. A further one that says the same does no harm, one that says something else is an error.
func (m *mappingImport) note(row mappingRow, r director.Row) error {
	number, ok := m.number[r.Backend]
	if !ok {
		number = uint32(len(m.names))
		m.number[r.Backend] = number
		m.names = append(m.names, r.Backend)
	}
	hash := maphash.String(m.seed, r.User)
	at, ok := m.first[hash]
	switch {
	case !ok:
		m.first[hash] = mention{uint32(row.line), number}
	case at.backend == number:
		m.repeated++
	default:
		return fmt.Errorf("the user %q is on %q here and on %q in line %d", r.User, r.Backend, m.names[at.backend], at.line)
	}
	return nil
}

// same reports whether two texts mean the same backend: rows that an older version wrote hold its address.
func (m *mappingImport) same(a, b string) bool {
	if a == b || m.known == nil {
		return a == b
	}
	name, ok := m.known.name(a)
	return ok && name == b
}
