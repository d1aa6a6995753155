package logins_test

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/cpu"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
)

// peer is a proxy that competes.
type peer struct {
	*dovecot.Server
	title, unit string
	director    *program.Director // nil when it is Dovecot's, which is part of the proxy, or none
	base, rival *peer             // the one of the same version that asks nobody, and Dovecot's Director
	turns       []measured
}

// turn lets the load log in through the proxy for some time.
func (p *peer) turn(ctx context.Context, l *load, d time.Duration) error {
	before, err := p.used()
	if err != nil {
		return err
	}
	got, err := l.during(ctx, p.At(dovecot.DefaultPorts.IMAP), d)
	if err != nil {
		return err
	}
	after, err := p.used()
	if err != nil {
		return err
	}
	got.proxyCPU = (after.proxy - before.proxy) / time.Duration(got.logins)
	got.directorCPU = (after.director - before.director) / time.Duration(got.logins)
	p.turns = append(p.turns, got)
	return nil
}

// used returns how much processor time the proxy and its director have used so far.
func (p *peer) used() (sum struct{ proxy, director time.Duration }, err error) {
	if sum.proxy, err = cpu.Of(p.PID()); err == nil && p.director != nil {
		sum.director, err = cpu.Of(p.director.PID())
	}
	return sum, err
}

// median returns the median over all turns of a figure.
func (p *peer) median(figure func(turn measured) float64) float64 {
	all := make([]float64, len(p.turns))
	for i, turn := range p.turns {
		all[i] = figure(turn)
	}
	return median(all)
}

// against returns the median of the ratios to another peer's rate in the same round.
func (p *peer) against(other *peer) float64 {
	all := make([]float64, len(p.turns))
	for i, turn := range p.turns {
		all[i] = turn.rate() / other.turns[i].rate()
	}
	return median(all)
}

func median[T cmp.Ordered](all []T) T {
	slices.Sort(all)
	return all[len(all)/2]
}
