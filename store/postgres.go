package store

import (
	"context"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	director "github.com/k-web-s/go-dovecot-director"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

const (
	// assignLanes is how many batches are written at once: each waits for the disk, and the server writes the commits of several
	// at once.
	assignLanes = 4
	// maxConnections is how many connections a replica holds at most: what its lanes, touches and probes need at once.
	maxConnections = readLanes + assignLanes + suspectLanes + 2
	// orderConnections is how many it holds besides for orders and moves.
	orderConnections = 4
	// patientConnections is how many it holds besides for what may take longer than a lookup.
	patientConnections = 2
	// followConnections is how many its follower has to itself. What asks whether there is a ledger shares them.
	followConnections = 1
)

// postgres is a database in PostgreSQL. Nothing in it depends on the state of a session, so that it works through
// PgBouncer in transaction pooling.
type postgres struct {
	db *sqlx.DB
	// patient is for what may take longer than a lookup. An operator who looks does not hold up who counts users at a failover.
	patient *sqlx.DB
	// streaming is for reading all rows.
	streaming *sqlx.DB
	// ordering is for the ledger: operators' orders and moves.
	ordering *sqlx.DB
	// following is for the follower of the ledger, who must not wait behind moves.
	following *sqlx.DB
	// What is asked all the time.
	reading, assigning, touching *statement
	// What is asked in place of the first two once there is a ledger.
	readingMoves, assigningNoted *statement
	ledgered                     atomic.Bool
	looked                       atomic.Bool // it is known whether there is one
	replica                      string
	dsn                          string
	limits                       limits
}

func openPostgres(c Config) (*DB, error) {
	config, err := postgresConfig(c)
	if err != nil {
		return nil, err
	}
	warnOfMode(config, c.Logger)
	p := &postgres{replica: c.Replica, dsn: dsn(c, config), limits: c.limits}
	if p.db, err = pool(config, c.limits.silence, maxConnections); err != nil {
		return nil, err
	}
	if p.patient, err = pool(config, countLimit, patientConnections); err != nil {
		return nil, err
	}
	if p.streaming, err = pool(config, streamSilence, 1); err != nil {
		return nil, err
	}
	if p.ordering, err = pool(config, c.limits.silence, orderConnections); err != nil {
		return nil, err
	}
	if p.following, err = pool(config, c.limits.silence, followConnections); err != nil {
		return nil, err
	}
	preparing := &preparing{log: c.Logger}
	p.reading = &statement{db: p.db, text: readPostgres, preparing: preparing}
	p.assigning = &statement{db: p.db, text: assignPostgres, preparing: preparing}
	p.touching = &statement{db: p.db, text: touchPostgres, preparing: preparing}
	p.readingMoves = &statement{db: p.db, text: readMovesPostgres, preparing: preparing}
	p.assigningNoted = &statement{db: p.db, text: assignNotedPostgres, preparing: preparing}
	name := fmt.Sprintf("PostgreSQL at %s, database %s", net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port))), config.Database)
	return newDB(p, name, assignLanes, batchLimit, c.limits, c.Logger), nil
}

// postgresConfig makes lib/pq's configuration.
func postgresConfig(c Config) (pq.Config, error) {
	config, err := pq.NewConfig(c.URL)
	if err != nil {
		return config, fmt.Errorf("database-url: %s", redact(err.Error(), c.URL))
	}
	if c.URL == "" {
		config.Host, config.Database, config.User, config.Password = c.Host, c.Name, c.User, c.Password
		config.SSLMode = pq.SSLMode(c.SSLMode)
		config.Port = 5432
		if c.Port != "" {
			port, err := strconv.ParseUint(c.Port, 10, 16)
			if err != nil {
				return config, fmt.Errorf("database-port: %q is not a port", c.Port)
			}
			config.Port = uint16(port)
		}
	}
	// One round trip for a statement with parameters instead of two, and no prepared statement that a pooler would lose.
	config.BinaryParameters = true
	config.ConnectTimeout = c.limits.connect
	if config.ApplicationName == "" {
		config.ApplicationName = "go-dovecot-director"
	}
	return config, nil
}

