package k8s

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

const (
	// confirmLimit is how long one read for a proof may take, and catchUpLimit how long the watch may lag behind it.
	confirmLimit = 2 * time.Second
	catchUpLimit = time.Second
	// maxLags is how often in a row it may lag behind before it is begun anew.
	maxLags = 3
)

// pace is how patient a Watch is. It is a variable of each Watch for tests' sake only.
type pace struct {
	// denied is how long the server has to deny a right for us to believe it: one that starts denies everything for a
	// second.
	denied time.Duration
	// retry is how long the first retry waits, retryMax the later ones at most; up to half as much is added by chance. Requests that
	// are denied in earnest are half of retryMax apart at least, so that a retry is not put off by a proof that was just tried.
	retry, retryMax time.Duration
	// settle is how long a backend that is suddenly nowhere listed is taken to be on its way from one EndpointSlice to
	// another. A slice may be deleted before its successor comes, when somebody deletes slices by hand for instance; the
	// controller then writes new ones within a second or two.
	settle time.Duration
}

var unhurried = pace{denied: 5 * time.Second, retry: 500 * time.Millisecond, retryMax: 6 * time.Second, settle: 5 * time.Second}

// resource says how to ask for the objects of a feed.
type resource struct {
	kind string // for logs
	collection
	selector metav1.ListOptions
	example  runtime.Object
}

// feed follows the few objects that a selector picks, by one watch, and can prove that it is current.
type feed struct {
	resource
	log     *slog.Logger
	pace    *pace
	changed func() // called without the lock
	// restarted is told of each watch but the first.
	restarted func(resource string)

	mu      sync.Mutex
	watched bool
	listed  bool
	objects map[string]runtime.Object
	failing map[string]failure // by request, until it works again
	lags    int                // in a row
	anew    func()             // lists and watches anew
}

func newFeed(r resource, log *slog.Logger, pace *pace, restarted func(string), changed func()) *feed {
	return &feed{resource: r, log: log, pace: pace, restarted: restarted, changed: changed, failing: make(map[string]failure), anew: func() {}}
}

// run follows until ctx ends. It may be called again then.
func (f *feed) run(ctx context.Context) {
	quiet := logr.Discard() // this package says itself what fails
	source := listThenWatch{&cache.ListWatch{ListWithContextFunc: f.tryList, WatchFuncWithContext: f.tryWatch}}
	for ctx.Err() == nil {
		reflector := cache.NewReflectorWithOptions(source, f.example, (*content)(f), cache.ReflectorOptions{
			Logger:  &quiet,
			Name:    f.kind,
			Backoff: &wait.Backoff{Duration: f.pace.retry, Factor: 2, Jitter: 0.5, Steps: 6, Cap: f.pace.retryMax},
		})
		round, cancel := context.WithCancel(logr.NewContext(ctx, quiet))
		f.mu.Lock()
		f.anew = cancel
		f.mu.Unlock()
		reflector.RunWithContext(round)
		cancel()
	}
}

// listThenWatch makes client-go list first and watch then, in place of a watch that streams the list: a handful of objects
// needs no stream, and so a right to watch alone, which no proof could be had with, is not taken for enough.
type listThenWatch struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is what client-go asks.
func (listThenWatch) IsWatchListSemanticsUnSupported() bool { return true }

// forget makes the feed one that has listed nothing yet. That a right is denied it still knows.
func (f *feed) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed, f.objects, f.watched = false, nil, false
	maps.DeleteFunc(f.failing, func(_ string, failed failure) bool { return !failed.shut })
}

// state returns the objects, sorted by name, and whether they were listed at all.
func (f *feed) state() (objects []runtime.Object, listed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.objects)) {
		objects = append(objects, f.objects[name])
	}
	return objects, f.listed
}

// denied reports whether the last that the server said of our rights was no, and whether it goes on saying so for long
// enough to be believed: one that starts denies everything for a moment.
func (f *feed) denied() (denied, believed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, failed := range f.failing {
		denied = denied || failed.shut
		believed = believed || f.believed(failed)
	}
	return denied, believed
}

// believed needs the lock.
func (f *feed) believed(failed failure) bool {
	return !failed.since.IsZero() && failed.at.Sub(failed.since) >= f.pace.denied
}

// trouble returns what fails, empty for nothing.
func (f *feed) trouble() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, request := range slices.Sorted(maps.Keys(f.failing)) {
		return fmt.Sprintf("%s fails: %v", request, f.failing[request].err)
	}
	return ""
}

// The requests of a feed. A proof is a list, too.
const (
	toList  = "list"
	toWatch = "watch"
)

func (f *feed) tryList(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if err := f.refusal(toList); err != nil {
		return nil, err
	}
	if o.ResourceVersion == "0" {
		// That is what some API server remembers, and one of several may lag behind. The first view had better be the truth.
		o.ResourceVersion = ""
	}
	list, err := f.list(ctx, f.selecting(o))
	f.answered(toList, err)
	return list, err
}

func (f *feed) tryWatch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if err := f.refusal(toWatch); err != nil {
		return nil, err
	}
	f.mu.Lock()
	again := f.watched
	f.watched = true
	f.mu.Unlock()
	if again {
		f.restarted(f.collection.resource)
	}
	stream, err := f.watch(ctx, f.selecting(o))
	f.answered(toWatch, err)
	return stream, err
}

func (f *feed) selecting(o metav1.ListOptions) metav1.ListOptions {
	o.LabelSelector, o.FieldSelector = f.selector.LabelSelector, f.selector.FieldSelector
	return o
}

