package k8s

//lint:file-ignore SA1019 Endpoints are what the minimal rights allow; they are deprecated and go on working

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	director "github.com/k-web-s/go-dovecot-director"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
)

// WatchConfig says what to watch.
type WatchConfig struct {
	Client             kubernetes.Interface
	Namespace, Service string
	// Publish gets the snapshots, one call at a time.
	Publish func(director.Snapshot)
	// Logger gets failures and their ends; nil discards.
	Logger *slog.Logger
}

// Watch follows the Endpoints of one Service.
type Watch struct {
	config    WatchConfig
	log       *slog.Logger
	endpoints typedcorev1.EndpointsInterface
	ask       chan struct{} // Confirm was called
	changed   chan struct{} // the object changed
	proofs    chan time.Time

	mu      sync.Mutex
	listed  bool
	object  *corev1.Endpoints // nil while there is none
	failing map[string]string // what fails, and how, until it works again
}

// NewWatch returns a Watch. Run starts it.
func NewWatch(c WatchConfig) *Watch {
	w := &Watch{
		config: c, log: c.Logger, endpoints: c.Client.CoreV1().Endpoints(c.Namespace),
		ask: make(chan struct{}, 1), changed: make(chan struct{}, 1), proofs: make(chan time.Time),
		failing: make(map[string]string),
	}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	return w
}

// Run watches until ctx ends. It returns nil.
func (w *Watch) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	quiet := logr.Discard() // this package says itself what fails
	reflector := cache.NewReflectorWithOptions(w.source(), &corev1.Endpoints{}, (*content)(w), cache.ReflectorOptions{
		Logger:  &quiet,
		Name:    "endpoints of " + w.config.Service,
		Backoff: &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 6, Cap: 10 * time.Second},
	})
	running.Go(func() { reflector.RunWithContext(logr.NewContext(ctx, quiet)) })
	running.Go(func() { w.confirmations(ctx) })
	var provenAt time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed:
		case provenAt = <-w.proofs:
		}
		w.publish(provenAt)
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

// Describe says in one sentence how the watch is; failing is set while the API server cannot be asked.
func (w *Watch) Describe() (detail string, failing bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	what := fmt.Sprintf("Endpoints %s/%s", w.config.Namespace, w.config.Service)
	for request, reason := range w.failing {
		return fmt.Sprintf("%s: %s fails: %s", what, request, reason), true
	}
	switch {
	case !w.listed:
		return what + ": not listed yet", true
	case w.object == nil:
		return what + ": there is no such Service", false
	}
	return what, false
}

// source lists and watches the one object, selected by name as a Role with resourceNames demands.
func (w *Watch) source() cache.ListerWatcher {
	selector := fields.OneTermEqualSelector("metadata.name", w.config.Service).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			list, err := w.endpoints.List(ctx, o)
			w.note("watch", err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			stream, err := w.endpoints.Watch(ctx, o)
			w.note("watch", err)
			return stream, err
		},
	}
	return cache.ToListWatcherWithWatchListSemantics(lw, w.config.Client)
}

// publish delivers what the watch knows.
func (w *Watch) publish(provenAt time.Time) {
	w.mu.Lock()
	listed, object := w.listed, w.object
	w.mu.Unlock()
	if !listed {
		return
	}
	snapshot := director.Snapshot{CurrentAt: provenAt}
	if object != nil {
		backends, err := FromEndpoints(object)
		w.note("reading the Endpoints", err)
		if err != nil {
			return
		}
		snapshot.Backends = backends
	}
	w.config.Publish(snapshot)
}

// confirmations answers Confirm: it reads the object past the API server's cache and compares its version with the
// watch's.
func (w *Watch) confirmations(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.ask:
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		pause.Reset(confirmEvery)
		if at, ok := w.prove(ctx); ok {
			select {
			case w.proofs <- at:
			case <-ctx.Done():
				return
			}
		}
	}
}

// prove returns a moment at which the watch's object was the server's.
func (w *Watch) prove(ctx context.Context) (time.Time, bool) {
	limit, cancel := context.WithTimeout(ctx, confirmLimit)
	defer cancel()
	asked := time.Now()
	object, err := w.endpoints.Get(limit, w.config.Service, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		object, err = nil, nil
	}
	w.note("get", err)
	if err != nil {
		return time.Time{}, false
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for time.Since(asked) < confirmLimit+catchUpLimit {
		if w.holds(object) {
			w.note("confirm", nil)
			return asked, true
		}
		select {
		case <-ctx.Done():
			return time.Time{}, false
		case <-ticker.C:
		}
	}
	w.note("confirm", errors.New("the watch lags behind the API server"))
	return time.Time{}, false
}

// holds reports whether the watch has the same version of the object.
func (w *Watch) holds(object *corev1.Endpoints) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.listed:
		return false
	case object == nil || w.object == nil:
		return object == nil && w.object == nil
	}
	return object.UID == w.object.UID && object.ResourceVersion == w.object.ResourceVersion
}

// note keeps book of what fails, and logs when that begins and ends.
func (w *Watch) note(request string, err error) {
	if err != nil && errors.Is(err, context.Canceled) {
		return
	}
	w.mu.Lock()
	before, failed := w.failing[request]
	switch {
	case err != nil:
		w.failing[request] = err.Error()
	default:
		delete(w.failing, request)
	}
	w.mu.Unlock()
	switch {
	case err != nil && (!failed || kindOf(before) != kindOf(err.Error())):
		w.log.Warn("the API server cannot be asked for the backends; the last view serves, and nobody is moved from a lost backend until it answers",
			"request", request, "namespace", w.config.Namespace, "service", w.config.Service, "error", err)
	case err == nil && failed:
		w.log.Info("the API server answers again", "request", request, "namespace", w.config.Namespace, "service", w.config.Service)
	}
}

// kindOf cuts an error down to what stays the same when it is repeated.
func kindOf(message string) string { return message[:min(len(message), 24)] }

// content is the Watch as the reflector's store: it takes the one object.
type content Watch

func (c *content) Add(object any) error    { return c.set(object.(*corev1.Endpoints)) }
func (c *content) Update(object any) error { return c.set(object.(*corev1.Endpoints)) }
func (c *content) Delete(any) error        { return c.set(nil) }
func (c *content) Resync() error           { return nil }

// Replace takes the outcome of a list.
func (c *content) Replace(objects []any, _ string) error {
	var object *corev1.Endpoints
	for _, o := range objects {
		object = o.(*corev1.Endpoints)
	}
	return c.set(object)
}

func (c *content) set(object *corev1.Endpoints) error {
	if object != nil {
		object.ManagedFields = nil
	}
	c.mu.Lock()
	c.listed, c.object = true, object
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
	return nil
}
