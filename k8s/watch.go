package k8s

//lint:file-ignore SA1019 Endpoints are what the minimal rights allow; they are deprecated and go on working

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	// confirmEvery is how long reads for proofs are apart at least.
	confirmEvery = time.Second
	// confirmRetryMax is how long the pauses between reads grow that bring no proof.
	confirmRetryMax = 10 * time.Second
	// maxSets is how many StatefulSets are followed at most. Pods of a Deployment may look like a set's by chance.
	maxSets = 8
)

// WatchConfig says what to watch.
type WatchConfig struct {
	Client             *Client
	Namespace, Service string
	// Publish gets the snapshots, one call at a time.
	Publish func(director.Snapshot)
	// Restarted is told which of Resources is watched anew, or tried to; may be nil.
	Restarted func(resource string)
	// Logger gets failures and their ends, and where the backends are read from; nil discards.
	Logger *slog.Logger
}

// Watch follows the backends of one Service: by its EndpointSlices if that right is given, else by its Endpoints, and by
// the StatefulSets that the pods belong to if that right is given.
type Watch struct {
	config            WatchConfig
	log               *slog.Logger
	pace              pace
	slices, endpoints *feed
	ask               chan struct{} // Confirm was called
	changed           chan struct{} // a feed has news
	proofs            chan proof
	settling          settling
	shown             *feed         // what was published last came from here
	locked            bool          // no right is left, and that was logged
	troubled          time.Time     // the source fails, and that was counted until then; zero while it does not
	blind             time.Duration // for how long it failed, all in all
	provenAt          time.Time
	sighted           time.Duration      // what blind was at the last proof
	versions          map[string]version // of what was published last
	gaps              int                // how often those had changed when it had been blind since the last proof

	mu     sync.Mutex
	source *feed // slices or endpoints, nil before the first list
	sets   map[string]*feed
}

// NewWatch returns a Watch. Run starts it.
func NewWatch(c WatchConfig) *Watch {
	w := &Watch{
		config: c, log: c.Logger, pace: unhurried, ask: make(chan struct{}, 1), changed: make(chan struct{}, 1), proofs: make(chan proof),
		sets: make(map[string]*feed),
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if w.config.Restarted == nil {
		w.config.Restarted = func(string) {}
	}
	w.log = w.log.With("namespace", c.Namespace, "service", c.Service)
	w.slices = newFeed(resource{
		kind: "EndpointSlices", example: &discoveryv1.EndpointSlice{}, collection: c.Client.endpointSlices(c.Namespace),
		selector: metav1.ListOptions{LabelSelector: labels.Set{discoveryv1.LabelServiceName: c.Service}.String()},
	}, w.log, &w.pace, w.config.Restarted, w.poke)
	w.endpoints = newFeed(resource{
		kind: "Endpoints", example: &corev1.Endpoints{}, collection: c.Client.endpoints(c.Namespace),
		selector: byName(c.Service),
	}, w.log, &w.pace, w.config.Restarted, w.poke)
	return w
}

// byName selects one object, in the way that a Role with resourceNames demands.
func byName(name string) metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()}
}

func (w *Watch) newSet(name string) *feed {
	return newFeed(resource{
		kind: "StatefulSet " + name, example: &appsv1.StatefulSet{}, collection: w.config.Client.statefulSets(w.config.Namespace),
		selector: byName(name),
	}, w.log, &w.pace, w.config.Restarted, w.poke)
}

// Kind says what the backends are read from, in one word: the name of the resource. It is empty before the first list.
func (w *Watch) Kind() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.source == nil {
		return ""
	}
	return w.source.collection.resource
}

// poke says that a feed has news.
func (w *Watch) poke() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Run watches until ctx ends. It returns nil.
func (w *Watch) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running.Go(func() { w.confirmations(ctx) })
	slices, endpoints := start(ctx, w.slices), (*runner)(nil)
	defer func() { slices.stop(); endpoints.stop() }()
	var provenAt time.Time
	wake := time.NewTimer(0)
	defer wake.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed:
		case <-wake.C:
		case p := <-w.proofs:
			if p.of == w.source {
				provenAt = p.at
			}
		}
		choice := w.choose()
		if choice.source != w.source {
			w.take(choice.source)
			if choice.source == w.endpoints {
				// The watch on slices may go on although the right to them is gone. Ask anew, and see so when it is given back.
				slices.stop()
				slices = start(ctx, w.slices)
			}
		}
		switch {
		case choice.endpoints && endpoints == nil:
			endpoints = start(ctx, w.endpoints)
		case !choice.endpoints:
			endpoints.stop()
			endpoints = nil
		}
		again := w.publish(time.Now(), provenAt, func(set *feed) {
			running.Go(func() { set.run(ctx) })
		})
		if !again.IsZero() {
			wake.Reset(time.Until(again))
		}
	}
}

