package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/k-web-s/go-dovecot-director/ring"
	"github.com/spf13/cobra"
)

// shutdownLimit is how long stopping may take after the drain delay: Kubernetes kills after 30 s in all.
const shutdownLimit = 9 * time.Second

func serveCommand(env lookupEnv, stderr io.Writer) *cobra.Command {
	var s settings
	return command(&cobra.Command{
		Use:   "serve",
		Short: "Answer the proxies' lookups",
	}, env, s.register, s.check, func(ctx context.Context) error {
		return serve(ctx, s, s.log.logger(stderr))
	})
}

// serve runs the director until ctx ends. It is one straight piece on purpose: parts are made in the order in which they
// need each other, each notes at once how it is stopped, and stopping is the same list backwards.
func serve(ctx context.Context, s settings, log *slog.Logger) (err error) {
	stops := stops{log: log}
	failed := make(chan error, 1)
	defer func() {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
		defer cancel()
		if stopErr := stops.run(limit); err == nil {
			err = stopErr
		}
	}()

	db, err := s.database.open(log)
	if err != nil {
		return err
	}
	stops.add("database", func(context.Context) error { return db.Close() })

	var source source
	d := director.New(director.Config{
		Mappings:      db,
		Counter:       db,
		Policy:        s.policy.policy(),
		Graces:        s.policy.graces,
		Users:         s.policy.users,
		BuildRing:     func(members []director.Member) director.Ring { return ring.Build(members) },
		Confirm:       func() { source.Confirm() },
		TouchInterval: s.policy.touchInterval,
		Remember:      s.policy.rememberedUsers,
		Logger:        log,
	})
	if source, err = s.source.open(d.Observe, log); err != nil {
		return err
	}

	health := directorhttp.NewHealth(viewPart(d, source), storePart(db))
	lookups := directorhttp.NewServer(directorhttp.NewLookups(d, log), log)
	ops := directorhttp.NewServer(health, log)
	for _, l := range []struct {
		server  *directorhttp.Server
		setting string
		address string
	}{{ops, "--ops-listen", s.opsListen}, {lookups, "--listen", s.listen}} {
		if err := l.server.Listen(l.address); err != nil {
			return fmt.Errorf("%s: %w", l.setting, err)
		}
		stops.add("listener of "+l.setting, func(context.Context) error { return l.server.Close() })
	}

	stops.background("operations API", failed, ops.Run)
	stops.background("database connection", failed, db.Run)
	stops.background("director", failed, d.Run)
	stops.background("source of backends", failed, source.Run)
	stops.background("lookup API", failed, lookups.Run)
	log.Info("serving", "listen", lookups.Addr(), "ops_listen", ops.Addr(), "version", version())

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	log.Info("shutting down", "drain_delay", s.drainDelay)
	health.Drain()
	select {
	case <-time.After(s.drainDelay):
	case err := <-failed:
		return err
	}
	return nil
}
