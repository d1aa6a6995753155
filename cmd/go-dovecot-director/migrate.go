package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func migrateCommand(env lookupEnv, stdout io.Writer) *cobra.Command {
	var s databaseSettings
	return command(&cobra.Command{
		Use:   "migrate",
		Short: "Create the table of mappings if it is missing, and say what was done",
		Long: "Create the table of mappings if it is missing, and say what was done. A table that is there is looked at and left as it is.\n" +
			"The user needs the right to create tables for it; serve needs SELECT, INSERT and UPDATE on the one table only.",
	}, env, func(fs *pflag.FlagSet) { s.register(fs) }, s.check, func(ctx context.Context) error {
		db, err := s.open(slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer db.Close()
		report, err := db.Migrate(ctx)
		for _, line := range report {
			fmt.Fprintln(stdout, line)
		}
		return err
	})
}
