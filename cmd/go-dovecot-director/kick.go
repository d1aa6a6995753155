package main

import (
	"context"
	"fmt"
	"io"

	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/spf13/cobra"
)

func kickCommand(c console) *cobra.Command {
	r := remote{console: c}
	cmd := &cobra.Command{
		Use:   "kick USER",
		Short: "End a user's sessions on all backends; he may log in again at once",
		Args:  cobra.ExactArgs(1),
	}
	r.registerNote(cmd.Flags())
	r.registerYes(cmd, "all sessions of the user are ended")
	return r.command(cmd, func(ctx context.Context, o directorhttp.Operator, args []string) error {
		sessions, err := o.Kick(ctx, args[0], actor(), r.note)
		if err != nil {
			return err
		}
		return r.print(directorhttp.KickAnswer{User: args[0], Sessions: sessions}, func(w io.Writer) {
			fmt.Fprintf(w, "sessions of %s that were ended: %d\n", cell(args[0]), sessions)
		})
	})
}
