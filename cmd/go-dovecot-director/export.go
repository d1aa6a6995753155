package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"syscall"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/store"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// exportTime is how last_ts is written: always in UTC and of the same length.
const exportTime = "2006-01-02T15:04:05.000Z"

func exportCommand(env lookupEnv, stdout io.Writer) *cobra.Command {
	var s databaseSettings
	var format string
	return command(&cobra.Command{
		Use:   "export",
		Short: "Write all mappings to standard output",
		Long: "Write all mappings to standard output: username, backend and last_ts, ordered by username, as they were at one moment.\n" +
			"Directors go on meanwhile. If anything goes wrong the exit code is 1, and what was written is not complete.",
	}, env, func(fs *pflag.FlagSet) {
		add(fs, &format, "format", "choice", "csv", "what is written: csv, or tsv with tabs in place of commas", parseChoice("csv", "tsv"))
		s.register(fs)
	}, s.check, func(ctx context.Context) error {
		db, err := s.open(slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer db.Close()
		// Else a reader that leaves would end this program by a signal, without a word.
		signal.Ignore(syscall.SIGPIPE)
		defer signal.Reset(syscall.SIGPIPE)
		return export(ctx, db, format, stdout)
	})
}

func export(ctx context.Context, db *store.DB, format string, stdout io.Writer) error {
	out := csv.NewWriter(bufio.NewWriterSize(stdout, 64<<10))
	if format == "tsv" {
		out.Comma = '\t'
	}
	rows := 0
	record := []string{"username", "backend", "last_ts"}
	err := out.Write(record)
	if err == nil {
		err = db.Each(ctx, func(r director.Row) error {
			rows++
			record[0], record[1], record[2] = r.User, r.Backend, r.LastSeen.Format(exportTime)
			return out.Write(record)
		})
	}
	if err == nil {
		out.Flush()
		err = out.Error()
	}
	if err != nil {
		return fmt.Errorf("the export ended after %d rows, what was written is not complete: %w", rows, err)
	}
	return nil
}
