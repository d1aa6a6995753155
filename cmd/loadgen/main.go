package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

const usage = `usage: loadgen bench --director PATH [--rounds N] [--length DURATION] [--picture FILE]
       loadgen load [--users N] [--connections N] [--length DURATION] ADDRESS
       loadgen null ADDRESS`

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) > 0 {
		switch verb, rest := arguments[0], arguments[1:]; {
		case verb == "bench":
			return runBench(rest)
		case verb == "load":
			return runLoad(rest)
		case verb == "null" && len(rest) == 1:
			return serveNull(rest[0])
		}
	}
	return errors.New(usage)
}

func runBench(arguments []string) (err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	director := fs.String("director", "", "path of the director's program")
	rounds := fs.Int("rounds", 5, "how many rounds the peers take turns")
	length := fs.Duration("length", 2*time.Second, "how long a peer is measured in a round")
	picture := fs.String("picture", "", "file to draw the figures into, as SVG")
	if err := fs.Parse(arguments); err != nil {
		return err
	}
	if *director == "" || fs.NArg() > 0 || *rounds < 1 || *length < time.Second {
		return errors.New(usage)
	}
	b, err := newBench(*director, *rounds, *length)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	fmt.Printf("%d rounds of %s; load average %s before", *rounds, *length, loadAverage())
	r, err := b.everything()
	fmt.Printf("\n\nload average %s at the end; medians; the null handler and the database are measured in the same rounds\n\n", loadAverage())
	if err != nil {
		return err
	}
	if *picture != "" {
		if err := os.WriteFile(*picture, []byte(r.picture()), 0o644); err != nil {
			return err
		}
	}
	return r.print(os.Stdout)
}

// runLoad sends lookups of known users to a director that runs already.
func runLoad(arguments []string) error {
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	users := fs.Int64("users", fewUsers, "how many users, user-0@example.org and so on")
	connections := fs.Int("connections", 32, "how many connections")
	length := fs.Duration("length", 10*time.Second, "how long")
	if err := fs.Parse(arguments); err != nil {
		return err
	}
	if fs.NArg() != 1 || *users < 1 || *connections < 1 {
		return errors.New(usage)
	}
	r := load{connections: *connections, script: known(*users), warm: warm, length: *length}.run(fs.Args(), nil, nil)
	fmt.Printf("%.0f lookups/s, p50 %s, p99 %s, most %s, %d failed\n", r.perSecond, r.p50, r.p99, r.max, r.failed)
	return r.failure
}

// loadAverage is how busy the machine was in the last minute.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
