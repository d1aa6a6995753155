package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/store"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	// viewLimit is how long the source may take to list the backends.
	viewLimit = 30 * time.Second
	// importBatch is how many rows are written at once.
	importBatch = 500
)

// importSettings are what import can be told.
type importSettings struct {
	file               string
	source             sourceSettings
	database           databaseSettings
	users              director.UserFormat
	dryRun, anyBackend bool
	stdin              *os.File
	stdout, stderr     io.Writer
}

func importCommand(env lookupEnv, stdout, stderr io.Writer) *cobra.Command {
	s := importSettings{stdin: os.Stdin, stdout: stdout, stderr: stderr}
	return command(&cobra.Command{
		Use:   "import FILE",
		Short: "Write the mappings of a file that are not there yet",
		Long: "Write the mappings of a file that are not there yet. FILE is CSV or tab-separated: username, backend, and last_ts if it is known,\n" +
			"with a header or without; or what 'doveadm director map' prints; - is standard input.\n" +
			"The whole file is checked before anything is written. Rows that are there stay as they are. It can be repeated, and directors may run.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("import takes one FILE, or - for standard input")
			}
			s.file = args[0]
			return nil
		},
	}, env, s.register, s.check, func(ctx context.Context) error { return s.run(ctx) })
}

func (s *importSettings) register(fs *pflag.FlagSet) {
	add(fs, &s.dryRun, "dry-run", "bool", "", "check the file, say what would be written, and write nothing", strconv.ParseBool)
	add(fs, &s.anyBackend, "allow-unknown-backends", "bool", "", "take the backends as the file names them; then nothing needs to be known of them", strconv.ParseBool)
	for _, name := range []string{"dry-run", "allow-unknown-backends"} {
		fs.Lookup(name).NoOptDefVal = "true"
	}
	s.source.register(fs)
	s.database.register(fs)
	registerUserName(fs, &s.users.Name)
}

func (s *importSettings) check() error {
	if !s.anyBackend {
		if err := s.source.check(); err != nil {
			return err
		}
	}
	return s.database.check()
}

func (s *importSettings) run(ctx context.Context) error {
	file, err := openTwice(s.file, s.stdin)
	if err != nil {
		return err
	}
	defer file.Close()
	db, err := s.database.open(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer db.Close()
	m := newMappingImport(file, s.users)
	if !s.anyBackend {
		if m.known, err = s.source.known(ctx, viewLimit); err != nil {
			return fmt.Errorf("%w; nothing was written", err)
		}
	}
	if err := m.check(ctx, s.stderr); err != nil {
		return fmt.Errorf("%s: %w; nothing was written", s.file, err)
	}
	var o outcome
	if s.dryRun {
		err = m.again(ctx, func(rows []director.Row) error { return o.look(ctx, db, m, rows) })
	} else {
		err = m.again(ctx, func(rows []director.Row) error { return o.insert(ctx, db, m, rows) })
	}
	switch {
	case err != nil && s.dryRun:
		return fmt.Errorf("the rows that are there cannot be read: %w", err)
	case err != nil:
		return fmt.Errorf("the import ended when %d of %d rows were written, rows that were there not counted; it is safe to repeat it: %w", o.written, m.rows-m.nameless-m.repeated, err)
	}
	return o.report(s.stdout, m, s.dryRun)
}

// openTwice opens a file that can be read more than once: what comes through a pipe is kept in a temporary file.
func openTwice(name string, stdin *os.File) (*os.File, error) {
	file := stdin
	if name != "-" {
		var err error
		if file, err = os.Open(name); err != nil {
			return nil, err
		}
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a directory", name)
	}
	if name != "-" && info.Mode().IsRegular() {
		return file, nil
	}
	if name != "-" {
		defer file.Close()
	}
	spool, err := os.CreateTemp("", program+"-import-")
	if err == nil {
		err = os.Remove(spool.Name()) // it lives as long as it is open
	}
	if err != nil {
		return nil, fmt.Errorf("the input is read twice and needs a temporary file; give a file, or set TMPDIR: %w", err)
	}
	if _, err := io.Copy(spool, file); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the input into a temporary file: %w", err), spool.Close())
	}
	return spool, nil
}

// outcome is what became of the rows.
type outcome struct {
	written, there int
	kept, refused  named
}

// maxNamed is how many are described of those that are counted.
const maxNamed = 5

// named counts something, and describes the first few.
type named struct {
	count int
	first []string
}

func (n *named) add(text string) {
	if n.count++; len(n.first) < maxNamed {
		n.first = append(n.first, text)
	}
}

// look notes what would become of rows.
func (o *outcome) look(ctx context.Context, db *store.DB, m *mappingImport, rows []director.Row) error {
	users := make([]string, len(rows))
	for i, r := range rows {
		users[i] = r.User
	}
	there, err := db.Find(ctx, users)
	if err != nil {
		return err
	}
	o.written += len(rows) - len(there)
	for _, r := range rows {
		if mapping, ok := there[r.User]; ok {
			o.stays(m, r, mapping.Backend)
		}
	}
	return nil
}

// insert writes rows and notes what became of them.
func (o *outcome) insert(ctx context.Context, db *store.DB, m *mappingImport, rows []director.Row) error {
	done, err := db.Insert(ctx, rows)
	o.written += done.Written
	for _, user := range done.Refused {
		o.refused.add(user)
	}
	for _, r := range rows {
		if backend, ok := done.Kept[r.User]; ok {
			o.stays(m, r, backend)
		}
	}
	return err
}

// stays notes that the user of a row has one already.
func (o *outcome) stays(m *mappingImport, r director.Row, backend string) {
	if m.same(backend, r.Backend) {
		o.there++
		return
	}
	o.kept.add(fmt.Sprintf("%s is on %s, not %s", r.User, backend, r.Backend))
}

// report writes the outcome as a table.
func (o *outcome) report(w io.Writer, m *mappingImport, dryRun bool) error {
	written := "written"
	if dryRun {
		written = "would be written"
	}
	var err error
	line := func(what string, n named) {
		if err == nil {
			_, err = fmt.Fprintf(w, "%-23s %8d\n", what, n.count)
		}
		for _, text := range n.first {
			if err == nil {
				_, err = fmt.Fprintf(w, "  %s\n", text)
			}
		}
		if more := n.count - len(n.first); err == nil && len(n.first) == maxNamed && more > 0 {
			_, err = fmt.Fprintf(w, "  and %d more\n", more)
		}
	}
	line("rows", named{count: m.rows})
	line(written, named{count: o.written})
	line("there already", named{count: o.there})
	line("kept on another backend", o.kept)
	if !dryRun {
		line("refused by the database", o.refused)
	}
	line("repeated in the file", named{count: m.repeated})
	nameless := named{count: m.nameless}
	if m.nameless > 0 {
		nameless.first = []string{"Dovecot knows only their hashes; name all users to 'doveadm director map' in a file, with -f"}
	}
	line(dovecotUnknown+" users", nameless)
	return err
}
