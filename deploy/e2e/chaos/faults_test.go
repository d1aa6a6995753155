package chaos_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/chaos"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/cluster"
)

var (
	faultFlag = flag.Duration("chaos.fault", 3*time.Second, "how long each fault lasts")
	pauseFlag = flag.Duration("chaos.pause", 5*time.Second, "how long a director is paused")
	mostFlag  = flag.Int("chaos.most", 0, "strike each site with so many faults, which the seed chooses; 0 for all")
	onlyFlag  = flag.String("chaos.only", "", "strike with faults only whose names contain this")
)

// Whatever fails, and while backends come and go: nobody is answered wrongly, no mapping is lost, directors go on answering whom they
// know, and all is well again afterwards without hands.
func TestFaults(t *testing.T) {
	seed := seed()
	s := chaos.New(t, chaos.Options{Seed: seed, Fragile: true})
	s.Go(t)
	want(t, strike(t, s, chaos.Faults(seed)))
}

// The API server fails and lies, and backends restart meanwhile: nobody is moved.
func TestAPIFaults(t *testing.T) {
	s := chaos.New(t, chaos.Options{Seed: seed(), Directors: 2, Cluster: cluster.Start(t)})
	s.Go(t)
	all := strike(t, s, chaos.APIFaults())
	right(t, all)
	if all.Moves > 0 {
		t.Errorf("%d users moved", all.Moves)
	}
}

// strike lets faults happen one after the other, and prints what they cost.
func strike(t *testing.T, s *chaos.Site, faults []chaos.Fault) chaos.Result {
	t.Helper()
	time.Sleep(3 * time.Second) // until known users are known
	var results []*chaos.Result
	for _, f := range chosen(faults) {
		lasting := *faultFlag
		if f.Name == chaos.Paused {
			lasting = *pauseFlag
		}
		r := s.Strike(t, f, lasting)
		results = append(results, &r)
	}
	all := s.Finish(t, results...)
	table(append(results, &all))
	return all
}

// chosen are the faults that the flags and the seed choose, in their order.
func chosen(faults []chaos.Fault) []chaos.Fault {
	faults = slices.DeleteFunc(faults, func(f chaos.Fault) bool { return !strings.Contains(f.Name, *onlyFlag) })
	for random := rand.New(rand.NewPCG(seed(), 3)); *mostFlag > 0 && len(faults) > *mostFlag; {
		n := random.IntN(len(faults))
		faults = slices.Delete(faults, n, n+1)
	}
	return faults
}

// table prints what the faults cost.
func table(results []*chaos.Result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\tlookups\tanswered\theld\twrong\tlost\tslowest s\tseconds to recover")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%.1f\t%.1f\n", r.Fault, r.Lookups, r.Answered, r.Held+r.Unavailable, r.Wrong, r.Lost, r.Slowest.Seconds(), r.Recovery.Seconds())
	}
	w.Flush()
}
