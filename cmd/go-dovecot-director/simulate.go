package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/k-web-s/go-dovecot-director/ring/sim"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// simulateSettings are the flags of simulate.
type simulateSettings struct {
	output, page string
	compare      bool
}

func simulateCommand(stdout, stderr io.Writer) *cobra.Command {
	var s simulateSettings
	cmd := &cobra.Command{
		Use:   "simulate FILE...",
		Short: "Play scenarios of scaling, restarts and faults, and say who moves and who waits",
		Long: "Play scenarios of scaling, restarts and faults with the rules, the ring and the planner that serve uses, in simulated time, and say\n" +
			"who moves, who waits, and how even it stays. A scenario that does not come out as it expects itself is a failure.\n" +
			"testdata/scenarios has examples; the README says what may stand in one.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			if err := simulate(cmd.Context(), s, files, stdout, stderr); err != nil {
				return failure{err}
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.Var(newValue(&s.output, "format", "table", parseChoice("table", "json", "csv")), "output", "table, json or csv")
	fs.StringVar(&s.page, "html", "", "write a page with pictures to this `file` too")
	fs.BoolVar(&s.compare, "compare", false, "play each scenario under other strategies too, and compare them")
	return cmd
}

// errNotAsExpected says that the results, which are written already, name expectations that were not met.
var errNotAsExpected = errors.New("not all is as the scenarios expect")

func simulate(ctx context.Context, s simulateSettings, files []string, stdout, stderr io.Writer) error {
	scenarios := make([]*sim.Scenario, len(files))
	for i, file := range files { // all are read before the first is played
		var err error
		if scenarios[i], err = loadScenario(file); err != nil {
			return err
		}
	}
	var page io.WriteCloser
	if s.page != "" {
		var err error
		if page, err = os.Create(s.page); err != nil {
			return fmt.Errorf("--html: %w", err)
		}
		defer page.Close()
	}
	strategies := []string{sim.Ours}
	if s.compare {
		strategies = sim.Strategies()
	}
	results, err := play(ctx, scenarios, strategies, stderr)
	if err != nil {
		return err
	}
	if err := write(stdout, s, results); err != nil {
		return err
	}
	if page != nil {
		if err := errors.Join(sim.WritePage(page, results), page.Close()); err != nil {
			return fmt.Errorf("--html: %w", err)
		}
	}
	for _, r := range results {
		if r.Strategy == sim.Ours && len(r.Failed) > 0 {
			return errNotAsExpected
		}
	}
	return nil
}

// loadScenario reads a scenario, whose settings are those of serve.
func loadScenario(file string) (*sim.Scenario, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return loadScenarioText(file, data)
}

func loadScenarioText(file string, data []byte) (*sim.Scenario, error) {
	return sim.Load(file, data, newScenarioSettings(), func(name string, each func(user, backend string) error) error {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(file), name)
		}
		return readMappingFile(name, each)
	})
}

// scenarioSettings take the policy's settings from a scenario.
type scenarioSettings struct {
	*pflag.FlagSet
	policy *policySettings
}

func newScenarioSettings() scenarioSettings {
	s := scenarioSettings{pflag.NewFlagSet("settings", pflag.ContinueOnError), &policySettings{}}
	s.policy.register(s.FlagSet)
	return s
}

// Settings are what was set, and defaults.
func (s scenarioSettings) Settings() sim.Settings {
	return sim.Settings{Users: s.policy.users, Policy: s.policy.policy(), Graces: s.policy.graces, TouchInterval: s.policy.touchInterval, Remember: s.policy.rememberedUsers}
}

// play runs each scenario under each strategy, two at a time. Results are in the order of scenarios, and of strategies in them.
func play(ctx context.Context, scenarios []*sim.Scenario, strategies []string, stderr io.Writer) ([]*sim.Result, error) {
	type work struct {
		i        int
		scenario *sim.Scenario
		strategy string
	}
	all := make(chan work)
	count := len(scenarios) * len(strategies)
	results, errs := make([]*sim.Result, count), make([]error, count)
	bar := newProgress(stderr, count)
	defer bar.close()
	var players sync.WaitGroup
	for range min(2, count) {
		players.Go(func() {
			for w := range all {
				results[w.i], errs[w.i] = sim.Run(ctx, w.scenario, sim.Options{Strategy: w.strategy, Progress: func(done float64) { bar.set(w.i, done) }})
				bar.set(w.i, 1)
			}
		})
	}
	for i := range count {
		all <- work{i, scenarios[i/len(strategies)], strategies[i%len(strategies)]}
	}
	close(all)
	players.Wait()
	return results, errors.Join(errs...)
}

// write writes results in the form that was asked for.
func write(stdout io.Writer, s simulateSettings, results []*sim.Result) error {
	switch {
	case s.output == "json":
		return sim.WriteJSON(stdout, results)
	case s.output == "csv":
		return sim.WriteCSV(stdout, results)
	case !s.compare:
		return sim.WriteTable(stdout, results)
	}
	each := len(sim.Strategies())
	for i := 0; i < len(results); i += each {
		if i > 0 {
			fmt.Fprintln(stdout)
		}
		if err := sim.WriteComparison(stdout, results[i:i+each]); err != nil {
			return err
		}
	}
	return nil
}
