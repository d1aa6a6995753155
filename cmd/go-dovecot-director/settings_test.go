package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// none is an empty environment.
func none(string) (string, bool) { return "", false }

func environment(pairs ...string) lookupEnv {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func TestBadSettingsAreOneLineAndExitCodeTwo(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "no such file")

	base := []string{"serve", "--endpoints-file", endpoints, "--database-url", "sqlite:x.db"}
	for name, tc := range map[string]struct {
		args []string
		env  lookupEnv
		want string
	}{
		"an unknown verb":                  {[]string{"sing"}, none, `unknown command "sing"`},
		"an unknown flag":                  {[]string{"serve", "--colour"}, none, "unknown flag: --colour"},
		"an argument too many":             {append(base, "x"), none, `unknown command "x"`},
		"a bad duration":                   {append(base, "--failover-grace", "soon"), none, `"--failover-grace" flag: "soon" is not a duration; write 30s`},
		"a negative duration":              {append(base, "--panic-grace=-1s"), none, `"--panic-grace" flag: -1s is out of bounds; the least is 0s`},
		"a bad duration in the env":        {base, environment("TOUCH_INTERVAL", "0s"), "environment variable TOUCH_INTERVAL: 0s is out of bounds; the least is 1s"},
		"a bad number":                     {append(base, "--remembered-users", "many"), none, `"--remembered-users" flag: "many" is not a whole number`},
		"a number that is too large":       {base, environment("REMEMBERED_USERS", "1000000000"), "environment variable REMEMBERED_USERS: 1000000000 is out of bounds; the least is 0, the most is 100000000"},
		"a delay beyond the grace":         {append(base, "--login-rate", "5", "--login-delay", "31s"), none, "--login-delay 31s is longer than --failover-grace 30s (environment: LOGIN_DELAY, FAILOVER_GRACE)"},
		"evening out without a key":        {append(base, "--even-above", "1.1"), none, "--even-above (environment: EVEN_ABOVE) needs --doveadm-key-file and --session-poll"},
		"a replica of two lines":           {append(base, "--replica-name", "a\nb"), none, `"a\nb" is not a name: printable text of at most 253 bytes`},
		"a poll without a pause":           {append(base, "--session-poll", "1ms"), none, "1ms is too often; the least is 1s, and 0s is for never"},
		"less than its share":              {append(base, "--even-above", "0.9"), none, `"--even-above" flag: 0.9 is less than a backend's share; the least is 1, and 0 is for never`},
		"a bad port":                       {append(base, "--database-port", "70000"), none, `"--database-port" flag: "70000" is not a port`},
		"a bad port in the env":            {base, environment("DATABASE_PORT", "postgres"), `environment variable DATABASE_PORT: "postgres" is not a port`},
		"a bad address":                    {append(base, "--listen", "8080"), none, `"--listen" flag: "8080" is not an address to listen on; write HOST:PORT or :PORT`},
		"a bad template":                   {append(base, "--hash-format", "%x"), none, `"%x" is not known`},
		"a bad choice":                     {append(base, "--unknown-users", "ignore"), none, `"ignore" is not known; write one of propose, reject`},
		"a bad outage policy":              {append(base, "--database-outage", "hold"), none, `"hold" is not known; write one of known, propose`},
		"an outage nobody is noted in":     {append(base, "--database-outage", "propose", "--remembered-users", "0"), none, "--database-outage is propose, and --remembered-users is 0"},
		"a bad TLS mode":                   {base, environment("DATABASE_SSLMODE", "yes"), `environment variable DATABASE_SSLMODE: "yes" is not known`},
		"a bad level":                      {append(base, "--log-level", "loud"), none, `"loud" is not a log level`},
		"no backends":                      {[]string{"serve", "--database-url", "sqlite:x"}, none, "--service is missing (environment: SERVICE)"},
		"no namespace":                     {[]string{"serve", "--database-url", "sqlite:x"}, environment("SERVICE", "dovecot-backend"), "--namespace is missing (environment: NAMESPACE)"},
		"two places for backends":          {append(base, "--service", "x"), none, "both --endpoints-file and --service"},
		"no database":                      {[]string{"serve", "--endpoints-file", endpoints}, none, "--database-host is missing (environment: DATABASE_HOST), or --database-url"},
		"an endpoints file that is absent": {[]string{"serve", "--endpoints-file", secret}, none, "--endpoints-file (environment: ENDPOINTS_FILE): open "},
		"a kubeconfig that is absent":      {[]string{"serve"}, environment("SERVICE", "x", "NAMESPACE", "x", "KUBECONFIG", secret), "--kubeconfig (environment: KUBECONFIG): open "},
		"no database name":                 {[]string{"migrate", "--database-host", "db"}, none, "--database-name is missing (environment: DATABASE_NAME)"},
		"no database user":                 {[]string{"migrate", "--database-host", "db", "--database-name", "mail"}, none, "--database-user is missing (environment: DATABASE_USER)"},
		"two databases":                    {base, environment("DATABASE_HOST", "db"), "both --database-url and --database-host"},
		"two passwords":                    {append(base, "--database-password-file", secret), environment("DATABASE_PASSWORD", "secret"), "both --database-password and --database-password-file"},
		"a password file that is absent":   {append(base, "--database-password-file", secret), none, "--database-password-file (environment: DATABASE_PASSWORD_FILE): open "},
		"a database URL of no kind":        {[]string{"migrate", "--database-url", "mysql://u:topsecret@db/mail"}, none, "database-url"},
		"a database URL that is broken":    {[]string{"migrate", "--database-url", "postgres://u:topsecret@db:port/mail"}, none, "database-url"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), tc.args, tc.env, &stdout, &stderr)
			line := strings.TrimSuffix(stderr.String(), "\n")
			if code != exitUsage || !strings.HasPrefix(line, "go-dovecot-director: ") || strings.Contains(line, "\n") || !strings.Contains(line, tc.want) {
				t.Errorf("exit code %d, %q; want %d and one line with %q", code, line, exitUsage, tc.want)
			}
			if strings.Contains(line, "secret") && !strings.Contains(tc.want, "secret") || stdout.Len() != 0 {
				t.Errorf("a secret in %q, or something on stdout: %q", line, stdout.String())
			}
		})
	}
}

