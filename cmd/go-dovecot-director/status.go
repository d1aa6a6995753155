package main

import (
	"context"
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

func statusCommand(c console) *cobra.Command {
	r := remote{console: c}
	var sessions bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the backends with their users, tasks that are under way, and the directors",
		Args:  cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&sessions, "sessions", false, "ask the backends how many sessions are open now, and not show what the last poll has found")
	return r.command(cmd, func(ctx context.Context, o directorhttp.Operator, _ []string) error {
		status, err := o.Status(ctx, sessions)
		if err != nil {
			return err
		}
		return r.print(status, func(w io.Writer) { writeStatus(w, status, sessions || status.PolledSeconds != nil) })
	})
}

func writeStatus(w io.Writer, s *director.StatusReport, sessions bool) {
	writeBackends(w, s.Backends, sessions)
	if len(s.Tasks) > 0 {
		fmt.Fprintln(w)
		writeTasks(w, s.Tasks)
	}
	if len(s.Replicas) > 0 {
		fmt.Fprintln(w)
		row(w, "director", "version", "sees alive", "lost", "silent", "agrees")
		for _, r := range s.Replicas {
			row(w, r.Name, r.Version, r.Alive, r.Lost, seconds(r.SilentSeconds), yesNo(r.Agrees))
		}
	}
	for _, d := range s.Doubled {
		fmt.Fprintf(w, "\n%s has been on %s at once for %s: his mailbox is being damaged, kick him\n", cell(d.User), cell(strings.Join(d.Backends, " and ")), seconds(d.SinceSeconds))
	}
	fmt.Fprintf(w, "\n%d users", s.Users)
	if s.Elsewhere > 0 {
		fmt.Fprintf(w, ", %d of them on backends that are not known", s.Elsewhere)
	}
	fmt.Fprintln(w)
}

func writeBackends(w io.Writer, backends []director.BackendReport, sessions bool) {
	head := []any{"backend", "address", "condition", "state", "weight", "users", "share %", "fair %"}
	if sessions {
		head = append(head, "sessions", "logged in")
	}
	row(w, append(head, "note")...)
	unasked := map[string][]string{} // by reason: it is mostly the same
	for _, b := range backends {
		address := ""
		if b.Address.IsValid() {
			address = b.Address.String()
		}
		cells := []any{b.Name, address, b.Condition, b.State, b.Weight, b.Users, percent(b.Share), percent(b.Fair)}
		if sessions {
			cells = append(cells, sessionCell(b.Sessions), sessionCell(b.LoggedIn))
		}
		row(w, append(cells, orderedBy(b.Actor, b.Note))...)
		if b.Unasked != "" {
			unasked[b.Unasked] = append(unasked[b.Unasked], b.Name)
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(unasked)) {
		fmt.Fprintf(w, "\nsessions on %s are not known: %s\n", cell(strings.Join(unasked[reason], ", ")), cell(reason))
	}
}

func sessionCell(n *int) string {
	if n == nil {
		return ""
	}
	return strconv.Itoa(*n)
}

// orderedBy says who ordered something, and why.
func orderedBy(actor, note string) string {
	switch {
	case actor == "":
		return note
	case note == "":
		return "by " + actor
	}
	return note + ", by " + actor
}

func percent(part float64) string { return fmt.Sprintf("%.1f", 100*part) }

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}
