package main

import (
	"context"
	"errors"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/spf13/cobra"
)

func evacuateCommand(c console) *cobra.Command {
	v := taskVerb{remote: remote{console: c}, kind: director.Evacuate}
	cmd := &cobra.Command{
		Use:   "evacuate BACKEND",
		Short: "Drain a backend, and move its users to others at a rate",
		Long: "Drain a backend, and move its users to others at a rate, those without sessions first. It is carried out by the directors: who ordered\n" +
			"it need not stay, and if a director dies, another goes on. Ordered again, it goes on as it is ordered then.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: v.completeBackends(0),
	}
	v.registerTask(cmd)
	v.registerYes(cmd, "all its users are moved to others, and their sessions are ended")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if len(given(cmd, "pause", "resume", "cancel")) > 1 {
			return errors.New("write one of --pause, --resume and --cancel at most")
		}
		return v.check()
	}
	return v.command(cmd, func(ctx context.Context, o directorhttp.Operator, args []string) error {
		return v.order(ctx, o, args[0], 0)
	})
}