// runner is a feed that runs. Nil is one that does not.
type runner struct {
	feed   *feed
	cancel context.CancelFunc
	done   chan struct{}
}

func start(ctx context.Context, f *feed) *runner {
	ctx, cancel := context.WithCancel(ctx)
	r := &runner{feed: f, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		f.run(ctx)
	}()
	return r
}

// stop stops the feed and lets it forget what it has seen.
func (r *runner) stop() {
	if r != nil {
		r.cancel()
		<-r.done
		r.feed.forget()
	}
}

// choice is where to read the backends from.
type choice struct {
	source    *feed // nil while nothing was listed
	endpoints bool  // Endpoints are needed
}

// choose prefers EndpointSlices. It goes over to Endpoints when the right to the former is denied in earnest, and those
// were listed; and back when it is given.
func (w *Watch) choose() choice {
	_, slicesListed := w.slices.state()
	_, endpointsListed := w.endpoints.state()
	slicesDenied, slicesBelieved := w.slices.denied()
	_, endpointsBelieved := w.endpoints.denied()
	c := choice{source: w.source, endpoints: w.source == w.endpoints && w.source != nil}
	switch {
	case !slicesDenied:
		if slicesListed {
			c = choice{source: w.slices}
		}
	case w.source == w.slices && !slicesBelieved:
	default:
		c.endpoints = true
		if endpointsListed {
			c.source = w.endpoints
		}
	}
	switch locked := slicesBelieved && endpointsBelieved; {
	case locked && !w.locked:
		w.log.Warn("the API server denies reading the backends; the last view serves, and nobody is moved from a lost backend; grant list and watch on endpointslices, or on endpoints",
			"error", w.endpoints.trouble())
		w.locked = true
	case !locked && w.locked && (!slicesDenied || endpointsListed && !endpointsBelieved):
		w.log.Info("the backends may be read again")
		w.locked = false
	}
	return c
}

// take makes another feed the source.
func (w *Watch) take(source *feed) {
	w.mu.Lock()
	w.source = source
	w.mu.Unlock()
	if source == w.slices {
		w.log.Info("backends are read from EndpointSlices")
	} else {
		w.log.Info("backends are read from Endpoints, which do not show pods that terminate; grant list and watch on endpointslices for those")
	}
}

// Confirm asks for a proof that what was published is current. It does not block; the proof, if there is one, comes as
// a snapshot.
func (w *Watch) Confirm() {
	select {
	case w.ask <- struct{}{}:
	default:
	}
}

// Describe says in one sentence where the backends are read from and how that goes; failing is set while the API server
// cannot be asked.
func (w *Watch) Describe() (detail string, failing bool) {
	w.mu.Lock()
	source, sets := w.source, maps.Clone(w.sets)
	w.mu.Unlock()
	name := w.config.Namespace + "/" + w.config.Service
	if source == nil {
		for _, f := range []*feed{w.endpoints, w.slices} {
			if trouble := f.trouble(); trouble != "" {
				return fmt.Sprintf("%s %s: %s", f.kind, name, trouble), true
			}
		}
		return name + ": not listed yet", true
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s", source.kind, name)
	if objects, _ := source.state(); len(objects) == 0 {
		text.WriteString(": there is no such Service")
	}
	if trouble := source.trouble(); trouble != "" {
		text.WriteString(": " + trouble)
		failing = true
	}
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		set, ok := setOf(sets[name])
		if !ok {
			continue
		}
		fmt.Fprintf(&text, "; StatefulSet %s wants %d", name, set.Replicas)
		if trouble := sets[name].trouble(); trouble != "" {
			text.WriteString(", " + trouble)
			failing = true
		}
	}
	return text.String(), failing
}

// count adds the time in which the source fails, up to now, also while that goes on: a proof may come before the watch is
// taken up again.
func (w *Watch) count(now time.Time) {
	failing := w.source.trouble() != ""
	if !w.troubled.IsZero() {
		w.blind += now.Sub(w.troubled)
		w.troubled = time.Time{}
	}
	if failing {
		w.troubled = now
	}
}

