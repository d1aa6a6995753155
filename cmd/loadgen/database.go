package main

import (
	"bufio"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// lostBackend is the backend whose users are re-homed, lostUsers how many it has.
const (
	lostBackend = 9
	lostUsers   = 300_000
)

// database is PostgreSQL with its default durability, and what the rounds need in it.
type database struct {
	server *pgtest.Server
	db     *sql.DB
	dir    string // for pgbench's scripts and logs
}

func newDatabase(dir string) (*database, error) {
	server, err := pgtest.New("fsync=on", "shared_buffers=128MB")
	if err != nil {
		return nil, err
	}
	d := &database{server: server, dir: dir}
	if d.db, err = sql.Open("postgres", d.url()); err != nil {
		_ = server.Close()
		return nil, err
	}
	return d, nil
}

func (d *database) url() string { return d.server.URL("postgres") }

func (d *database) close() error {
	_ = d.db.Close()
	return d.server.Close()
}

// seed fills the tables: users spread over backends whose rows are as old as an interval says, and the table of pgbench,
// which does not touch the director's rows.
func (d *database) seed(users int64, backends int, age string) error {
	return d.exec(
		`DROP TABLE IF EXISTS mailbox_username_backend, peer`,
		`CREATE TABLE mailbox_username_backend (username varchar(255) PRIMARY KEY, backend varchar(255) NOT NULL, last_ts timestamptz NOT NULL)`,
		`CREATE TABLE peer (LIKE mailbox_username_backend INCLUDING ALL)`,
		fmt.Sprintf(`INSERT INTO mailbox_username_backend SELECT 'user-' || n || '@example.org', 'dovecot-backend-' || n %% %d, now() - interval '%s' FROM generate_series(0, %d) AS n`, backends, age, users-1),
		`INSERT INTO peer SELECT * FROM mailbox_username_backend`,
		`VACUUM ANALYZE`,
		`CHECKPOINT`,
	)
}

// exec executes statements, one after the other.
func (d *database) exec(statements ...string) error {
	for _, statement := range statements {
		if _, err := d.db.Exec(statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// seedLost adds the users of the backend that will be lost.
func (d *database) seedLost() error {
	return d.exec(
		fmt.Sprintf(`INSERT INTO mailbox_username_backend SELECT 'lost-' || n || '@example.org', 'dovecot-backend-%d', now() FROM generate_series(1, %d) AS n`, lostBackend, lostUsers),
		`VACUUM ANALYZE`,
		`CHECKPOINT`,
	)
}

// The database's own part of each kind of lookup, as pgbench's scripts.
const (
	peerSelect = `\set n random(0, %d)
SELECT username, backend, last_ts FROM peer WHERE username = 'user-' || :n || '@example.org';
`
	peerInsert = `\set n random(1, 1000000000000000)
INSERT INTO peer (username, backend, last_ts) VALUES ('new-' || :n || '@example.org', 'dovecot-backend-0', now());
`
	peerUpdate = `\set n random(0, %d)
UPDATE peer SET backend = 'dovecot-backend-1', last_ts = now() WHERE username = 'user-' || :n || '@example.org';
`
)

var perSecond = regexp.MustCompile(`tps = ([0-9.]+)`)

// pgbench runs a script with so many clients and prepared statements.
func (d *database) pgbench(script string, clients int, length time.Duration) (result, error) {
	file, log := filepath.Join(d.dir, "pgbench.sql"), filepath.Join(d.dir, "pgbench-log")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		return result{}, err
	}
	host, port, _ := strings.Cut(d.server.Addr(), ":")
	out, err := exec.Command(filepath.Join(d.server.Bin(), "pgbench"), "-h", host, "-p", port, "-U", "postgres", "-n", "-M", "prepared",
		"-c", strconv.Itoa(clients), "-j", "2", "-T", strconv.Itoa(int(max(1, length.Seconds()))), "-f", file, "-l", "--log-prefix", log, "postgres").CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("pgbench: %w\n%s", err, out)
	}
	found := perSecond.FindSubmatch(out)
	if found == nil {
		return result{}, fmt.Errorf("pgbench does not say how fast it was:\n%s", out)
	}
	var r result
	if r.perSecond, err = strconv.ParseFloat(string(found[1]), 64); err != nil {
		return result{}, err
	}
	r.p50, r.p99, err = pgbenchTimes(log)
	return r, err
}

// pgbenchTimes reads and removes the logs: a line per transaction, its third field the microseconds that it took.
func pgbenchTimes(prefix string) (p50, p99 time.Duration, err error) {
	logs, err := filepath.Glob(prefix + ".*")
	if err != nil {
		return 0, 0, err
	}
	var took []int64
	for _, name := range logs {
		f, err := os.Open(name)
		if err != nil {
			return 0, 0, err
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if len(fields) > 2 {
				us, _ := strconv.ParseInt(fields[2], 10, 64)
				took = append(took, us)
			}
		}
		_ = f.Close()
		_ = os.Remove(name)
	}
	if len(took) == 0 {
		return 0, 0, fmt.Errorf("pgbench logged nothing to %s", prefix)
	}
	slices.Sort(took)
	return time.Duration(quantile(took, 0.50)) * time.Microsecond, time.Duration(quantile(took, 0.99)) * time.Microsecond, nil
}
