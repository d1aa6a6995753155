package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/spf13/cobra"
)

// standCommands are the verbs that change what a backend is used for.
func standCommands(c console) []*cobra.Command {
	return []*cobra.Command{
		stateCommand(c, director.Drain, "drain", "Give a backend no new users; it keeps those that it has"),
		stateCommand(c, director.Standby, "standby", "Keep a backend ready, and give it no new users until it is activated"),
		stateCommand(c, director.Active, "activate", "Give a backend new users again"),
		stateCommand(c, director.Off, "off", "Send nobody to a backend any more; its users are mapped to others at their next login"),
		weightCommand(c),
	}
}

func stateCommand(c console, state director.State, verb, short string) *cobra.Command {
	r := remote{console: c}
	cmd := &cobra.Command{Use: verb + " BACKEND", Short: short, Args: cobra.ExactArgs(1)}
	r.registerStand(cmd)
	if state == director.Off {
		r.registerYes(cmd, "its users are mapped to others, without a wait for sessions that go on there")
	}
	return r.command(cmd, func(ctx context.Context, o directorhttp.Operator, args []string) error {
		return r.stand(ctx, o, director.StandOrder{Backend: args[0], State: state})
	})
}

func weightCommand(c console) *cobra.Command {
	r := remote{console: c}
	parse := parseCount(0, director.MaxWeight)
	cmd := &cobra.Command{
		Use:   "weight BACKEND N",
		Short: fmt.Sprintf("Set a backend's share of new users relative to the others, from 1 to %d; 0 is what the source of backends says", director.MaxWeight),
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.ExactArgs(2)(cmd, args); err != nil {
				return err
			}
			_, err := parse(args[1])
			return err
		},
	}
	r.registerStand(cmd)
	return r.command(cmd, func(ctx context.Context, o directorhttp.Operator, args []string) error {
		weight, err := parse(args[1])
		if err != nil {
			return err
		}
		return r.stand(ctx, o, director.StandOrder{Backend: args[0], Weight: &weight})
	})
}

func (r *remote) registerStand(cmd *cobra.Command) {
	cmd.ValidArgsFunction = r.completeBackends(0)
	r.registerNote(cmd.Flags())
	cmd.Flags().BoolVar(&r.force, "force", false, "for a backend that nobody has seen yet, or to switch one off that is alive")
}

func (r *remote) stand(ctx context.Context, o directorhttp.Operator, order director.StandOrder) error {
	order.Force, order.Actor, order.Note = r.force, actor(), r.note
	s, err := o.Stand(ctx, order)
	if err != nil {
		return err
	}
	return r.print(directorhttp.AnswerOf(s), func(w io.Writer) {
		weight := "as its source says"
		if s.Weight > 0 {
			weight = strconv.Itoa(s.Weight)
		}
		fmt.Fprintf(w, "%s: state %s, weight %s\n", cell(s.Backend), s.State, weight)
	})
}