// publish delivers what the feeds know, and starts to follow StatefulSets that it sees for the first time. It returns
// when to do so again, zero for when something changes.
func (w *Watch) publish(now, provenAt time.Time, follow func(*feed)) (again time.Time) {
	if w.source == nil {
		return time.Time{}
	}
	objects, listed := w.source.state()
	if !listed {
		return time.Time{}
	}
	backends, err := w.convert(objects)
	w.source.note("reading them", err)
	w.count(now)
	if err != nil {
		return time.Time{}
	}
	// Endpoints do not list pods that terminate: there, what vanished has not just been listed anew.
	backends, again = w.settling.apply(now, w.pace.settle, backends, w.source == w.slices || w.shown != w.source)
	w.compare(objects, provenAt)
	w.shown = w.source
	for _, b := range backends {
		name, _, ok := director.StatefulSetOf(b.Name)
		if _, known := w.sets[name]; ok && !known && len(w.sets) < maxSets {
			set := w.newSet(name)
			w.mu.Lock()
			w.sets[name] = set
			w.mu.Unlock()
			follow(set)
		}
	}
	snapshot := director.Snapshot{Backends: backends, ListsTerminating: w.source == w.slices, Blind: w.blind, Gaps: w.gaps, CurrentAt: provenAt}
	for _, name := range slices.Sorted(maps.Keys(w.sets)) {
		if set, ok := setOf(w.sets[name]); ok {
			snapshot.StatefulSets = append(snapshot.StatefulSets, set)
		}
	}
	w.config.Publish(snapshot)
	return again
}

// compare notes whether what is published now was changed while that could not be seen. What comes back is listed as if it had never
// been away: its object alone tells.
func (w *Watch) compare(objects []runtime.Object, provenAt time.Time) {
	versions := make(map[string]version, len(objects))
	for _, o := range objects {
		name, v := versionOf(o)
		versions[name] = v
	}
	if w.shown != nil && w.blind > w.sighted && (w.shown != w.source || !maps.Equal(versions, w.versions)) {
		w.gaps++
	}
	w.versions = versions
	if provenAt.After(w.provenAt) {
		w.provenAt, w.sighted = provenAt, w.blind
	}
}

func (w *Watch) convert(objects []runtime.Object) ([]director.Backend, error) {
	if w.source == w.slices {
		all := make([]discoveryv1.EndpointSlice, len(objects))
		for i, o := range objects {
			all[i] = *o.(*discoveryv1.EndpointSlice)
		}
		return FromSlices(all)
	}
	if len(objects) == 0 {
		return nil, nil // there is no such Service
	}
	return FromEndpoints(objects[0].(*corev1.Endpoints))
}

// setOf returns what a feed knows of its StatefulSet. Without the right to read it, that may be old and does not count.
func setOf(f *feed) (director.StatefulSet, bool) {
	objects, _ := f.state()
	if denied, _ := f.denied(); denied || len(objects) == 0 {
		return director.StatefulSet{}, false
	}
	s := objects[0].(*appsv1.StatefulSet)
	set := director.StatefulSet{
		Name:     s.Name,
		Replicas: int(value(s.Spec.Replicas, 1)),
		// The API server always fills it in; 30 s is what it would fill in.
		Termination: time.Duration(value(s.Spec.Template.Spec.TerminationGracePeriodSeconds, 30)) * time.Second,
	}
	if s.Spec.Ordinals != nil {
		set.Start = int(s.Spec.Ordinals.Start)
	}
	return set, true
}

// proof says that what a feed shows was true at a moment.
type proof struct {
	of *feed
	at time.Time
}

// confirmations answers Confirm. A proof that fails is tried again until one succeeds, with growing pauses: contact was
// lost, and it is to be known when it is back.
func (w *Watch) confirmations(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	var again <-chan time.Time // after a proof that failed
	next := confirmEvery
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.ask:
		case <-again:
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		pause.Reset(confirmEvery)
		asked := time.Now()
		source, proven := w.prove(ctx)
		if source == nil {
			continue
		}
		if !proven {
			again = time.After(next)
			next = min(2*next, confirmRetryMax)
			continue
		}
		again, next = nil, confirmEvery
		select {
		case w.proofs <- proof{of: source, at: asked}:
		case <-ctx.Done():
			return
		}
	}
}

// prove reports whether all that counts is what the server has: the source, nil when there is none yet, and the
// StatefulSets that may be read.
func (w *Watch) prove(ctx context.Context) (source *feed, proven bool) {
	w.mu.Lock()
	source, sets := w.source, slices.Collect(maps.Values(w.sets))
	w.mu.Unlock()
	if source == nil {
		return nil, false
	}
	var asking sync.WaitGroup
	var failed atomic.Bool
	asking.Go(func() {
		if !source.prove(ctx) {
			failed.Store(true)
		}
	})
	for _, set := range sets {
		asking.Go(func() {
			if set.prove(ctx) {
				return
			}
			if denied, _ := set.denied(); !denied { // what may not be read does not count
				failed.Store(true)
			}
		})
	}
	asking.Wait()
	return source, !failed.Load()
}
