package main

import (
	"context"
	"fmt"
	"io"

	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/spf13/cobra"
)

func pinCommand(c console) *cobra.Command {
	return setPinnedCommand(c, true, &cobra.Command{
		Use:   "pin USER",
		Short: "Keep a user where he is when users are moved for balance or off a backend",
	})
}

func unpinCommand(c console) *cobra.Command {
	return setPinnedCommand(c, false, &cobra.Command{
		Use:   "unpin USER",
		Short: "Let a user be moved again who was pinned",
	})
}

func setPinnedCommand(c console, pinned bool, cmd *cobra.Command) *cobra.Command {
	r := remote{console: c}
	cmd.Args = cobra.ExactArgs(1)
	r.registerNote(cmd.Flags())
	return r.command(cmd, func(ctx context.Context, o directorhttp.Operator, args []string) error {
		changed, err := o.Pin(ctx, args[0], pinned, actor(), r.note)
		if err != nil {
			return err
		}
		return r.print(directorhttp.PinAnswer{User: args[0], Pinned: pinned, Changed: changed}, func(w io.Writer) {
			state, already := "pinned", ""
			if !pinned {
				state = "not pinned"
			}
			if !changed {
				already = " already"
			}
			fmt.Fprintf(w, "%s is %s%s\n", cell(args[0]), state, already)
		})
	})
}