// refusal answers in the server's place what it said lately, when it keeps on denying.
func (f *feed) refusal(request string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if failed := f.failing[request]; f.believed(failed) && time.Since(failed.at) < f.pace.retryMax/2 {
		return failed.err
	}
	return nil
}

// prove reports whether the server, asked now and past its cache, has the same objects as the watch.
func (f *feed) prove(ctx context.Context) bool {
	if f.refusal(toList) != nil {
		return false
	}
	asked := time.Now()
	limit, cancel := context.WithTimeout(ctx, confirmLimit)
	defer cancel()
	list, err := f.list(limit, f.selecting(metav1.ListOptions{}))
	f.answered(toList, err)
	if err != nil {
		return false
	}
	want := make(map[string]version)
	_ = meta.EachListItem(list, func(o runtime.Object) error {
		name, v := versionOf(o)
		want[name] = v
		return nil
	})
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for time.Since(asked) < confirmLimit+catchUpLimit {
		if f.holds(want) {
			f.note("confirm", nil)
			f.lagged(false)
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
	f.note("confirm", errors.New("the watch lags behind the API server"))
	f.lagged(len(want) > 0)
	return false
}

// lagged counts. When the watch lags behind again and again it has missed something, or began with a list that was not true, and no
// change may ever bring what it misses: it is begun anew, with a list. A server that suddenly knows of nothing is no reason: watches
// tell what is deleted, and it is likelier that it is wrong.
func (f *feed) lagged(lagged bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !lagged {
		f.lags = 0
		return
	}
	if f.lags++; f.lags == maxLags {
		f.lags = 0
		f.anew()
	}
}

// version is one state of one object.
type version struct {
	uid     types.UID
	version string
}

func versionOf(o runtime.Object) (name string, v version) {
	m, err := meta.Accessor(o)
	if err != nil {
		panic(err) // typed objects have metadata
	}
	return m.GetName(), version{m.GetUID(), m.GetResourceVersion()}
}

// holds reports whether the watch has these objects, and no others, in these versions or newer ones.
func (f *feed) holds(want map[string]version) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.listed || len(f.objects) != len(want) {
		return false
	}
	for name, o := range f.objects {
		_, v := versionOf(o)
		order, err := resourceversion.CompareResourceVersion(v.version, want[name].version)
		if v.uid != want[name].uid || err != nil || order < 0 {
			return false
		}
	}
	return true
}

// answered notes what the server answered to a request.
func (f *feed) answered(request string, err error) {
	if !errors.Is(err, context.Canceled) {
		f.note(request, err)
	}
}

// failure is what a request last failed with.
type failure struct {
	err  error
	at   time.Time
	shut bool // the server denied the right, and has not granted it since
	// since is from when on the server did nothing but deny it, zero if it did not the last time.
	since time.Time
}

// denies reports whether the server refuses a right. One that does not know the kind of object is like one that denies it.
func denies(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsNotFound(err) }

// note keeps book of what fails, and logs when that begins and ends. A denied right is not logged: it is a choice, and
// the Watch says what it does without.
func (f *feed) note(request string, err error) {
	f.mu.Lock()
	before, failed := f.failing[request]
	switch now := time.Now(); {
	case err == nil:
		delete(f.failing, request)
	case !denies(err):
		f.failing[request] = failure{err: err, at: now, shut: before.shut}
	case before.since.IsZero():
		f.failing[request] = failure{err: err, at: now, shut: true, since: now}
	default:
		f.failing[request] = failure{err: err, at: now, shut: true, since: before.since}
	}
	f.mu.Unlock()
	switch {
	case denies(err):
	case err != nil && (!failed || denies(before.err) || kindOf(before.err) != kindOf(err)):
		f.log.Warn("the API server cannot be asked for the backends; the last view serves, and nobody is moved from a lost backend until it answers",
			"request", request, "kind", f.kind, "error", err)
	case err == nil && failed && !denies(before.err):
		f.log.Info("the API server answers again", "request", request, "kind", f.kind)
	}
	if failed != (err != nil) || denies(err) {
		f.changed()
	}
}

// kindOf cuts an error down to what stays the same when it is repeated.
func kindOf(err error) string { return err.Error()[:min(len(err.Error()), 24)] }

// content is the feed as the reflector's store. Bookmarks do not come here: they carry empty objects, and client-go keeps
// them to itself.
type content feed

func (c *content) Add(o any) error    { return c.set(o) }
func (c *content) Update(o any) error { return c.set(o) }
func (c *content) Resync() error      { return nil }

func (c *content) set(o any) error {
	object := slim(o)
	name, _ := versionOf(object)
	c.mu.Lock()
	c.objects[name] = object // a list came before
	c.mu.Unlock()
	c.changed()
	return nil
}

func (c *content) Delete(o any) error {
	name, _ := versionOf(o.(runtime.Object))
	c.mu.Lock()
	delete(c.objects, name)
	c.mu.Unlock()
	c.changed()
	return nil
}

// Replace takes the outcome of a list.
func (c *content) Replace(objects []any, _ string) error {
	next := make(map[string]runtime.Object, len(objects))
	for _, o := range objects {
		object := slim(o)
		name, _ := versionOf(object)
		next[name] = object
	}
	c.mu.Lock()
	c.listed, c.objects = true, next
	c.mu.Unlock()
	c.changed()
	return nil
}

// slim drops what takes most of the room and says nothing.
func slim(o any) runtime.Object {
	object := o.(runtime.Object)
	if m, err := meta.Accessor(object); err == nil {
		m.SetManagedFields(nil)
	}
	return object
}
