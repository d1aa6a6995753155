package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/store"
	"github.com/spf13/pflag"
)

// settings are all that serve can be told; migrate knows the database's part of them.
type settings struct {
	listen, opsListen string
	drainDelay        time.Duration
	lookup            lookupSettings
	admin             adminSettings
	source            sourceSettings
	database          databaseSettings
	policy            policySettings
	operation         operationSettings
	log               logSettings
}

// policySettings say how it is decided where users belong.
type policySettings struct {
	users           director.UserFormat
	unknownUsers    string
	outage          string
	graces          director.Graces
	rememberedUsers int
	touchInterval   time.Duration
	storm           director.Storm
}

// sourceSettings say where the backends are observed.
type sourceSettings struct {
	namespace, service, kubeconfig, endpointsFile string
	// restarted is no setting: it counts watches.
	restarted func(resource string)
}

// databaseSettings say where the mappings are kept.
type databaseSettings struct {
	url, host, port, name, user, password, passwordFile, sslMode string
	// replica is no setting of the database's: it is for the journal; and meter counts.
	replica string
	meter   store.Meter
}

// logSettings say what is logged and how.
type logSettings struct {
	level  slog.Level
	format string
}

// defaultListen is where lookups are answered.
const defaultListen = ":8080"

// unknownUsersReject is the value of --unknown-users that turns them away.
const unknownUsersReject = "reject"

// outagePropose is the value of --database-outage that lets new users in while the database is down.
const outagePropose = "propose"

// register adds the flags of serve.
func (s *settings) register(fs *pflag.FlagSet) {
	add(fs, &s.listen, "listen", "address", defaultListen, "address of the lookup API", parseAddress)
	add(fs, &s.opsListen, "ops-listen", "address", ":8081", "address of the operations API: /healthz, /readyz, /metrics, and the status page", parseAddress)
	add(fs, &s.drainDelay, "drain-delay", "duration", "5s", "how long lookups are still answered after a shutdown began, while the proxies are being told", parseDuration(0, 20*time.Second))
	s.lookup.register(fs)
	s.admin.register(fs)
	s.source.register(fs)
	s.database.register(fs)
	s.policy.register(fs)
	s.operation.register(fs)
	s.log.register(fs)
}

func (s *policySettings) register(fs *pflag.FlagSet) {
	registerUserName(fs, &s.users.Name)
	add(fs, &s.users.Hash, "hash-format", "template", "%Lu", "what the ring hashes; %Ld keeps the new users of a domain together", director.ParseTemplate)
	add(fs, &s.unknownUsers, "unknown-users", "choice", "propose", "users whom the database refuses: propose a backend, or reject them", parseChoice("propose", unknownUsersReject))
	add(fs, &s.outage, "database-outage", "choice", "known", "who is served while the database is down: users who are known, or propose a backend to new ones too", parseChoice("known", outagePropose))
	add(fs, &s.graces.Failover, "failover-grace", "duration", "30s", "how long the users of a backend wait that is not ready", parseDuration(0, time.Hour))
	add(fs, &s.graces.Restart, "restart-grace", "duration", "2m0s", "how long the users of a backend wait that was deleted; longer than its restart takes", parseDuration(0, 24*time.Hour))
	add(fs, &s.graces.Panic, "panic-grace", "duration", "5m0s", "how long they wait while more than half of the backends are lost", parseDuration(0, 24*time.Hour))
	add(fs, &s.storm.Rate, "login-rate", "number", "0", "how many users in a second, who were mapped to another backend a moment ago, this director lets in to a backend of weight 1 at once; the others Dovecot lets wait. 0 for any number", parseNumber(0, 1e6))
	add(fs, &s.storm.Most, "login-delay", "duration", "30s", "how long they wait at most; not longer than --failover-grace", parseDuration(time.Second, director.MaxDelay))
	add(fs, &s.touchInterval, "touch-interval", "duration", "10m0s", "how often a user's last_ts is refreshed at most", parseDuration(time.Second, 24*time.Hour))
	add(fs, &s.rememberedUsers, "remembered-users", "number", "250000", "how many users a replica remembers, to serve them while the database is down; 16 bytes each", parseCount(0, 100_000_000))
}

func (s *policySettings) check() error {
	if s.storm.Rate > 0 && s.storm.Most > s.graces.Failover {
		return fmt.Errorf("--login-delay %s is longer than --failover-grace %s (environment: LOGIN_DELAY, FAILOVER_GRACE): a login that waits would go to a backend that was given up meanwhile", s.storm.Most, s.graces.Failover)
	}
	if s.outage == outagePropose && s.rememberedUsers == 0 {
		return errors.New("--database-outage is propose, and --remembered-users is 0 (environment: DATABASE_OUTAGE, REMEMBERED_USERS): who was let in during an outage has to be remembered, as many as that at most")
	}
	return nil
}

