package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// completionLimit is how long the API has to name what may stand next: somebody waits for it with a finger on the key.
const completionLimit = 2 * time.Second

// console is where the verbs for operators are run.
type console struct {
	env            lookupEnv
	stdin          *os.File
	stdout, stderr io.Writer
}

// operateCommands are the verbs for operators.
func operateCommands(c console) []*cobra.Command {
	return append(standCommands(c), evacuateCommand(c), prestopCommand(c), rebalanceCommand(c),
		statusCommand(c), userCommand(c), moveCommand(c), kickCommand(c), pinCommand(c), unpinCommand(c), journalCommand(c), forgetReplicaCommand(c))
}

// remote is one verb's way to a running director.
type remote struct {
	console
	url, tokenFile, caFile string
	output                 string
	note                   string
	force, yes             bool
	connection             *pflag.FlagSet
}

// register adds the flags that say where the director is. They are the only ones with variables: one named FORCE or YES would be too
// easily there.
func (r *remote) register(fs *pflag.FlagSet) {
	r.connection = pflag.NewFlagSet("connection", pflag.ContinueOnError)
	r.connection.SortFlags = false
	add(r.connection, &r.url, "admin-url", "url", "http://127.0.0.1:8082", "where the director's admin API is", parseText)
	add(r.connection, &r.tokenFile, "admin-token-file", "file", "", "file that holds the token which the API asks for", parseText)
	add(r.connection, &r.caFile, "admin-ca-file", "file", "", "certificate authorities that are trusted, in PEM; those of the system if missing", parseText)
	fs.AddFlagSet(r.connection)
	fs.VarP(newValue(&r.output, "format", "table", parseChoice("table", "json")), "output", "o", "table or json")
}

func (r *remote) registerNote(fs *pflag.FlagSet) {
	fs.StringVar(&r.note, "note", "", "why, for the journal")
}

// command makes a verb that asks a running director.
func (r *remote) command(cmd *cobra.Command, do func(ctx context.Context, o directorhttp.Operator, args []string) error) *cobra.Command {
	fs := cmd.Flags()
	fs.SortFlags = false
	r.register(fs)
	if err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // there is such a flag
	}
	if cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if slices.Contains(args, "") {
			return errors.New("an argument is empty: a variable of the shell that is not set?")
		}
		client, err := r.client()
		if err != nil {
			return err
		}
		if err := r.confirm(cmd, args); err != nil {
			return err
		}
		if err := do(cmd.Context(), client, args); err != nil {
			return failure{err}
		}
		return nil
	}
	return cmd
}

// client reads the settings, and connects to nothing.
func (r *remote) client() (*directorhttp.Client, error) {
	if err := fromEnvironment(r.connection, r.env); err != nil {
		return nil, err
	}
	c := directorhttp.ClientConfig{URL: r.url}
	tokens, err := readTokens("admin-token-file", r.tokenFile)
	if err != nil {
		return nil, err
	}
	if len(tokens) > 0 {
		c.Token = tokens[0]
		if u, err := url.Parse(r.url); err == nil && u.Scheme == "http" && !directorhttp.Loopback(u.Hostname()) {
			return nil, fmt.Errorf("--admin-url %s (environment: ADMIN_URL): the token could be read on the way; use https", r.url)
		}
	}
	if r.caFile != "" {
		text, err := os.ReadFile(r.caFile)
		if err != nil {
			return nil, fmt.Errorf("--admin-ca-file (environment: ADMIN_CA_FILE): %w", err)
		}
		c.Roots = x509.NewCertPool()
		if !c.Roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--admin-ca-file (environment: ADMIN_CA_FILE): %s holds no certificate in PEM", r.caFile)
		}
	}
	client, err := directorhttp.NewClient(c)
	if err != nil {
		return nil, fmt.Errorf("--admin-url (environment: ADMIN_URL): %w", err)
	}
	return client, nil
}

// dangerous is the annotation of a verb that is not done without a yes; its value says what the verb does. With onlyForced that is so with
// --force only.
const (
	dangerous  = "dangerous"
	onlyForced = "only forced"
)

// registerYes adds the flag of dangerous verbs.
func (r *remote) registerYes(cmd *cobra.Command, what string) {
	cmd.Flags().BoolVar(&r.yes, "yes", false, "do not ask")
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[dangerous] = what
}

// confirm asks whether a dangerous verb is meant.
func (r *remote) confirm(cmd *cobra.Command, args []string) error {
	what := cmd.Annotations[dangerous]
	if what == "" || r.yes || cmd.Annotations[onlyForced] != "" && !r.force {
		return nil
	}
	if !term.IsTerminal(int(r.stdin.Fd())) {
		return fmt.Errorf("%s %s: %s; nobody can be asked here, so --yes is needed", cmd.Name(), strings.Join(args, " "), what)
	}
	fmt.Fprintf(r.stderr, "%s %s: %s. Go on? [y/N] ", cmd.Name(), cell(strings.Join(args, " ")), what)
	line, _ := bufio.NewReader(r.stdin).ReadString('\n') // its end is a no
	if word := strings.ToLower(strings.TrimSpace(line)); word != "y" && word != "yes" {
		return failure{errors.New("nothing was done")}
	}
	return nil
}

// completeBackends names the director's backends for the argument at a place, and nothing if it cannot be asked.
func (r *remote) completeBackends(place int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) != place {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client, err := r.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		parent := cmd.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, completionLimit)
		defer cancel()
		status, err := client.Status(ctx, false)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []cobra.Completion
		for _, b := range status.Backends {
			if strings.HasPrefix(b.Name, begun) {
				names = append(names, cobra.CompletionWithDesc(b.Name, cell(b.Condition)))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// actor is who runs this, for the journal.
func actor() string {
	name := "uid " + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// print writes an answer as JSON if that is wanted, or lets people write it as they like it.
func (r *remote) print(answer any, forPeople func(w io.Writer)) error {
	if r.output == "json" {
		encoder := json.NewEncoder(r.stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(answer)
	}
	t := tabwriter.NewWriter(r.stdout, 0, 0, 2, ' ', 0)
	forPeople(t)
	return t.Flush()
}

// cell is a text as it may stand in a table: names of users and errors of backends may hold anything, and terminals obey some of it.
func cell(text string) string {
	if text == "" {
		return "-"
	}
	if strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return strconv.Quote(text)
	}
	return text
}

// row writes one line of a table.
func row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, cell(fmt.Sprint(c)))
	}
	fmt.Fprintln(w)
}

// seconds writes a number of them for people.
func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond).String()
}