// dsn is the configuration as lib/pq's listener takes it.
func dsn(c Config, config pq.Config) string {
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		if err != nil {
			return c.URL // it was read before
		}
		q := u.Query()
		if !q.Has("connect_timeout") {
			q.Set("connect_timeout", strconv.Itoa(int(config.ConnectTimeout/time.Second)))
		}
		q.Set("application_name", config.ApplicationName)
		u.RawQuery = q.Encode()
		return u.String()
	}
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	return fmt.Sprintf("host='%s' port=%d dbname='%s' user='%s' password='%s' sslmode='%s' application_name='%s' connect_timeout=%d",
		quote.Replace(config.Host), config.Port, quote.Replace(config.Database), quote.Replace(config.User), quote.Replace(config.Password),
		quote.Replace(string(config.SSLMode)), quote.Replace(config.ApplicationName), int(config.ConnectTimeout/time.Second))
}

func pool(config pq.Config, silence time.Duration, connections int) (*sqlx.DB, error) {
	connector, err := pq.NewConnectorConfig(config)
	if err != nil {
		return nil, fmt.Errorf("database settings: %w", err)
	}
	connector.Dialer(dialer{silence, config.ConnectTimeout})
	db := sqlx.NewDb(sql.OpenDB(connector), "postgres")
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return db, nil
}

// dialer makes connections whose reads and writes give up after a silence.
type dialer struct{ silence, connect time.Duration }

// Dial is for lib/pq's older interface.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialTimeout is for lib/pq's older interface.
func (d dialer) DialTimeout(network, address string, limit time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// DialContext connects.
func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: d.connect}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if d.silence == 0 {
		return conn, nil // the kernel finds out whether it is dead
	}
	return &impatientConn{conn, d.silence}, nil
}

type impatientConn struct {
	net.Conn
	silence time.Duration
}

func (c *impatientConn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *impatientConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.silence)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// row is a row as statements return it: age in seconds by the server's clock.
type row struct {
	Username, Backend string
	Age               float64
	// Of the user's move, if there is one.
	MovingTo  sql.NullString
	MovingFor sql.NullFloat64
}

func (r row) mapping() director.Mapping {
	m := director.Mapping{Backend: r.Backend, Age: age(r.Age)}
	if r.MovingTo.Valid {
		m.Moving = &director.Moving{To: r.MovingTo.String, Left: seconds(r.MovingFor.Float64)}
	}
	return m
}

const (
	// ahead is by how much a row may be younger than now: clocks that were set differ by that.
	ahead = time.Minute
	// unknownAge stands for the age of rows from the future: nothing is known of when they were written, but that was not a moment ago.
	unknownAge = 24 * time.Hour
)

// age is how old a row is that is so many seconds old by the database.
func age(s float64) time.Duration {
	switch {
	case s < -ahead.Seconds():
		return unknownAge
	case s > math.MaxInt64/2e9:
		return math.MaxInt64 / 2
	}
	return max(0, seconds(s))
}

// seconds is so many of them.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// mappings reads and closes rows, of which there are about so many.
func mappings(rows *sql.Rows, about int) (map[string]director.Mapping, error) {
	defer rows.Close()
	found := make(map[string]director.Mapping, about)
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var r row
	targets := []any{&r.Username, &r.Backend, &r.Age, &r.MovingTo, &r.MovingFor}[:len(columns)]
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return nil, err
		}
		found[r.Username] = r.mapping()
	}
	return found, rows.Err()
}

const readPostgres = `
SELECT username, backend, date_part('epoch', now() - last_ts) AS age
FROM mailbox_username_backend WHERE username = ANY ($1::varchar[])`

// readMovesPostgres sees moves too. They end at their deadline by themselves, whoever has died.
const readMovesPostgres = `
SELECT m.username, m.backend, date_part('epoch', now() - m.last_ts), v.to_backend, date_part('epoch', v.deadline - now())
FROM mailbox_username_backend AS m
LEFT JOIN director_move AS v ON v.username = m.username AND v.stage <> $2::varchar AND v.deadline > now() + $3::interval
WHERE m.username = ANY ($1::varchar[])`

func (p *postgres) read(ctx context.Context, users []string) (map[string]director.Mapping, error) {
	var rows *sql.Rows
	var err error
	if p.ledgered.Load() {
		rows, err = p.readingMoves.query(ctx, pq.StringArray(users), string(director.MoveSwitched), "0")
	} else {
		rows, err = p.reading.query(ctx, pq.StringArray(users))
	}
	if err != nil {
		return nil, err
	}
	return mappings(rows, len(users))
}

