package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// knownBackends are the backends that a source lists, whatever their condition.
type knownBackends struct {
	names  []string // sorted
	byName map[string]bool
	byAddr map[netip.Addr]string
}

func newKnownBackends(backends []director.Backend) *knownBackends {
	k := &knownBackends{byName: map[string]bool{}, byAddr: map[netip.Addr]string{}}
	// An address may have been given to another pod while the one that had it is still listed: the one that is ready has it.
	backends = slices.SortedStableFunc(slices.Values(backends), func(a, b director.Backend) int { return cmp.Compare(a.Condition, b.Condition) })
	for _, b := range backends {
		k.names = append(k.names, b.Name)
		k.byName[b.Name] = true
		if _, taken := k.byAddr[b.Addr]; !taken {
			k.byAddr[b.Addr] = b.Name
		}
	}
	slices.Sort(k.names)
	return k
}

// name returns the name of the backend that a text means: by its name, its address, or a host name that begins with its name.
func (k *knownBackends) name(text string) (string, bool) {
	if k.byName[text] {
		return text, true
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		name, ok := k.byAddr[addr.Unmap()]
		return name, ok
	}
	first, _, _ := strings.Cut(text, ".")
	return first, k.byName[first]
}

// String lists the names.
func (k *knownBackends) String() string {
	const most = 10
	if len(k.names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(k.names[:most], ", "), len(k.names)-most)
	}
	return strings.Join(k.names, ", ")
}

// known waits for the source's first snapshot, for limit at most.
func (s sourceSettings) known(ctx context.Context, limit time.Duration) (*knownBackends, error) {
	first := make(chan director.Snapshot, 1)
	source, err := s.open(func(snapshot director.Snapshot) {
		select {
		case first <- snapshot:
		default:
		}
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		defer close(done)
		done <- source.Run(running)
	}()
	defer func() {
		cancel()
		<-done
	}()
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case snapshot := <-first:
		if len(snapshot.Backends) == 0 {
			detail, _ := source.Describe()
			return nil, fmt.Errorf("no backends are listed: %s", detail)
		}
		return newKnownBackends(snapshot.Backends), nil
	case err := <-done:
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("source of backends: %w", cmp.Or(err, errors.New("it ended by itself")))
	case <-late.C:
		// Asked while it runs: a source that was stopped has forgotten what failed.
		detail, _ := source.Describe()
		return nil, fmt.Errorf("no complete view of the backends within %s: %s", limit, detail)
	}
}
