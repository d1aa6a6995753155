package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const program = "go-dovecot-director"

// The exit codes: what went wrong while running, and what was wrong with the command line or a setting.
const (
	exitFailure = 1
	exitUsage   = 2
)

// lookupEnv is os.LookupEnv or a test's stand-in for it.
type lookupEnv func(name string) (string, bool)

// failure is an error of a command that ran; all others are errors of its usage.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// run executes the command line and returns the exit code. It is main without the process, for tests.
func run(ctx context.Context, args []string, env lookupEnv, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:   program,
		Short: "Tells Dovecot proxies which backend a user belongs to",
		Long: "Tells Dovecot proxies which backend a user belongs to, and keeps that promise while pods scale, restart and die.\n\n" +
			"Settings are flags and environment variables, of the same name in capitals and with underscores. Flags win.",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		// An error is one line.
		DisableSuggestions: true,
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	logged := stderr // loggers quote what is to be quoted
	shown, stderr := terminal{stdout}, io.Writer(terminal{stderr})
	root.SetErr(stderr)
	addGroup(root, "Commands:",
		serveCommand(env, logged), migrateCommand(env, shown), exportCommand(env, stdout), importCommand(env, shown, stderr),
		simulateCommand(shown, stderr), ringCommand(shown))
	addGroup(root, "Commands that ask a running director:", operateCommands(console{env: env, stdin: os.Stdin, stdout: shown, stderr: stderr})...)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "%s: %v\n", program, err)
	if _, ran := errors.AsType[failure](err); ran {
		return exitFailure
	}
	return exitUsage
}

// addGroup adds verbs that the help lists together.
func addGroup(root *cobra.Command, title string, verbs ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, verb := range verbs {
		verb.GroupID = title
	}
	root.AddCommand(verbs...)
}

// command makes a verb whose settings come from flags and the environment. Its settings are read and checked before
// anything starts.
func command(cmd *cobra.Command, env lookupEnv, register func(*pflag.FlagSet), check func() error, do func(context.Context) error) *cobra.Command {
	register(cmd.Flags())
	if cmd.Args == nil {
		cmd.Args = cobra.NoArgs
	}
	cmd.Flags().SortFlags = false
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := fromEnvironment(cmd.Flags(), env); err != nil {
			return err
		}
		if err := check(); err != nil {
			return err
		}
		if err := do(cmd.Context()); err != nil {
			return failure{err}
		}
		return nil
	}
	return cmd
}

// version is the module's version as the build recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
