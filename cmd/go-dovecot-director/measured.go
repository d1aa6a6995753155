package main

import (
	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/k-web-s/go-dovecot-director/http/metrics"
	"github.com/k-web-s/go-dovecot-director/k8s"
	"github.com/k-web-s/go-dovecot-director/store"
)

// newMetrics makes the metrics of all that the program does.
func newMetrics() *metrics.Metrics {
	return metrics.New(metrics.Config{
		Version: version(), Faults: directorhttp.LookupFaults, Calls: store.Calls, Causes: store.Causes, Resources: k8s.Resources,
		Methods: directorhttp.AdminMethods, Classes: directorhttp.AdminClasses, Reloaded: reloadedSettings,
	})
}

// shown is what metrics ask for at a scrape.
func shown(monitor *director.Monitor, source source, db *store.DB, budget int) metrics.Shown {
	return metrics.Shown{
		Vitals: monitor.Vitals,
		Source: func() (string, bool) {
			_, failing := source.Describe()
			return source.Kind(), failing
		},
		StoreUp: func() bool { return db.Status().Err == nil },
		Budget:  budget,
	}
}