// policy is what the settings come to.
func (s *policySettings) policy() director.Policy {
	return director.Policy{RejectUnknown: s.unknownUsers == unknownUsersReject, OutageProposes: s.outage == outagePropose}
}

// registerUserName adds the setting that says under which name a user is stored.
func registerUserName(fs *pflag.FlagSet, name *director.Template) {
	add(fs, name, "username-format", "template", "%Lu", "canonical user name, as in Dovecot: %u, %n and %d with L or U for the case", director.ParseTemplate)
}

func (s *sourceSettings) register(fs *pflag.FlagSet) {
	add(fs, &s.namespace, "namespace", "name", "", "namespace of the backends' Service", parseText)
	add(fs, &s.service, "service", "name", "", "the backends' Service", parseText)
	add(fs, &s.kubeconfig, "kubeconfig", "file", "", "how to reach the API server from outside of a cluster", parseText)
	add(fs, &s.endpointsFile, "endpoints-file", "file", "", "take the backends from a file instead: Endpoints, EndpointSlice or a plain list, in YAML or JSON", parseText)
}

func (s *databaseSettings) register(fs *pflag.FlagSet) {
	add(fs, &s.url, "database-url", "url", "", "postgres://USER@HOST:PORT/NAME or sqlite:PATH, in place of the next five", parseText)
	add(fs, &s.host, "database-host", "host", "", "PostgreSQL's host name, address or socket directory", parseText)
	add(fs, &s.port, "database-port", "port", "5432", "PostgreSQL's port", parsePort)
	add(fs, &s.name, "database-name", "name", "", "PostgreSQL's database", parseText)
	add(fs, &s.user, "database-user", "name", "", "PostgreSQL's user", parseText)
	add(fs, &s.sslMode, "database-sslmode", "choice", "prefer", "TLS to PostgreSQL, as in libpq; the file PGSSLROOTCERT holds the authority of verify-full, if that is no public one", parseChoice("disable", "allow", "prefer", "require", "verify-ca", "verify-full"))
	add(fs, &s.password, "database-password", "secret", "", "PostgreSQL's password; better in the environment or a file", parseText)
	add(fs, &s.passwordFile, "database-password-file", "file", "", "file that holds the password", parseText)
}

func (s *logSettings) register(fs *pflag.FlagSet) {
	add(fs, &s.level, "log-level", "level", "info", "debug, info, warn or error", parseLevel)
	add(fs, &s.format, "log-format", "choice", "text", "text or json", parseChoice("text", "json"))
}

// check looks at what single values cannot tell.
func (s *settings) check() error {
	if err := s.lookup.check(); err != nil {
		return err
	}
	if err := s.admin.check(); err != nil {
		return err
	}
	if err := s.source.check(); err != nil {
		return err
	}
	if err := s.policy.check(); err != nil {
		return err
	}
	if err := s.operation.check(s.source); err != nil {
		return err
	}
	return s.database.check()
}

func (s *sourceSettings) check() error {
	switch {
	case s.endpointsFile != "" && s.service != "":
		return errors.New("both --endpoints-file and --service (environment: ENDPOINTS_FILE, SERVICE) are set: the backends can come from one place only")
	case s.endpointsFile != "":
		return readable("endpoints-file", s.endpointsFile)
	case s.service == "":
		return errors.New("--service is missing (environment: SERVICE): the name of the backends' Service; outside of Kubernetes use --endpoints-file")
	case s.namespace == "":
		return errors.New("--namespace is missing (environment: NAMESPACE): the namespace of the Service " + strconv.Quote(s.service))
	case s.kubeconfig != "":
		return readable("kubeconfig", s.kubeconfig)
	}
	return nil
}

// readable reports a file that a setting names and that cannot be opened.
func readable(setting, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("--%s (environment: %s): %w", setting, environmentName(setting), err)
	}
	return f.Close()
}