// assignPostgres is the compare-and-set of many users. Where a row is there and holds something else than expected it
// is written as it is, which makes RETURNING tell the winner's row in the same round trip; that happens in races only. So is one that is
// younger than it was when it was read, unless it is from the future.
// Rows are locked in the order of names. How long it waits for one lock is set for this transaction only, which is as long as
// the statement, before the first row is written.
const assignPostgres = `
WITH patience AS MATERIALIZED (
	SELECT set_config('lock_timeout', $4, true)
), input AS (
	SELECT username, was, becomes, age FROM unnest($1::varchar[], $2::varchar[], $3::varchar[], $5::float8[]) AS input (username, was, becomes, age), patience
)
` + assignRows

// assignNotedPostgres does the same, and writes into the journal which users changed their backend, or were let in while the database was down.
const assignNotedPostgres = `
WITH patience AS MATERIALIZED (
	SELECT set_config('lock_timeout', $4, true)
), input AS (
	SELECT username, was, becomes, age, reason
	FROM unnest($1::varchar[], $2::varchar[], $3::varchar[], $5::float8[], $6::varchar[]) AS input (username, was, becomes, age, reason), patience
), done AS (
` + assignRows + `, last_ts
), noted AS (
	INSERT INTO director_journal (subject, username, from_backend, to_backend, reason, replica)
	SELECT 'user', done.username, input.was, input.becomes, input.reason, $7 FROM done JOIN input ON input.username = done.username
	WHERE done.last_ts = now() AND done.backend = input.becomes AND (input.was <> '' AND input.reason NOT IN ('renamed', 'renewed') OR input.reason = 'provisional')
)
SELECT username, backend, age FROM done`

const assignRows = `
INSERT INTO mailbox_username_backend AS m (username, backend, last_ts)
SELECT username, becomes, now() FROM input ORDER BY username
ON CONFLICT (username) DO UPDATE SET
	(backend, last_ts) = (
		SELECT CASE WHEN fits THEN excluded.backend ELSE m.backend END, CASE WHEN fits THEN excluded.last_ts ELSE m.last_ts END
		FROM (
			SELECT coalesce((
				SELECT was = m.backend AND (age = 0 OR now() - m.last_ts >= age * interval '1 second' OR m.last_ts > now() + interval '1 minute')
				FROM input WHERE input.username = m.username
			), false) AS fits
		) AS fitting
	)
RETURNING username, backend, date_part('epoch', now() - last_ts) AS age`

// lockPatience is how long an impatient statement waits for a lock: longer than other replicas' statements take, and short
// enough for the users who wait for the same statement.
const lockPatience = "100ms"

func (p *postgres) assign(ctx context.Context, batch []director.Assignment, impatient bool) (map[string]director.Mapping, error) {
	users, was, becomes, ages := make(pq.StringArray, len(batch)), make(pq.StringArray, len(batch)), make(pq.StringArray, len(batch)), make(pq.Float64Array, len(batch))
	for i, a := range batch {
		users[i], was[i], becomes[i], ages[i] = a.User, a.Was, a.Becomes, a.Age.Seconds()
	}
	patience := p.limits.statement.String() // the statement's own: its cancellation may be lost on the way
	if impatient {
		patience = lockPatience
	}
	var rows *sql.Rows
	var err error
	if p.ledgered.Load() {
		reasons := make(pq.StringArray, len(batch))
		for i, a := range batch {
			reasons[i] = string(a.Reason)
		}
		rows, err = p.assigningNoted.query(ctx, users, was, becomes, patience, ages, reasons, p.replica)
	} else {
		rows, err = p.assigning.query(ctx, users, was, becomes, patience, ages)
	}
	if err != nil {
		return nil, err
	}
	return mappings(rows, len(batch))
}

// touchPostgres leaves rows alone that somebody else has locked: last_ts is not worth waiting.
const touchPostgres = `
UPDATE mailbox_username_backend AS m SET last_ts = now()
FROM (
	SELECT t.username FROM mailbox_username_backend AS t
	JOIN unnest($1::varchar[], $2::varchar[]) AS input (username, backend) ON t.username = input.username AND t.backend = input.backend
	ORDER BY t.username FOR UPDATE OF t SKIP LOCKED
) AS touched
WHERE m.username = touched.username`

func (p *postgres) touch(ctx context.Context, touches []touch) error {
	users, backends := make(pq.StringArray, len(touches)), make(pq.StringArray, len(touches))
	for i, t := range touches {
		users[i], backends[i] = t.user, t.backend
	}
	rows, err := p.touching.query(ctx, users, backends)
	if err != nil {
		return err
	}
	return rows.Close()
}

