package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/k-web-s/go-dovecot-director/http/status"
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

	replica, err := s.operation.name(s.listen)
	if err != nil {
		return err
	}
	s.database.replica = replica
	measured := newMetrics()
	s.database.meter, s.source.restarted = measured, measured.Restarted
	db, err := s.database.open(log)
	if err != nil {
		return err
	}
	stops.add("database", func(context.Context) error { return db.Close() })

	var source source
	var drawn drawnRing
	d := director.New(director.Config{
		Mappings:      db,
		Counter:       db,
		Policy:        s.policy.policy(),
		Graces:        s.policy.graces,
		Storm:         s.policy.storm,
		Users:         s.policy.users,
		BuildRing:     drawn.build,
		Confirm:       func() { source.Confirm() },
		TouchInterval: s.policy.touchInterval,
		Remember:      s.policy.rememberedUsers,
		Ordered:       true,
		Tally:         measured,
		Logger:        log,
	})
	if source, err = s.source.open(d.Observe, log); err != nil {
		return err
	}

	proxies, err := s.source.openProxies(s.operation, log)
	if err != nil {
		return err
	}
	sessions, closeSessions := s.operation.open(s.policy.users, proxies.addresses, log)
	stops.add("connections to doveadm", func(context.Context) error { closeSessions(); return nil })
	ledger := db.Ledger(replica, s.operation.journalFor)
	mover := director.NewMover(director.MoverConfig{Moves: ledger, Sessions: sessions, View: d.View, Tally: measured, Logger: log})
	census := s.operation.census(d, sessions, ledger.Lead, log)
	operator := director.NewOperator(director.OperatorConfig{
		Director: d, Ledger: ledger, Tasks: ledger, Sessions: sessions, Census: census, Replica: replica, Stay: s.operation.minimumStay, Begun: mover.Wake,
	})
	conductor := director.NewConductor(director.ConductorConfig{
		Director: d, Tasks: ledger, Sessions: sessions, Auto: s.operation.auto(), Lazy: s.operation.lazy(census), Budget: s.operation.rebalanceMost,
		Stay: s.operation.minimumStay, Begun: mover.Wake, Logger: log,
	})

	monitor := director.NewMonitor(director.MonitorConfig{Director: d, Tasks: ledger, Census: census, Replica: replica, Logger: log})
	measured.Show(shown(monitor, source, db, s.operation.rebalanceMost))

	health := directorhttp.NewHealth(viewPart(d, source), storePart(db), ordersPart(d))
	health.Show("GET /metrics", measured)
	traffic := &status.Traffic{}
	tokens, err := s.admin.tokens(measured, log)
	if err != nil {
		return err
	}
	page := status.New(status.Config{
		Vitals: monitor.Vitals, Around: around(health, source, db), Shares: drawn.shares, Journal: ledger.Journal,
		UserOf: operator.UserOf, Allowed: tokens.mayLook(), Replica: replica, Version: version(), Logger: log,
	}, traffic)
	for _, pattern := range status.Patterns {
		health.Show(pattern, page)
	}
	lookups, err := s.lookup.server(d, meters{measured, traffic}, measured, log)
	if err != nil {
		return err
	}
	ops := directorhttp.NewServer(health, log, directorhttp.WithFewConnections())
	admin := s.admin.server(operator, tokens, measured, log)
	for _, l := range []struct {
		server  *directorhttp.Server
		setting string
		address string
	}{{ops, "--ops-listen", s.opsListen}, {admin, "--admin-listen", s.admin.listen}, {lookups, "--listen", s.listen}} {
		if l.address == adminOff {
			continue
		}
		if err := l.server.Listen(l.address); err != nil {
			return fmt.Errorf("%s: %w", l.setting, err)
		}
		stops.add("listener of "+l.setting, func(context.Context) error { return l.server.Close() })
	}

	stops.background("operations API", failed, ops.Run)
	adminAddr := adminOff
	if s.admin.listen != adminOff {
		stops.background("admin API", failed, admin.Run)
		adminAddr = admin.Addr()
	}
	stops.background("database connection", failed, db.Run)
	stops.background("director", failed, d.Run)
	stops.background("operators' orders", failed, func(ctx context.Context) error {
		return ledger.Follow(ctx, self(d), func(o director.Orders) {
			d.Obey(o)
			if len(o.Moving) > 0 {
				mover.Wake()
			}
		})
	})
	stops.background("moves", failed, mover.Run)
	stops.background("tasks", failed, conductor.Run)
	if s.policy.policy().OutageProposes {
		reconciler := director.NewReconciler(director.ReconcilerConfig{Director: d, Rows: db, Sessions: sessions, Journal: ledger, Logger: log})
		stops.background("reconciler", failed, reconciler.Run)
	}
	if census != nil {
		stops.background("poll of sessions", failed, census.Run)
	}
	stops.background("vitals", failed, monitor.Run)
	stops.background("status page", failed, page.Run)
	stops.background("source of proxies", failed, proxies.run)
	stops.background("source of backends", failed, source.Run)
	stops.background("lookup API", failed, lookups.Run)
	log.Info("serving", "listen", lookups.Addr(), "ops_listen", ops.Addr(), "admin_listen", adminAddr, "version", version())

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