func TestFlagsBeatTheEnvironmentAndEmptyVariablesDoNotCount(t *testing.T) {
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	var s settings
	s.register(fs)
	if err := fs.Parse([]string{"--listen", ":2", "--username-format", "%Ln"}); err != nil {
		t.Fatal(err)
	}
	err := fromEnvironment(fs, environment("LISTEN", ":1", "OPS_LISTEN", ":3", "RESTART_GRACE", "90s", "LOG_FORMAT", "", "LOG_LEVEL", "debug"))
	if err != nil {
		t.Fatal(err)
	}
	if s.listen != ":2" || s.opsListen != ":3" || s.policy.graces.Restart != 90*time.Second || s.log.format != "text" ||
		s.log.level != slog.LevelDebug || s.policy.users.Name.String() != "%Ln" || s.policy.users.Hash.String() != "%Lu" {
		t.Errorf("got %+v", s)
	}
}

func TestThePasswordFileLosesItsNewline(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(" with spaces \r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := databaseSettings{url: "postgres://db/mail", passwordFile: file}
	if err := s.check(); err != nil || s.password != " with spaces " {
		t.Errorf("password %q, error %v", s.password, err)
	}
}

func TestHelpListsEverySettingWithItsVariableAndShowsNoSecret(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"serve", "--help"}, environment("DATABASE_PASSWORD", "topsecret"), &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	var s settings
	s.register(fs)
	fs.VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(stdout.String(), "--"+f.Name+" ") || !strings.Contains(stdout.String(), "["+environmentName(f.Name)+"]") {
			t.Errorf("--%s or its variable is not in the help", f.Name)
		}
	})
	if strings.Contains(stdout.String(), "topsecret") {
		t.Error("the help shows a secret")
	}
}
