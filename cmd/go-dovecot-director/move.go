package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/spf13/cobra"
)

const (
	// lookAgain is how often is looked how far a move is.
	lookAgain = 500 * time.Millisecond
	// moveWait is how long a move is waited for: it has ended at its deadline, or when somebody has taken it over after that.
	moveWait = director.MoveDeadline + 30*time.Second
)

func moveCommand(c console) *cobra.Command {
	r := remote{console: c}
	wait := true
	cmd := &cobra.Command{
		Use:   "move USER [BACKEND]",
		Short: "Move a user to a backend, or to one that the director chooses",
		Long: "Move a user to a backend, or to one that the director chooses: his logins are held, his sessions ended, and once they have ended he may\n" +
			"log in there. What cannot be confirmed in half a minute is given up, and he stays. The exit code is 0 only if he has been moved.",
		Args: cobra.RangeArgs(1, 2),
		// Users are not completed: there are too many.
		ValidArgsFunction: r.completeBackends(1),
		Annotations:       map[string]string{onlyForced: "yes"},
	}
	cmd.Flags().BoolVar(&r.force, "force", false, "move although it cannot be known whether sessions go on; two backends may serve the mailbox for a while")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until the move has ended; with --wait=false it goes on by itself")
	r.registerNote(cmd.Flags())
	r.registerYes(cmd, "two backends may serve the mailbox for a while")
	return r.command(cmd, func(ctx context.Context, o directorhttp.Operator, args []string) error {
		order := director.MoveOrder{User: args[0], Force: r.force, Actor: actor(), Note: r.note}
		if len(args) > 1 {
			order.To = args[1]
		}
		state, err := o.Move(ctx, order)
		if err != nil {
			return err
		}
		if !wait {
			return r.print(state, func(w io.Writer) {
				fmt.Fprintf(w, "%s is being moved from %s to %s\n", cell(state.User), state.From, state.To)
			})
		}
		report, err := r.waitForMove(ctx, o, state)
		if err != nil {
			return err
		}
		return r.print(report, func(w io.Writer) {
			fmt.Fprintf(w, "%s was moved from %s to %s\n", cell(report.User), state.From, state.To)
		})
	})
}

// waitForMove returns when a move has ended, with an error if the user is not where he should be.
func (r *remote) waitForMove(ctx context.Context, o directorhttp.Operator, begun *director.MoveState) (*director.UserReport, error) {
	limit, cancel := context.WithTimeout(ctx, moveWait)
	defer cancel()
	var lastErr error
	for stage := director.MoveStage(""); ; {
		report, err := o.UserOf(limit, begun.User)
		switch {
		case err != nil && limit.Err() == nil:
			lastErr = err // a director that is away for a moment does not end the move
		case err == nil && report.Move == nil:
			return report, ended(report, begun)
		case err == nil && report.Move.Stage != stage:
			stage = report.Move.Stage
			fmt.Fprintf(r.stderr, "%s\n", cell(moving(report.Move)))
		}
		select {
		case <-limit.Done():
			if ctx.Err() != nil {
				return nil, fmt.Errorf("interrupted; the move of %s goes on, and 'user' tells how far it is", begun.User)
			}
			if lastErr == nil {
				lastErr = errors.New("it takes longer than it should")
			}
			return nil, fmt.Errorf("the move of %s was begun, what became of it is not known: %w", begun.User, lastErr)
		case <-time.After(lookAgain):
		}
	}
}

// ended says why a user is not where a move should have brought him.
func ended(u *director.UserReport, begun *director.MoveState) error {
	if u.Backend == begun.To {
		return nil
	}
	for _, e := range u.History { // the newest first
		switch {
		case e.Subject == director.AboutUndone && e.To == begun.To:
			return fmt.Errorf("%s stays on %s: %s", u.User, u.Backend, e.Note)
		case e.Subject == director.AboutUser:
			return fmt.Errorf("%s is on %s, not on %s: moved there meanwhile, reason %s", u.User, u.Backend, begun.To, e.Reason)
		}
	}
	return fmt.Errorf("%s is on %s, not on %s, and the journal does not say why", u.User, u.Backend, begun.To)
}
