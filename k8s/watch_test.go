package k8s_test

//lint:file-ignore SA1019 Endpoints are what the minimal rights allow; they are deprecated and go on working

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/k8s"
	"github.com/k-web-s/go-dovecot-director/k8s/apitest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// endpoints lists the pods with these ordinals: those that are ready, and those that are not.
func endpoints(ready, notReady []int) corev1.Endpoints {
	addresses := func(ordinals []int) (all []corev1.EndpointAddress) {
		for _, n := range ordinals {
			name := fmt.Sprintf("dovecot-backend-%d", n)
			all = append(all, corev1.EndpointAddress{
				IP: fmt.Sprintf("192.0.2.%d", 10+n), Hostname: name,
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: name, UID: types.UID("uid-" + name)},
			})
		}
		return all
	}
	e := corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "dovecot-backend", Namespace: "mail"}}
	if len(ready)+len(notReady) > 0 {
		e.Subsets = []corev1.EndpointSubset{{Addresses: addresses(ready), NotReadyAddresses: addresses(notReady), Ports: []corev1.EndpointPort{{Name: "imap", Port: 143}}}}
	}
	return e
}

// bench is a Watch on a server, with all that it published.
type bench struct {
	*k8s.Watch
	server *apitest.Server
	log    *lockedBuilder

	mu        sync.Mutex
	snapshots []director.Snapshot
}

type lockedBuilder struct {
	mu sync.Mutex
	strings.Builder
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.Write(p)
}

func (b *lockedBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.String()
}