func (p *postgres) counts(ctx context.Context) (map[string]int, error) {
	return selectCounts(ctx, p.patient)
}

// selectCounts is the same in both databases.
func selectCounts(ctx context.Context, db *sqlx.DB) (map[string]int, error) {
	var rows []struct {
		Backend string
		Users   int
	}
	if err := db.SelectContext(ctx, &rows, `SELECT backend, count(*) AS users FROM mailbox_username_backend GROUP BY backend`); err != nil {
		return nil, err
	}
	counts := make(map[string]int, len(rows))
	for _, r := range rows {
		counts[r.Backend] = r.Users
	}
	return counts, nil
}

// probe reads the table and asks whether it could be written.
func (p *postgres) probe(ctx context.Context) error {
	var readOnly bool
	err := p.db.GetContext(ctx, &readOnly, `
		SELECT current_setting('transaction_read_only')::bool OR pg_is_in_recovery()
		FROM (SELECT count(*) FROM (SELECT username, backend, last_ts FROM mailbox_username_backend LIMIT 1) AS one) AS table_is_there`)
	if err == nil && readOnly {
		return errReadOnly
	}
	if err != nil {
		return err
	}
	// What may not be used is the follower's to say. But before it is known whether there is a ledger, nobody may be served as if
	// there were none.
	if _, err := p.findLedger(ctx); err != nil && !p.looked.Load() {
		return err
	}
	return nil
}

// findLedger looks whether there is a ledger. If that cannot be known, it is as before.
func (p *postgres) findLedger(ctx context.Context) (bool, error) {
	there, err := ledgerInPostgres(ctx, p.following)
	if err == nil || errors.Is(err, errLedgerDenied) {
		p.ledgered.Store(there)
		p.looked.Store(true)
	}
	return there, err
}

func (p *postgres) ledger() ledgerIn {
	return ledgerIn{slow: p.patient, db: p.ordering, following: p.following, dialect: inPostgres, find: p.findLedger, there: p.ledgered.Load, notify: `SELECT pg_notify('` + ledgerChannel + `', '')`, writing: unlocked{}, listen: p.listen}
}

var errReadOnly = errors.New("the server is read-only: a standby, or default_transaction_read_only is on")

// close ignores errors: connections that are dead already have some, and nothing is lost with them.
func (p *postgres) close() error {
	_, _, _, _, _ = p.db.Close(), p.patient.Close(), p.streaming.Close(), p.ordering.Close(), p.following.Close()
	return nil
}

func (p *postgres) migrate(ctx context.Context) ([]string, error) {
	report, err := p.migrateMappings(ctx)
	if err != nil {
		return nil, err
	}
	// The number is drawn by lot; who migrates at the same time waits.
	more, err := migrateLedger(ctx, p.patient, inPostgres, `SELECT pg_advisory_xact_lock(7273846120957)`)
	if there, findErr := p.findLedger(ctx); err != nil || !there {
		return append(report, more...), errors.Join(err, findErr)
	}
	for _, statement := range []string{readMovesPostgres, assignNotedPostgres} {
		if err == nil {
			err = p.explainStatement(ctx, statement)
		}
	}
	return append(report, more...), err
}

func (p *postgres) migrateMappings(ctx context.Context) ([]string, error) {
	var there bool
	if err := p.patient.GetContext(ctx, &there, `SELECT to_regclass('mailbox_username_backend') IS NOT NULL`); err != nil {
		return nil, err
	}
	if !there {
		if _, err := p.patient.ExecContext(ctx, `CREATE TABLE mailbox_username_backend (
			username varchar(255) PRIMARY KEY,
			backend varchar(255) NOT NULL,
			last_ts timestamptz NOT NULL
		)`); err != nil {
			return nil, err
		}
		return []string{"table mailbox_username_backend: created"}, nil
	}
	// Plans the very statements, which shows missing columns, rights and the missing primary key, and does nothing.
	for _, statement := range []string{readPostgres, assignPostgres, touchPostgres} {
		if err := p.explainStatement(ctx, statement); err != nil {
			return nil, fmt.Errorf("table mailbox_username_backend is there, but cannot be used: %w", err)
		}
	}
	return []string{"table mailbox_username_backend: is there, left as it is"}, nil
}

