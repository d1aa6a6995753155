package logins_test

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// table shows the peers. It is short: more than ten lines would be cut off.
func table(peers []*peer) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "logins/s\tto nobody\tto Dovecot's\tp50 ms\tp99 ms\tproxy CPU ms\tdirector CPU ms\t  proxy")
	for _, p := range peers {
		fmt.Fprintf(w, "%.0f\t%.2f\t%.2f\t%.1f\t%.1f\t%.2f\t%.2f\t  %s\n",
			p.median(measured.rate), p.against(p.base), p.against(p.rival),
			p.median(func(m measured) float64 { return milliseconds(m.p50) }),
			p.median(func(m measured) float64 { return milliseconds(m.p99) }),
			p.median(func(m measured) float64 { return milliseconds(m.proxyCPU) }),
			p.median(func(m measured) float64 { return milliseconds(m.directorCPU) }),
			p.title)
	}
	w.Flush()
	fmt.Fprintf(&out, "%d clients, %d users, %d rounds of %s for each proxy; medians; CPU is per login\n", *clients, *users, len(peers[0].turns), *turn)
	return out.String()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
