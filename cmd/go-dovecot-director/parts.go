package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	directorhttp "github.com/k-web-s/go-dovecot-director/http"
	"github.com/k-web-s/go-dovecot-director/k8s"
	"github.com/k-web-s/go-dovecot-director/store"
)

// source delivers snapshots of the backends: the Kubernetes API or a file.
type source interface {
	Run(ctx context.Context) error
	Confirm()
	Describe() (detail string, failing bool)
	Kind() string
}

// open makes the source that the settings name.
func (s sourceSettings) open(publish func(director.Snapshot), log *slog.Logger) (source, error) {
	if s.endpointsFile != "" {
		return k8s.NewFile(k8s.FileConfig{Path: s.endpointsFile, Publish: publish, Logger: log})
	}
	client, err := k8s.NewClient(s.kubeconfig, program+"/"+version())
	if err != nil {
		return nil, err
	}
	return k8s.NewWatch(k8s.WatchConfig{Client: client, Namespace: s.namespace, Service: s.service, Publish: publish, Restarted: s.restarted, Logger: log}), nil
}

// open makes the store that the settings name. It does not connect.
func (s databaseSettings) open(log *slog.Logger) (*store.DB, error) {
	return store.Open(store.Config{
		URL: s.url, Host: s.host, Port: s.port, Name: s.name, User: s.user, Password: s.password, SSLMode: s.sslMode, Replica: s.replica, Meter: s.meter, Logger: log,
	})
}

// viewPart is ready once a complete view was seen, whatever happens to its source later: the last view serves.
func viewPart(d *director.Director, s source) directorhttp.Part {
	return directorhttp.Part{Name: "view", Check: func(context.Context) directorhttp.PartState {
		detail, failing := s.Describe()
		view := d.View()
		if view == nil {
			return directorhttp.PartState{Detail: "no complete view of the backends yet: " + detail}
		}
		return directorhttp.PartState{
			Ready: true, Degraded: failing || len(view.Alive()) == 0 || len(view.Losses()) > 0,
			Detail: fmt.Sprintf("%d backends alive, %d lost, generation %d; %s", len(view.Alive()), len(view.Losses()), view.Generation, detail),
		}
	}}
}

// storePart is ready once the store has answered. When it fails later the replica still serves the users whom it
// remembers: taking it out of the Service then would make an outage of the database one of all logins.
func storePart(db *store.DB) directorhttp.Part {
	return directorhttp.Part{Name: "store", Check: func(context.Context) directorhttp.PartState {
		s := db.Status()
		lasted := time.Since(s.Since).Round(time.Second)
		switch {
		case s.Err == nil:
			return directorhttp.PartState{Ready: true, Detail: fmt.Sprintf("answers since %s", lasted)}
		case s.Answered:
			return directorhttp.PartState{Ready: true, Degraded: true, Detail: fmt.Sprintf("down since %s, remembered users are served: %v", lasted, s.Err)}
		}
		return directorhttp.PartState{Detail: s.Err.Error()}
	}}
}

// ordersPart is ready once it is known which backends take users.
func ordersPart(d *director.Director) directorhttp.Part {
	return directorhttp.Part{Name: "orders", Check: func(context.Context) directorhttp.PartState {
		if !d.Heard() {
			return directorhttp.PartState{Detail: "operators' orders have not been read from the database yet"}
		}
		return directorhttp.PartState{Ready: true, Detail: "followed"}
	}}
}
