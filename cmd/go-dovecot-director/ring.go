package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/ring"
	"github.com/spf13/cobra"
)

// maxBackends is how many backends a ring can be asked for.
const maxBackends = 1000

func ringCommand(stdout io.Writer) *cobra.Command {
	var output, name string
	cmd := &cobra.Command{
		Use:   "ring COUNT | ring NAME[=WEIGHT]...",
		Short: "Print the ring of some backends: who gets how many of the new users, and what one more or less changes",
		Long: "Print the ring of some backends: who gets how many of the new users, and what one more or less changes. The ring only proposes\n" +
			"backends for users who have none: who has one stays there, however the ring changes.",
		Example: "  go-dovecot-director ring 10\n  go-dovecot-director ring mx1 mx2 mx3=2",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			members, err := parseMembers(args, name)
			if err != nil {
				return err
			}
			if err := writeRing(stdout, output, describeRing(members, newcomer(members, name))); err != nil {
				return failure{err}
			}
			return nil
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&name, "name", "dovecot-backend", "the StatefulSet's `name` that counted backends have")
	cmd.Flags().Var(newValue(&output, "format", "table", parseChoice("table", "json")), "output", "table or json")
	return cmd
}

// parseMembers reads a count, or names with weights.
func parseMembers(args []string, set string) ([]director.Member, error) {
	if count, err := strconv.Atoi(args[0]); err == nil && len(args) == 1 {
		if count < 1 || count > maxBackends {
			return nil, fmt.Errorf("%d backends are out of bounds; the least is 1, the most is %d", count, maxBackends)
		}
		members := make([]director.Member, count)
		for i := range members {
			members[i] = director.Member{Name: fmt.Sprintf("%s-%d", set, i), Weight: 1}
		}
		return members, nil
	}
	var members []director.Member
	seen := map[string]bool{}
	for _, arg := range args {
		name, text, weighted := strings.Cut(arg, "=")
		weight := 1
		if weighted {
			var err error
			if weight, err = strconv.Atoi(text); err != nil || weight < 1 || weight > 100 {
				return nil, fmt.Errorf("%q: the weight must be a whole number from 1 to 100", arg)
			}
		}
		if name == "" || seen[name] {
			return nil, fmt.Errorf("%q: a name must not be empty, and be there once", arg)
		}
		seen[name] = true
		members = append(members, director.Member{Name: name, Weight: weight})
	}
	return members, nil
}

// newcomer names the backend that joins next.
func newcomer(members []director.Member, set string) string {
	for i := len(members); ; i++ {
		name := fmt.Sprintf("%s-%d", set, i)
		taken := false
		for _, m := range members {
			taken = taken || m.Name == name
		}
		if !taken {
			return name
		}
	}
}

// ringDescription is what there is to say of a ring. Parts are of all users who come for the first time.
type ringDescription struct {
	Format   string        `json:"format"`
	Checksum string        `json:"checksum"`
	Backends []ringBackend `json:"backends"`
	// Joining is another one of weight 1; Moves is the part that is proposed another backend then, Least what cannot be less.
	Joining ringChange `json:"joining"`
}

type ringBackend struct {
	Name   string  `json:"name"`
	Weight int     `json:"weight"`
	Share  float64 `json:"share"`
	Fair   float64 `json:"fair"`
	// Leaving is the part that is proposed another backend when this one leaves; it is not less than Share.
	Leaving float64 `json:"leaving"`
}

type ringChange struct {
	Name  string  `json:"name"`
	Moves float64 `json:"moves"`
	Least float64 `json:"least"`
}

func describeRing(members []director.Member, joins string) ringDescription {
	table := ring.Build(members)
	shares := table.Shares()
	weights := 0
	for _, m := range members {
		weights += m.Weight
	}
	d := ringDescription{Format: ring.Format, Checksum: fmt.Sprintf("%016x", table.Checksum())}
	for i, m := range members {
		b := ringBackend{Name: m.Name, Weight: m.Weight, Share: shares[m.Name], Fair: float64(m.Weight) / float64(weights)}
		b.Leaving = table.Difference(ring.Build(append(members[:i:i], members[i+1:]...)))
		d.Backends = append(d.Backends, b)
	}
	larger := ring.Build(append(members[:len(members):len(members)], director.Member{Name: joins, Weight: 1}))
	d.Joining = ringChange{Name: joins, Moves: table.Difference(larger), Least: larger.Shares()[joins]}
	return d
}

func writeRing(w io.Writer, output string, d ringDescription) error {
	if output == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(d)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "backend\tweight\tnew users %\tof its share\tif it leaves, % change")
	for _, b := range d.Backends {
		fmt.Fprintf(t, "%s\t%d\t%.2f\t%.3f\t%.2f\n", b.Name, b.Weight, 100*b.Share, b.Share/b.Fair, 100*b.Leaving)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "if %s joins, %.2f %% change; its share is %.2f %%\nchecksum %s, format %s\n",
		d.Joining.Name, 100*d.Joining.Moves, 100*d.Joining.Least, d.Checksum, d.Format)
	return err
}
