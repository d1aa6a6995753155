package main

import (
	"context"
	"sync/atomic"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/k-web-s/go-dovecot-director/http/metrics"
	"github.com/k-web-s/go-dovecot-director/http/status"
	"github.com/k-web-s/go-dovecot-director/ring"
	"github.com/k-web-s/go-dovecot-director/store"
)

// drawnRing keeps how much of the ring that was built last each backend has, for the status page.
type drawnRing struct {
	last atomic.Pointer[map[string]float64]
}

func (d *drawnRing) build(members []director.Member) director.Ring {
	table := ring.Build(members)
	shares := table.Shares()
	d.last.Store(&shares)
	return table
}

// shares returns them. They are not to be changed.
func (d *drawnRing) shares() map[string]float64 {
	if last := d.last.Load(); last != nil {
		return *last
	}
	return nil
}

// around is what the status page asks for besides the vitals.
func around(health *directorhttp.Health, source source, db *store.DB) func(context.Context) status.Around {
	return func(ctx context.Context) status.Around {
		a := status.Around{Unready: health.Unready(ctx)}
		a.Source, a.SourceFailing = source.Describe()
		if s := db.Status(); s.Err != nil {
			a.StoreDown, a.StoreSince = true, s.Since
		}
		return a
	}
}

// meters tells the metrics and the status page of lookups.
type meters struct {
	metrics *metrics.Metrics
	traffic *status.Traffic
}

func (m meters) Resolved(readOnly bool, verb director.Verb, reason director.Reason, took time.Duration) {
	m.metrics.Resolved(readOnly, verb, reason, took)
	m.traffic.Resolved(readOnly, verb, reason, took)
}

func (m meters) Failed(readOnly bool, fault string, took time.Duration) {
	m.metrics.Failed(readOnly, fault, took)
	m.traffic.Failed(readOnly, fault, took)
}