func (s *databaseSettings) check() error {
	switch {
	case s.url != "" && s.host != "":
		return errors.New("both --database-url and --database-host (environment: DATABASE_URL, DATABASE_HOST) are set: unset one")
	case s.url == "" && s.host == "":
		return errors.New("--database-host is missing (environment: DATABASE_HOST), or --database-url in its place")
	case s.host != "" && s.name == "":
		return errors.New("--database-name is missing (environment: DATABASE_NAME)")
	case s.host != "" && s.user == "":
		return errors.New("--database-user is missing (environment: DATABASE_USER)")
	case s.password != "" && s.passwordFile != "":
		return errors.New("both --database-password and --database-password-file (environment: DATABASE_PASSWORD, DATABASE_PASSWORD_FILE) are set: unset one")
	}
	if s.passwordFile != "" {
		secret, err := os.ReadFile(s.passwordFile)
		if err != nil {
			return fmt.Errorf("--database-password-file (environment: DATABASE_PASSWORD_FILE): %w", err)
		}
		s.password = strings.TrimRight(string(secret), "\r\n")
	}
	db, err := s.open(nil) // connects to nothing
	if err != nil {
		return err
	}
	return db.Close()
}

// value is a flag of any type, kept with the text that it was made of.
type value[T any] struct {
	target *T
	text   string
	kind   string
	parse  func(string) (T, error)
}

func (v *value[T]) String() string { return v.text }
func (v *value[T]) Type() string   { return v.kind }

func (v *value[T]) Set(text string) error {
	parsed, err := v.parse(text)
	if err != nil {
		return err
	}
	*v.target, v.text = parsed, text
	return nil
}

// add registers a setting. Its default is a text like any other; an empty one leaves the zero value.
func add[T any](fs *pflag.FlagSet, target *T, name, kind, preset, usage string, parse func(string) (T, error)) {
	v := newValue(target, kind, preset, parse)
	if preset != "" {
		usage += fmt.Sprintf(" (default %s)", preset)
	}
	fs.Var(v, name, usage+" ["+environmentName(name)+"]")
	fs.Lookup(name).DefValue = "" // it stands in the usage, before the environment's name
}

// newValue makes a value with a default.
func newValue[T any](target *T, kind, preset string, parse func(string) (T, error)) *value[T] {
	v := &value[T]{target: target, kind: kind, parse: parse}
	if preset != "" {
		if err := v.Set(preset); err != nil {
			panic(fmt.Sprintf("default %q: %v", preset, err))
		}
	}
	return v
}

// environmentName is the variable that stands for a flag.
func environmentName(flag string) string {
	return strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// fromEnvironment sets what the command line left open. An empty variable counts as unset: manifests carry such.
func fromEnvironment(fs *pflag.FlagSet, env lookupEnv) error {
	var first error
	fs.VisitAll(func(f *pflag.Flag) {
		text, ok := env(environmentName(f.Name))
		if f.Changed || !ok || text == "" || f.Name == "help" {
			return
		}
		if err := f.Value.Set(text); err != nil && first == nil {
			first = fmt.Errorf("environment variable %s: %w", environmentName(f.Name), err)
		}
	})
	return first
}

func parseText(s string) (string, error) { return s, nil }

func parseAddress(s string) (string, error) {
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = parseListenPort(port)
	}
	if err != nil {
		return "", fmt.Errorf("%q is not an address to listen on; write HOST:PORT or :PORT", s)
	}
	return s, nil
}

func parseListenPort(s string) (uint64, error) { return strconv.ParseUint(s, 10, 16) }

func parsePort(s string) (string, error) {
	if n, err := strconv.ParseUint(s, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q is not a port; write a number from 1 to 65535", s)
	}
	return s, nil
}

func parseDuration(least, most time.Duration) func(string) (time.Duration, error) {
	return parseWithin(time.ParseDuration, "is not a duration; write 30s, 2m or 1h30m", least, most)
}

func parseCount(least, most int) func(string) (int, error) {
	return parseWithin(strconv.Atoi, "is not a whole number", least, most)
}

// parseWithin lets parse read a value, and checks its bounds. A text that cannot be read is not what it should be.
func parseWithin[T cmp.Ordered](parse func(string) (T, error), isNot string, least, most T) func(string) (T, error) {
	return func(s string) (T, error) {
		v, err := parse(s)
		switch {
		case err != nil:
			return v, fmt.Errorf("%q %s", s, isNot)
		case !(v >= least && v <= most): // no number is within bounds that is none
			return v, fmt.Errorf("%v is out of bounds; the least is %v, the most is %v", v, least, most)
		}
		return v, nil
	}
}

func parseChoice(choices ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(choices, s) {
			return "", fmt.Errorf("%q is not known; write one of %s", s, strings.Join(choices, ", "))
		}
		return s, nil
	}
}

func parseLevel(s string) (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s)); err != nil {
		return 0, fmt.Errorf("%q is not a log level; write debug, info, warn or error", s)
	}
	return level, nil
}
