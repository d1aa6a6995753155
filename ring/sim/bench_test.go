package sim

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// BenchmarkDay is a simulated day of a million users: with the real director, and with a modulo in its place, which is what the clients
// alone cost. MB is the most memory that the process has taken so far.
func BenchmarkDay(b *testing.B) {
	s := load(b, "duration: 24h\nbackends: {count: 10}\nusers: {count: 1_000_000}\ntimeline: [{at: 10h, rolling_restart: {}}]")
	for _, strategy := range []string{Modulo, Ours} {
		b.Run(strings.ReplaceAll(strategy, " ", "_"), func(b *testing.B) {
			lookups := 0
			for b.Loop() {
				r, err := Run(b.Context(), s, Options{Strategy: strategy})
				if err != nil {
					b.Fatal(err)
				}
				lookups += r.Lookups
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/day")
			b.ReportMetric(float64(lookups)/float64(b.N), "lookups/day")
			b.ReportMetric(peakMemory(b), "MB")
		})
	}
}

// peakMemory reads the peak resident memory of this process in MB.
func peakMemory(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kB, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				b.Fatal(err)
			}
			return float64(kB) / 1024
		}
	}
	b.Fatal("there is no VmHWM")
	return 0
}
