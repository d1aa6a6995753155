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
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	// confirmLimit is how long one read for a proof may take, and catchUpLimit how long the watch may lag behind it.
	confirmLimit = 2 * time.Second
	catchUpLimit = time.Second
)

// pace is how patient a Watch is. It is a variable of each Watch for tests' sake only.
type pace struct {
	// denied is how long the server has to deny a right for us to believe it: one that starts denies everything for a
	// second. pause is how long denied requests are apart then.
	denied, pause time.Duration
	// retry is how long the first retry waits, retryMax the later ones at most.
	retry, retryMax time.Duration
	// settle is how long a backend that is suddenly nowhere listed is taken to be on its way from one EndpointSlice to
	// another. A slice may be deleted before its successor comes, when somebody deletes slices by hand for instance; the
	// controller then writes new ones within a second or two.
	settle time.Duration
}

var unhurried = pace{denied: 5 * time.Second, pause: 30 * time.Second, retry: 500 * time.Millisecond, retryMax: 10 * time.Second, settle: 5 * time.Second}

// resource says how to ask for the objects of a feed.
type resource struct {
	kind     string // for logs
	list     func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch    func(context.Context, metav1.ListOptions) (watch.Interface, error)
	selector metav1.ListOptions
	example  runtime.Object
	client   kubernetes.Interface // tells client-go what the server can
}

// feed follows the few objects that a selector picks, by one watch, and can prove that it is current.
type feed struct {
	resource
	log     *slog.Logger
	pace    *pace
	changed func() // called without the lock

	mu       sync.Mutex
	listed   bool
	objects  map[string]runtime.Object
	failing  map[string]failure // by request, until it works again
	denied   time.Time          // since when the server denies us the right, zero while it does not
	denial   error
	deniedAt time.Time // when it did so last
}

func newFeed(r resource, log *slog.Logger, pace *pace, changed func()) *feed {
	return &feed{resource: r, log: log, pace: pace, changed: changed, failing: make(map[string]failure)}
}

// run follows until ctx ends. It may be called again then.
func (f *feed) run(ctx context.Context) {
	quiet := logr.Discard() // this package says itself what fails
	source := &cache.ListWatch{ListWithContextFunc: f.tryList, WatchFuncWithContext: f.tryWatch}
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(source, f.client), f.example, (*content)(f), cache.ReflectorOptions{
		Logger:  &quiet,
		Name:    f.kind,
		Backoff: &wait.Backoff{Duration: f.pace.retry, Factor: 2, Jitter: 0.5, Steps: 6, Cap: f.pace.retryMax},
	})
	reflector.RunWithContext(logr.NewContext(ctx, quiet))
}

// forget makes the feed one that has listed nothing yet.
func (f *feed) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed, f.objects = false, nil
}

// state returns the objects, sorted by name, whether they were listed at all, and since when the server denies the right
// to see them.
func (f *feed) state() (objects []runtime.Object, listed bool, denied time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.objects)) {
		objects = append(objects, f.objects[name])
	}
	return objects, f.listed, f.denied
}

// trouble returns what fails, empty for nothing.
func (f *feed) trouble() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, request := range slices.Sorted(maps.Keys(f.failing)) {
		return fmt.Sprintf("%s fails: %s", request, f.failing[request].text)
	}
	return ""
}

func (f *feed) tryList(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if err := f.refusal(); err != nil {
		return nil, err
	}
	list, err := f.list(ctx, f.selecting(o))
	f.answered("watch", err)
	return list, err
}

func (f *feed) tryWatch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if err := f.refusal(); err != nil {
		return nil, err
	}
	stream, err := f.watch(ctx, f.selecting(o))
	if streams := o.SendInitialEvents != nil; !streams || !apierrors.IsInvalid(err) {
		// An older server cannot stream lists, and client-go asks in the old way then.
		f.answered("watch", err)
	}
	return stream, err
}

func (f *feed) selecting(o metav1.ListOptions) metav1.ListOptions {
	o.LabelSelector, o.FieldSelector = f.selector.LabelSelector, f.selector.FieldSelector
	return o
}

// refusal answers in the server's place what it said lately, when it keeps on denying.
func (f *feed) refusal() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.denied.IsZero() && f.deniedAt.Sub(f.denied) >= f.pace.denied && time.Since(f.deniedAt) < f.pace.pause {
		return f.denial
	}
	return nil
}

// prove reports whether the server, asked now and past its cache, has the same objects as the watch.
func (f *feed) prove(ctx context.Context) bool {
	asked := time.Now()
	limit, cancel := context.WithTimeout(ctx, confirmLimit)
	defer cancel()
	list, err := f.list(limit, f.selecting(metav1.ListOptions{}))
	f.answered("read", err)
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
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
	f.note("confirm", errors.New("the watch lags behind the API server"))
	return false
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

// holds reports whether the watch has these versions of these objects, and no others.
func (f *feed) holds(want map[string]version) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.listed || len(f.objects) != len(want) {
		return false
	}
	for name, o := range f.objects {
		if _, v := versionOf(o); want[name] != v {
			return false
		}
	}
	return true
}

// answered notes what the server answered to a request, and whether it denies the right.
func (f *feed) answered(request string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	f.mu.Lock()
	was, isDenied := f.denied, denies(err)
	switch now := time.Now(); {
	case !isDenied:
		f.denied = time.Time{}
	case was.IsZero():
		f.denied = now
		fallthrough
	default:
		f.denial, f.deniedAt = err, now
	}
	changed := was.IsZero() == isDenied
	f.mu.Unlock()
	f.note(request, err)
	if changed {
		f.changed()
	}
}

// failure is what a request last failed with.
type failure struct {
	text   string
	denied bool
}

// denies reports whether the server refuses a right. One that does not know the kind of object is like one that denies it.
func denies(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsNotFound(err) }

// note keeps book of what fails, and logs when that begins and ends. A denied right is not logged: it is a choice, and
// the Watch says what it does without.
func (f *feed) note(request string, err error) {
	f.mu.Lock()
	before, failed := f.failing[request]
	if err != nil {
		f.failing[request] = failure{text: err.Error(), denied: denies(err)}
	} else {
		delete(f.failing, request)
	}
	f.mu.Unlock()
	switch {
	case denies(err):
	case err != nil && (!failed || kindOf(before.text) != kindOf(err.Error())):
		f.log.Warn("the API server cannot be asked for the backends; the last view serves, and nobody is moved from a lost backend until it answers",
			"request", request, "kind", f.kind, "error", err)
	case err == nil && failed && !before.denied:
		f.log.Info("the API server answers again", "request", request, "kind", f.kind)
	}
}

// kindOf cuts an error down to what stays the same when it is repeated.
func kindOf(message string) string { return message[:min(len(message), 24)] }

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
