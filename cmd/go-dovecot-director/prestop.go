package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/spf13/cobra"
)

const (
	// stopAway is for how long the director may not answer before a pod is not kept from ending any more.
	stopAway = 10 * time.Second
	// stopSeen is for how long the director may say nothing of the end of a pod that has begun to end.
	stopSeen = 10 * time.Second
	// stopRate is fast, since the pod's users who log in wait until they are moved, and slow enough for two cores.
	stopRate = "1500"
)

// stopping is the verb prestop.
type stopping struct {
	remote
	within time.Duration
	rate   int
}

func prestopCommand(c console) *cobra.Command {
	v := stopping{remote: remote{console: c}}
	cmd := &cobra.Command{
		Use:   "prestop [BACKEND]",
		Short: "For a backend's preStop hook: move its users before it ends, if it will not be back soon",
		Long: "For a backend's preStop hook: if the backend is drained, or its StatefulSet does not want it any more, its users are moved to others, and\n" +
			"the hook waits for it. Else it ends at once, since the pod will be back, and its users wait for it. Without an argument the backend is the pod\n" +
			"that POD_NAME names.",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: v.completeBackends(0),
	}
	fs := cmd.Flags()
	fs.Var(newValue(&v.within, "duration", "4m", parseDuration(time.Second, 24*time.Hour)), "within", "how long it may take; less than the pod's terminationGracePeriodSeconds by what Dovecot needs to end")
	fs.Var(newValue(&v.rate, "rate", stopRate, parseRate), "rate", fmt.Sprintf("how many users are moved in a minute, from 1 to %d", director.MaxRate))
	var backend string
	cmd.PreRunE = func(_ *cobra.Command, args []string) error {
		if backend, _ = c.env("POD_NAME"); len(args) > 0 {
			backend = args[0]
		}
		if backend == "" {
			return errors.New("no backend is named: set POD_NAME to the pod's name, by the downward API, or write it as an argument")
		}
		return nil
	}
	return v.command(cmd, func(ctx context.Context, o directorhttp.Operator, _ []string) error { return v.stop(ctx, o, backend) })
}

// stop moves a backend's users if it will not be back, and waits for that.
func (v *stopping) stop(ctx context.Context, o directorhttp.Operator, backend string) error {
	ctx, cancel := context.WithTimeout(ctx, v.within)
	defer cancel()
	why, err := v.asked(ctx, o, backend)
	if err != nil || why == "" {
		return err
	}
	report, err := o.Evacuate(ctx, backend, director.TaskOrder{Rate: v.rate, Actor: actor(), Note: "preStop: " + why})
	if err != nil {
		return err
	}
	task := taskVerb{remote: v.remote, kind: director.Evacuate}
	switch report, err = task.waitFor(ctx, o, report); {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("not all users were moved within %s: those who are left wait until the pod has ended, and are moved as they log in", v.within)
	case err != nil:
		return err
	}
	return v.print(report, func(w io.Writer) { writeTasks(w, []director.TaskReport{*report}) })
}

// asked says why a backend that ends is to be evacuated, and nothing if it is not. What the director has seen of the end may be some
// moments old.
func (v *stopping) asked(ctx context.Context, o directorhttp.Operator, backend string) (why string, err error) {
	for begun := time.Now(); ; {
		var status *director.StatusReport
		if status, err = o.Status(ctx, false); err == nil {
			i := slices.IndexFunc(status.Backends, func(b director.BackendReport) bool { return b.Name == backend })
			switch {
			case i < 0:
				return "", fmt.Errorf("the director knows no backend %s", backend)
			case status.Backends[i].State == director.Drain:
				return "it is drained", nil
			case status.Backends[i].Leaving:
				return "it is scaled away", nil
			case status.Backends[i].Condition != "alive" || time.Since(begun) > stopSeen:
				return "", v.print(status.Backends[i], func(w io.Writer) {
					fmt.Fprintf(w, "%s is neither drained nor scaled away: its users wait until it is back\n", cell(backend))
				})
			}
		} else if time.Since(begun) > stopAway {
			return "", fmt.Errorf("the director does not answer, and nobody is moved: %w", err)
		}
		select {
		case <-ctx.Done():
			return "", errors.Join(ctx.Err(), err)
		case <-time.After(taskAgain / 4):
		}
	}
}
