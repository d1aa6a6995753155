package main

import (
	"context"
	"io"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/spf13/cobra"
)

func journalCommand(c console) *cobra.Command {
	r := remote{console: c}
	limit := 100
	cmd := &cobra.Command{
		Use:   "journal [USER]",
		Short: "Show what was ordered and who was moved, the newest first",
		Args:  cobra.MaximumNArgs(1),
	}
	cmd.Flags().Var(newValue(&limit, "number", "100", parseCount(1, 1000)), "limit", "how many entries at most")
	return r.command(cmd, func(ctx context.Context, o directorhttp.Operator, args []string) error {
		user := ""
		if len(args) > 0 {
			user = args[0]
		}
		entries, err := o.Journal(ctx, user, 0, limit)
		if err != nil {
			return err
		}
		return r.print(directorhttp.JournalAnswer{Entries: entries}, func(w io.Writer) { writeJournal(w, entries) })
	})
}

func writeJournal(w io.Writer, entries []director.Entry) {
	row(w, "at", "about", "user", "from", "to", "reason", "actor", "director", "note")
	for _, e := range entries {
		row(w, e.At.UTC().Format(time.DateTime), e.Subject, e.User, e.From, e.To, e.Reason, e.Actor, e.Replica, e.Note)
	}
}
