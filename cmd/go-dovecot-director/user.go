package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/spf13/cobra"
)

func userCommand(c console) *cobra.Command {
	r := remote{console: c}
	return r.command(&cobra.Command{
		Use:   "user USER",
		Short: "Show all that is known of a user: backend, sessions, what a lookup would answer, history",
		Args:  cobra.ExactArgs(1),
	}, func(ctx context.Context, o directorhttp.Operator, args []string) error {
		report, err := o.UserOf(ctx, args[0])
		if err != nil {
			return err
		}
		return r.print(report, func(w io.Writer) { writeUser(w, report) })
	})
}

func writeUser(w io.Writer, u *director.UserReport) {
	row(w, "user", u.User)
	if u.Backend == "" {
		row(w, "backend", "none yet")
	} else {
		row(w, "backend", fmt.Sprintf("%s, %s", u.Backend, u.Condition))
		row(w, "touched", seconds(u.SinceSeconds)+" ago")
	}
	row(w, "the ring proposes", u.Proposal)
	row(w, "next lookup", nextLookup(u.Next))
	row(w, "pinned", yesNo(u.Pinned))
	if u.Move != nil {
		row(w, "being moved", moving(u.Move))
	}
	for _, backend := range slices.Sorted(maps.Keys(u.Unasked)) {
		row(w, "not asked", backend+": "+u.Unasked[backend])
	}
	if len(u.Sessions) > 0 {
		fmt.Fprintln(w)
		row(w, "sessions on", "service", "client", "name")
		for _, s := range u.Sessions {
			client := ""
			if s.Client.IsValid() {
				client = s.Client.String()
			}
			row(w, s.Backend, s.Service, client, s.Name)
		}
	}
	if len(u.History) > 0 {
		fmt.Fprintln(w)
		writeJournal(w, u.History)
	}
}

func nextLookup(n director.NextAnswer) string {
	text := fmt.Sprintf("%s, %s", n.Verb, n.Reason)
	switch {
	case n.Address.IsValid():
		text += fmt.Sprintf(": %s at %s", n.Backend, n.Address)
	case n.Detail != "":
		text = n.Verb + ", " + n.Detail
	}
	return text
}

func moving(m *director.MoveState) string {
	text := fmt.Sprintf("from %s to %s, %s, for %s more at most", m.From, m.To, m.Stage, seconds(m.LeftSeconds))
	if len(m.Waiting) > 0 {
		text += fmt.Sprintf("; waits for the directors %v to hear of it", m.Waiting)
	}
	return text
}
