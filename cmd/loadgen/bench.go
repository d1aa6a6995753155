package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// bench runs the peers in turns.
type bench struct {
	director string // path of the program
	dir      string
	rounds   int
	length   time.Duration
	database *database
	null     *process
	nullAt   string
	numbers  counter
}

const warm = 300 * time.Millisecond

func newBench(director string, rounds int, length time.Duration) (_ *bench, err error) {
	b := &bench{director: director, rounds: rounds, length: length}
	if b.dir, err = os.MkdirTemp("", "loadgen-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.database, err = newDatabase(b.dir); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if b.nullAt, err = freeAddress(); err != nil {
		return nil, err
	}
	if b.null, err = start(self, "null", b.nullAt); err != nil {
		return nil, err
	}
	return b, b.null.waitFor("http://" + b.nullAt)
}

func (b *bench) close() error {
	var err error
	if b.null != nil {
		b.null.stop()
	}
	if b.database != nil {
		err = b.database.close()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// replica is a director that serves.
type replica struct {
	*process
	lookups, ops string
}

// replicas starts directors that share the database and see so many backends.
func (b *bench) replicas(n, backends int) ([]replica, error) {
	if err := b.listBackends(backends); err != nil {
		return nil, err
	}
	var all []replica
	for range n {
		lookups, err := freeAddress()
		if err != nil {
			return all, err
		}
		ops, err := freeAddress()
		if err != nil {
			return all, err
		}
		p, err := start(b.director, "serve", "--endpoints-file", b.backendsFile(), "--database-url", b.database.url(), "--listen", lookups, "--ops-listen", ops, "--admin-listen", "off",
			"--drain-delay", "0s", "--restart-grace", "1s", "--panic-grace", "1s")
		if err != nil {
			return all, fmt.Errorf("%s: %w", b.director, err)
		}
		all = append(all, replica{p, lookups, ops})
		if err := p.waitFor("http://" + ops + "/readyz"); err != nil {
			return all, err
		}
	}
	return all, nil
}

func (b *bench) backendsFile() string { return filepath.Join(b.dir, "backends.yaml") }

// listBackends writes the file that the directors follow. It is replaced whole, since they may read it at any moment.
func (b *bench) listBackends(n int) error {
	var list strings.Builder
	for i := range n {
		fmt.Fprintf(&list, "- {name: dovecot-backend-%d, address: 198.18.%d.%d, ports: {imap: 31143, lmtp: 31024}}\n", i, i/250, 1+i%250)
	}
	if err := os.WriteFile(b.backendsFile()+".new", []byte(list.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(b.backendsFile()+".new", b.backendsFile())
}

func stopAll(all []replica) {
	for _, r := range all {
		r.stop()
	}
}

// work is one row of the report: the same load on the director and on the null handler, and the database's part of it by
// pgbench.
type work struct {
	name        string
	connections int
	script      func(int) script
	// peer is pgbench's script, empty for none, and clients how many run it.
	peer    string
	clients int
}

// rounds are the results of a peer, one each round.
type rounds []result

// compared is what the rounds of one work came to.
type compared struct {
	work                     work
	director, null, database rounds
	resident                 int64 // after the last round, in bytes
}

// compare runs the rounds of one work, and says on standard error that it has.
func (b *bench) compare(w work, replicas []replica, rounds int) (compared, error) {
	c := compared{work: w}
	addresses, processes := make([]string, len(replicas)), make([]int, len(replicas))
	for i, r := range replicas {
		addresses[i], processes[i] = r.lookups, r.cmd.Process.Pid
	}
	l := load{connections: w.connections, script: w.script, warm: warm, length: b.length}
	for range rounds {
		c.null = append(c.null, l.run([]string{b.nullAt}, []int{b.null.cmd.Process.Pid}, nil))
		r := l.run(addresses, processes, b.database.server.Processes())
		if r.failed > 0 {
			return c, fmt.Errorf("%s: %d lookups failed, the first with: %w", w.name, r.failed, r.failure)
		}
		c.director = append(c.director, r)
		if w.peer != "" {
			p, err := b.database.pgbench(w.peer, w.clients, b.length)
			if err != nil {
				return c, err
			}
			c.database = append(c.database, p)
		}
	}
	for _, r := range replicas {
		c.resident = max(c.resident, r.resident())
	}
	fmt.Fprintf(os.Stderr, "%s: %.0f lookups/s\n", w.name, c.director.median(perSecondOf)) // shows that something happens
	return c, nil
}

// median is of a figure of each round.
func (r rounds) median(figure func(result) float64) float64 {
	values := make([]float64, len(r))
	for i := range r {
		values[i] = figure(r[i])
	}
	return median(values)
}

// ratio is the median of how a figure of each round compares with that of another peer in the same round.
func ratio(a, b rounds, figure func(result) float64) float64 {
	if len(b) == 0 {
		return 0
	}
	values := make([]float64, len(a))
	for i := range a {
		values[i] = figure(a[i]) / figure(b[i])
	}
	return median(values)
}

func median(values []float64) float64 {
	slices.Sort(values)
	return quantile(values, 0.5)
}

// The figures of a round.
func perSecondOf(r result) float64 { return r.perSecond }
func p50Of(r result) float64       { return float64(r.p50) }
func p99Of(r result) float64       { return float64(r.p99) }
func cpuOf(r result) float64       { return float64(r.cpu) }

func databaseCPUOf(r result) float64 { return float64(r.databaseCPU) }
func ownCPUOf(r result) float64      { return float64(r.ownCPU) }
