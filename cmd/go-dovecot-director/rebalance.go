package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/spf13/cobra"
)

func rebalanceCommand(c console) *cobra.Command {
	v := taskVerb{remote: remote{console: c}, kind: director.Rebalance}
	var dryRun, apply bool
	slack := directorhttp.DefaultSlack
	cmd := &cobra.Command{
		Use:   "rebalance",
		Short: "Even out how many users the backends have, or say what that would do",
		Long: "Even out how many users the backends have, in the least number of moves, those without sessions first; or say what that would do.\n" +
			"It is carried out by the directors: who ordered it need not stay, and if a director dies, another goes on.",
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what it would do, and do nothing")
	cmd.Flags().BoolVar(&apply, "apply", false, "do it, or change how it is done")
	cmd.Flags().Var(newValue(&slack, "number", strconv.FormatFloat(slack, 'g', -1, 64), parseNumber(0, director.MaxSlack)), "slack", "how much more than its share a backend may have: 0.05 for a twentieth")
	v.registerTask(cmd)
	v.registerYes(cmd, "users are moved between backends, and the sessions of those who have some are ended")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case len(given(cmd, "dry-run", "apply", "pause", "resume", "cancel")) != 1:
			return errors.New("write one of --dry-run, --apply, --pause, --resume and --cancel")
		case dryRun && (cmd.Flags().Changed("rate") || cmd.Flags().Changed("by") || v.wait):
			return errors.New("--rate, --by and --wait cannot go with --dry-run")
		case v.changes() && cmd.Flags().Changed("slack"):
			return errors.New("--slack goes with --dry-run or --apply")
		}
		v.yes = v.yes || dryRun
		return v.check()
	}
	return v.command(cmd, func(ctx context.Context, o directorhttp.Operator, _ []string) error {
		if !dryRun {
			return v.order(ctx, o, "", slack)
		}
		plan, err := o.Plan(ctx, slack)
		if err != nil {
			return err
		}
		return v.print(plan, func(w io.Writer) { writePlan(w, plan) })
	})
}

func writePlan(w io.Writer, p *director.PlanReport) {
	row(w, "backend", "before", "fair", "after", "users that go to others")
	for _, b := range p.Backends {
		var to []string
		for _, name := range slices.Sorted(maps.Keys(b.To)) {
			to = append(to, fmt.Sprintf("%d to %s", b.To[name], name))
		}
		row(w, b.Backend, b.Before, fmt.Sprintf("%.1f", b.Fair), b.After, strings.Join(to, ", "))
	}
	fmt.Fprintln(w)
	row(w, "moves", p.Moves)
	row(w, "least possible", p.Least)
	if p.Idle != nil {
		row(w, "of users without sessions", *p.Idle)
	}
	row(w, "max/mean before", fmt.Sprintf("%.3f", p.PeakBefore))
	row(w, "max/mean after", fmt.Sprintf("%.3f", p.PeakAfter))
}
