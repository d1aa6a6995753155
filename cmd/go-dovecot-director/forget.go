package main

import (
	"context"
	"fmt"
	"io"

	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/spf13/cobra"
)

func forgetReplicaCommand(c console) *cobra.Command {
	r := remote{console: c}
	cmd := &cobra.Command{
		Use:   "forget-replica NAME",
		Short: "Drop a director that has died, so that moves do not wait for it",
		Args:  cobra.ExactArgs(1),
	}
	r.registerYes(cmd, "if that director still runs, it may send users who are moved meanwhile to where they were")
	return r.command(cmd, func(ctx context.Context, o directorhttp.Operator, args []string) error {
		if err := o.ForgetReplica(ctx, args[0], actor()); err != nil {
			return err
		}
		return r.print(directorhttp.ForgetAnswer{Replica: args[0]}, func(w io.Writer) {
			fmt.Fprintf(w, "%s is forgotten\n", cell(args[0]))
		})
	})
}