func newBench(t *testing.T, server *apitest.Server) *bench {
	b := &bench{server: server, log: &lockedBuilder{}}
	b.Watch = k8s.NewWatch(k8s.WatchConfig{
		Client: server.Client(t), Namespace: "mail", Service: "dovecot-backend",
		Logger: slog.New(slog.NewTextHandler(b.log, nil)),
		Publish: func(s director.Snapshot) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.snapshots = append(b.snapshots, s)
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

// last is the newest snapshot in one line, "nothing" before the first.
func (b *bench) last() (text string, currentAt time.Time, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.snapshots) == 0 {
		return "nothing", time.Time{}, 0
	}
	s := b.snapshots[len(b.snapshots)-1]
	return brief(s.Backends), s.CurrentAt, len(b.snapshots)
}

func (b *bench) shows(t *testing.T, want string) {
	t.Helper()
	until(t, "the watch shows "+want, func() bool { text, _, _ := b.last(); return text == want })
}

// never fails if any snapshot was without this.
func (b *bench) always(t *testing.T, want string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, s := range b.snapshots {
		if !strings.Contains(brief(s.Backends), want) {
			t.Errorf("snapshot %d is %q, without %q", i, brief(s.Backends), want)
		}
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// proven waits until Confirm has moved CurrentAt beyond now.
func (b *bench) proven(t *testing.T) {
	t.Helper()
	asked := time.Now()
	until(t, "a proof", func() bool {
		b.Confirm()
		_, at, _ := b.last()
		return at.After(asked)
	})
}

const (
	zero = "0@10 ready imap:143"
	one  = "1@11 ready imap:143"
	two  = "2@12 ready imap:143"
)

func TestAStatefulSetsLife(t *testing.T) {
	server := apitest.New(t)
	server.Set(endpoints(nil, nil))
	b := newBench(t, server)
	b.shows(t, "")
	server.Set(endpoints([]int{0}, nil))
	b.shows(t, zero)
	server.Set(endpoints([]int{0, 1, 2}, nil))
	b.shows(t, zero+"; "+one+"; "+two)
	server.Set(endpoints([]int{0, 2}, []int{1}))
	b.shows(t, zero+"; 1@11 not ready imap:143; "+two)
	server.Set(endpoints([]int{0, 2}, nil))
	b.shows(t, zero+"; "+two)
	server.Set(endpoints(nil, nil))
	b.shows(t, "")
}

func TestAServiceThatIsDeletedAndCreatedAgain(t *testing.T) {
	server := apitest.New(t)
	server.Set(endpoints([]int{0}, nil))
	b := newBench(t, server)
	b.shows(t, zero)
	server.Delete()
	b.shows(t, "")
	b.proven(t) // that there is no such object can be proven too
	server.Set(endpoints([]int{0, 1}, nil))
	b.shows(t, zero+"; "+one)
	b.proven(t)
}

func TestAServiceThatIsNotThereYet(t *testing.T) {
	server := apitest.New(t)
	b := newBench(t, server)
	b.shows(t, "")
	if detail, failing := b.Describe(); failing || !strings.Contains(detail, "there is no such Service") {
		t.Errorf("%q, failing %v", detail, failing)
	}
	server.Set(endpoints([]int{0}, nil))
	b.shows(t, zero)
}

func TestBookmarksAreNoContent(t *testing.T) {
	server := apitest.New(t)
	server.Set(endpoints([]int{0}, nil))
	b := newBench(t, server)
	b.shows(t, zero)
	for range 3 {
		server.Bookmark()
	}
	server.Set(endpoints([]int{0, 1}, nil))
	b.shows(t, zero+"; "+one)
	b.always(t, zero)
}

func TestTheWatchIsCut(t *testing.T) {
	for name, fault := range map[string]func(*apitest.Server){
		"as servers do now and then": (*apitest.Server).Cut,
		"and its version is expired": func(s *apitest.Server) { s.Expire(); s.Cut() },
		"while the server refuses with 500": func(s *apitest.Server) {
			s.Refuse(http.StatusInternalServerError)
			s.Cut()
		},
		"while the server starts and answers 403": func(s *apitest.Server) { s.Refuse(http.StatusForbidden); s.Cut() },
		"while the token is refused":              func(s *apitest.Server) { s.Refuse(http.StatusUnauthorized); s.Cut() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := apitest.New(t)
			server.Set(endpoints([]int{0}, nil))
			b := newBench(t, server)
			b.shows(t, zero)
			watches := server.Requests("watch")
			fault(server)
			until(t, "the watch is taken up again", func() bool { return server.Requests("watch")+server.Requests("list") > watches+1 })
			server.Set(endpoints([]int{0, 1}, nil))
			server.Refuse(0)
			b.shows(t, zero+"; "+one)
			b.always(t, zero) // not for a moment was anything lost
			b.proven(t)
			if _, failing := b.Describe(); failing {
				t.Error("still failing")
			}
		})
	}
}

// TestWithoutAnAnswerThereIsNoProof holds that nothing but a fresh answer of the server makes a snapshot current.
func TestWithoutAnAnswerThereIsNoProof(t *testing.T) {
	for name, fault := range map[string]func(*apitest.Server){
		"the server is frozen, the watch open and silent": (*apitest.Server).Freeze,
		"the server refuses":                              func(s *apitest.Server) { s.Refuse(http.StatusServiceUnavailable) },
		"the right is withdrawn, the watch goes on":       func(s *apitest.Server) { s.Refuse(http.StatusForbidden) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := apitest.New(t)
			server.Set(endpoints([]int{0}, nil))
			b := newBench(t, server)
			b.shows(t, zero)
			b.proven(t)
			fault(server)
			_, before, _ := b.last()
			gets := server.Requests("get")
			until(t, "two proofs are tried in vain", func() bool {
				b.Confirm()
				_, failing := b.Describe()
				return server.Requests("get") >= gets+2 && failing
			})
			if _, at, _ := b.last(); at.After(before) {
				t.Errorf("proven at %s, after the fault", at)
			}
			if n := strings.Count(b.log.String(), "request=get"); n != 1 {
				t.Errorf("logged %d times:\n%s", n, b.log.String())
			}
			server.Refuse(0)
			server.Thaw()
			b.proven(t)
		})
	}
}

func TestAWatchThatLagsBehindProvesNothing(t *testing.T) {
	server := apitest.New(t)
	server.Set(endpoints([]int{0}, nil))
	b := newBench(t, server)
	b.shows(t, zero)
	b.proven(t)
	server.Hold()
	server.Set(endpoints([]int{0, 1}, nil))
	_, before, _ := b.last()
	until(t, "the lag is noticed", func() bool {
		b.Confirm()
		detail, failing := b.Describe()
		return failing && strings.Contains(detail, "lags behind")
	})
	if text, at, _ := b.last(); text != zero || at.After(before) {
		t.Errorf("%q proven at %s", text, at)
	}
	server.Release()
	b.shows(t, zero+"; "+one)
	b.proven(t)
}

// TestTheServerIsNotBothered counts requests: one list and one watch, and a read a second at most, however often a proof
// is asked for.
func TestTheServerIsNotBothered(t *testing.T) {
	server := apitest.New(t)
	server.Set(endpoints([]int{0}, nil))
	b := newBench(t, server)
	b.shows(t, zero)
	start := time.Now()
	until(t, "three reads", func() bool {
		b.Confirm()
		return server.Requests("get") >= 3
	})
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("three reads in %s", took)
	}
	if l, w := server.Requests("list"), server.Requests("watch"); l > 1 || w > 2 {
		t.Errorf("%d lists and %d watches", l, w)
	}
}

func TestUnusableContentKeepsTheView(t *testing.T) {
	server := apitest.New(t)
	server.Set(endpoints([]int{0}, nil))
	b := newBench(t, server)
	b.shows(t, zero)
	broken := endpoints([]int{0}, nil)
	broken.Subsets[0].Addresses[0].IP = "0.0.0.0"
	server.Set(broken)
	until(t, "it is noticed", func() bool { _, failing := b.Describe(); return failing })
	b.always(t, zero)
	server.Set(endpoints([]int{0, 1}, nil))
	b.shows(t, zero+"; "+one)
	if _, failing := b.Describe(); failing {
		t.Error("still failing")
	}
}

func TestStartAndStopManyTimes(t *testing.T) {
	server := apitest.New(t)
	server.Set(endpoints([]int{0}, nil))
	for range 20 {
		w := k8s.NewWatch(k8s.WatchConfig{Client: server.Client(t), Namespace: "mail", Service: "dovecot-backend", Publish: func(director.Snapshot) {}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		w.Confirm()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func TestClientErrorsSayWhatToDo(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := k8s.NewClient("", "test"); err == nil || !strings.Contains(err.Error(), "--endpoints-file") {
		t.Errorf("error %v", err)
	}
	if _, err := k8s.NewClient("testdata/none", "test"); err == nil || !strings.Contains(err.Error(), "testdata/none") {
		t.Errorf("error %v", err)
	}
}