func (p *postgres) explainStatement(ctx context.Context, statement string) error {
	none := pq.StringArray{}
	args := map[string][]any{readPostgres: {none}, assignPostgres: {none, none, none, "0", none}, touchPostgres: {none, none}, readMovesPostgres: {none, "", "0"}, assignNotedPostgres: {none, none, none, "0", none, none, ""}}
	_, err := p.patient.ExecContext(ctx, "EXPLAIN "+statement, args[statement]...)
	return err
}

// explain turns an error into one for operators.
func (p *postgres) explain(err error) (kind, error) {
	e, ok := errors.AsType[*pq.Error](err)
	if !ok {
		if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			return slow, errTooLong
		}
		return broken, explainTLS(err)
	}
	switch e.Code {
	case pqerror.TRDeadlockDetected, pqerror.TRSerializationFailure:
		return retry, err
	case pqerror.ForeignKeyViolation, pqerror.CheckViolation:
		return refused, err
	case pqerror.QueryCanceled:
		return slow, errTooLong
	case pqerror.LockNotAvailable:
		return locked, errors.New("somebody else has locked the user's row")
	case pqerror.UndefinedTable:
		return faulty, errors.New("the table mailbox_username_backend is missing: run 'go-dovecot-director migrate', or look at the search_path")
	case pqerror.InsufficientPrivilege:
		return faulty, fmt.Errorf("%s: GRANT SELECT, INSERT, UPDATE ON mailbox_username_backend to the director's user", e.Message)
	case pqerror.InvalidPassword, pqerror.InvalidAuthorizationSpecification:
		return broken, fmt.Errorf("%s: look at DATABASE_USER and DATABASE_PASSWORD", e.Message)
	case pqerror.ReadOnlySQLTransaction:
		return broken, errReadOnly
	case pqerror.TooManyConnections:
		return broken, fmt.Errorf("%s: raise max_connections, or use a pooler", e.Message)
	}
	switch e.Code.Class() {
	case "22": // data exception: too long, not in the server's encoding
		return refused, err
	case "08", "53", "57", "58", "XX", "28", "3D": // connection, resources, administrator, system, internal, login, database
		return broken, err
	}
	return faulty, err
}

// explainTLS adds what to do to an error of the connection's encryption, and returns others as they are.
func explainTLS(err error) error {
	advice := ""
	_, otherHost := errors.AsType[x509.HostnameError](err)
	_, otherAuthority := errors.AsType[x509.UnknownAuthorityError](err)
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	alert, isOp := errors.AsType[*net.OpError](err)
	_, noFile := errors.AsType[*fs.PathError](err)
	switch {
	case errors.Is(err, pq.ErrSSLNotSupported):
		advice = "switch TLS on at the server, or choose a DATABASE_SSLMODE that does without"
	case otherHost:
		advice = "let DATABASE_HOST or DATABASE_URL name the server as its certificate does, or give it a certificate for that name; DATABASE_SSLMODE=verify-ca minds no name"
	case otherAuthority:
		advice = "let PGSSLROOTCERT, or sslrootcert in DATABASE_URL, name a file with the authority that signed the server's certificate"
	case isInvalid && invalid.Reason == x509.Expired:
		advice = "renew the server's certificate, and look at the clocks"
	case isOp && alert.Op == "remote error": // as crypto/tls calls an alert
		advice = "the server refuses the client's certificate; look at PGSSLCERT and PGSSLKEY, or sslcert and sslkey in DATABASE_URL, and at the server's ssl_ca_file"
	case errors.Is(err, pq.ErrSSLKeyHasWorldPermissions):
		advice = "in a pod, mount the Secret with defaultMode 0440 and set fsGroup"
	case noFile:
		advice = "look at PGSSLROOTCERT, PGSSLCERT and PGSSLKEY, or sslrootcert, sslcert and sslkey in DATABASE_URL"
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, advice)
}

// warnOfMode tells who named an authority that the server's certificate is not held against: whoever is on the way can pass for the server.
func warnOfMode(config pq.Config, log *slog.Logger) {
	switch config.SSLMode {
	case pq.SSLModeDisable, pq.SSLModeAllow, pq.SSLModePrefer:
		if config.SSLRootCert != "" {
			log.Warn("the database's certificate is not verified, though there is an authority to do it by; set DATABASE_SSLMODE to verify-full", "sslmode", config.SSLMode, "authority", config.SSLRootCert)
		}
	}
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}
