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
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pods are the pods of a Service, by ordinal.
type pods struct{ ready, notReady, terminating []int }

func pod(n int) (name, ip string, target *corev1.ObjectReference) {
	name = fmt.Sprintf("dovecot-backend-%d", n)
	return name, fmt.Sprintf("192.0.2.%d", 10+n), &corev1.ObjectReference{Kind: "Pod", Name: name, UID: types.UID("uid-" + name)}
}

// endpoints lists the pods as the endpoints controller does: those that terminate are not there.
func endpoints(p pods) *corev1.Endpoints {
	addresses := func(ordinals []int) (all []corev1.EndpointAddress) {
		for _, n := range ordinals {
			name, ip, target := pod(n)
			all = append(all, corev1.EndpointAddress{IP: ip, Hostname: name, TargetRef: target})
		}
		return all
	}
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "dovecot-backend", Namespace: "mail"}}
	if len(p.ready)+len(p.notReady) > 0 {
		e.Subsets = []corev1.EndpointSubset{{Addresses: addresses(p.ready), NotReadyAddresses: addresses(p.notReady), Ports: []corev1.EndpointPort{{Name: "imap", Port: 143}}}}
	}
	return e
}

// slice lists the pods as one of the endpointslice controller's slices.
func slice(name string, p pods) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: "mail", Labels: map[string]string{discoveryv1.LabelServiceName: "dovecot-backend"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: new("imap"), Port: new(int32(143))}},
	}
	add := func(ordinals []int, ready, serving, terminating bool) {
		for _, n := range ordinals {
			name, ip, target := pod(n)
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{ip}, Hostname: &name, TargetRef: target,
				Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
			})
		}
	}
	add(p.ready, true, true, false)
	add(p.notReady, false, false, false)
	add(p.terminating, false, true, true)
	return s
}

// set shows the pods in the Endpoints and in one slice.
func set(s *apitest.Server, p pods) {
	s.Set(endpoints(p))
	s.Set(slice("dovecot-backend-a", p))
}

func statefulSet(replicas int32) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "dovecot-backend", Namespace: "mail"}}
	s.Spec.Replicas = &replicas
	s.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(60))
	return s
}

// bench is a Watch on a server, with all that it published.
type bench struct {
	*k8s.Watch
	server *apitest.Server
	log    *lockedBuilder

	mu        sync.Mutex
	snapshots []director.Snapshot
	restarts  []string
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

// newBench starts a Watch that retries and gives in soon.
func newBench(t *testing.T, server *apitest.Server) *bench {
	return startBench(t, server, func(w *k8s.Watch) { w.Hurry(10*time.Millisecond, 100*time.Millisecond) })
}

func client(t *testing.T, server *apitest.Server) *k8s.Client {
	c, err := k8s.NewClientForConfig(server.Config(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newPatientBench starts one as in production.
func newPatientBench(t *testing.T, server *apitest.Server) *bench {
	return startBench(t, server, func(*k8s.Watch) {})
}

func startBench(t *testing.T, server *apitest.Server, prepare func(*k8s.Watch)) *bench {
	b := &bench{server: server, log: &lockedBuilder{}}
	b.Watch = k8s.NewWatch(k8s.WatchConfig{
		Client: client(t, server), Namespace: "mail", Service: "dovecot-backend",
		Logger: slog.New(slog.NewTextHandler(b.log, nil)),
		Publish: func(s director.Snapshot) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.snapshots = append(b.snapshots, s)
		},
		Restarted: func(resource string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.restarts = append(b.restarts, resource)
		},
	})
	prepare(b.Watch)
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

// restarted is how often a watch was begun anew.
func (b *bench) restarted(resource string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.restarts {
		if r == resource {
			n++
		}
	}
	return n
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

func (b *bench) describes(t *testing.T, want string) {
	t.Helper()
	until(t, "the watch describes itself as "+want, func() bool { text, _ := b.Describe(); return strings.Contains(text, want) })
}

// always fails if any snapshot was without this.
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

// blind is what the first snapshot that is current after a moment says of the time without contact.
func (b *bench) blind(t *testing.T, after time.Time) time.Duration {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.snapshots {
		if s.CurrentAt.After(after) {
			return s.Blind
		}
	}
	t.Fatalf("no snapshot is current after %s", after)
	return 0
}

// sets is what the newest snapshot knows of StatefulSets.
func (b *bench) sets() []director.StatefulSet {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.snapshots) == 0 {
		return nil
	}
	return b.snapshots[len(b.snapshots)-1].StatefulSets
}

func (b *bench) wants(t *testing.T, want ...director.StatefulSet) {
	t.Helper()
	until(t, fmt.Sprint("StatefulSets ", want), func() bool { return fmt.Sprint(b.sets()) == fmt.Sprint(want) })
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// followed is how often a resource was listed or watched, proofs aside.
func followed(server *apitest.Server, resource string) int {
	return server.Requests("watch", resource) + server.Requests("list", resource)
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

// eachSource runs a test with the rights for each of the two sources.
func eachSource(t *testing.T, test func(t *testing.T, server *apitest.Server, source string)) {
	t.Helper()
	t.Parallel()
	for _, source := range []string{apitest.Endpoints, apitest.EndpointSlices} {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			test(t, apitest.New(t, source), source)
		})
	}
}

func TestAStatefulSetsLife(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, source string) {
		set(server, pods{})
		b := newBench(t, server)
		b.shows(t, "")
		set(server, pods{ready: []int{0}})
		b.shows(t, zero)
		set(server, pods{ready: []int{0, 1, 2}})
		b.shows(t, zero+"; "+one+"; "+two)
		set(server, pods{ready: []int{0, 2}, notReady: []int{1}})
		b.shows(t, zero+"; 1@11 not ready imap:143; "+two)
		set(server, pods{ready: []int{0, 2}, terminating: []int{1}})
		if source == apitest.Endpoints {
			b.shows(t, zero+"; "+two)
		} else {
			b.shows(t, zero+"; 1@11 terminating imap:143; "+two)
		}
		set(server, pods{ready: []int{0, 2}})
		b.shows(t, zero+"; "+two)
		set(server, pods{})
		b.shows(t, "")
	})
}

func TestAServiceThatIsDeletedAndCreatedAgain(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, _ string) {
		set(server, pods{ready: []int{0}})
		b := newBench(t, server)
		b.shows(t, zero)
		server.Delete(apitest.Endpoints, "dovecot-backend")
		server.Delete(apitest.EndpointSlices, "dovecot-backend-a")
		b.shows(t, "")
		b.proven(t) // that there is nothing can be proven too
		set(server, pods{ready: []int{0, 1}})
		b.shows(t, zero+"; "+one)
		b.proven(t)
	})
}

func TestAServiceThatIsNotThereYet(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, _ string) {
		b := newBench(t, server)
		b.shows(t, "")
		if detail, failing := b.Describe(); failing || !strings.Contains(detail, "there is no such Service") {
			t.Errorf("%q, failing %v", detail, failing)
		}
		set(server, pods{ready: []int{0}})
		b.shows(t, zero)
	})
}

func TestBookmarksAreNoContent(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, _ string) {
		set(server, pods{ready: []int{0}})
		b := newBench(t, server)
		b.shows(t, zero)
		for range 3 {
			server.Bookmark()
		}
		set(server, pods{ready: []int{0, 1}})
		b.shows(t, zero+"; "+one)
		b.always(t, zero)
	})
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
			eachSource(t, func(t *testing.T, server *apitest.Server, source string) {
				set(server, pods{ready: []int{0}})
				b := newPatientBench(t, server) // as patient as in production
				b.shows(t, zero)
				requests := func() int { return followed(server, source) }
				before := requests()
				fault(server)
				until(t, "the watch is taken up again", func() bool { return requests() > before })
				set(server, pods{ready: []int{0, 1}})
				server.Refuse(0)
				b.shows(t, zero+"; "+one)
				b.always(t, zero) // not for a moment was anything lost
				b.proven(t)
				until(t, "nothing fails", func() bool { _, failing := b.Describe(); return !failing })
				if n := strings.Count(b.log.String(), "backends are read from"); n != 1 {
					t.Errorf("the source changed:\n%s", b.log)
				}
			})
		})
	}
}

// TestRestartsAreCounted holds that the first watch is none, and that later ones are.
func TestRestartsAreCounted(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, source string) {
		set(server, pods{ready: []int{0}})
		b := newBench(t, server)
		if b.shows(t, zero); b.Kind() != source {
			t.Errorf("read from %q", b.Kind())
		}
		until(t, "it is watched", func() bool { return server.Requests("watch", source) > 0 })
		if n := b.restarted(source); n != 0 {
			t.Errorf("%d restarts", n)
		}
		until(t, "a restart is counted", func() bool {
			server.Cut()
			return b.restarted(source) > 0
		})
	})
}

// TestWithoutAnAnswerThereIsNoProof holds that nothing but a fresh answer of the server makes a snapshot current.
func TestWithoutAnAnswerThereIsNoProof(t *testing.T) {
	for name, fault := range map[string]func(*apitest.Server){
		"the server is frozen, the watch open and silent": (*apitest.Server).Freeze,
		"the server refuses":                              func(s *apitest.Server) { s.Refuse(http.StatusServiceUnavailable) },
		"the right is withdrawn, the watch goes on":       func(s *apitest.Server) { s.Refuse(http.StatusForbidden) },
	} {
		t.Run(name, func(t *testing.T) {
			eachSource(t, func(t *testing.T, server *apitest.Server, source string) {
				set(server, pods{ready: []int{0}})
				b := newBench(t, server)
				b.shows(t, zero)
				b.proven(t)
				fault(server)
				_, before, _ := b.last()
				reads := server.Requests("read", source)
				until(t, "two proofs are tried in vain", func() bool {
					b.Confirm()
					_, failing := b.Describe()
					return server.Requests("read", source) >= reads+2 && failing
				})
				if _, at, _ := b.last(); at.After(before) {
					t.Errorf("proven at %s, after the fault", at)
				}
				if n := strings.Count(b.log.String(), "level=WARN"); n > 10 {
					t.Errorf("logged %d times:\n%s", n, b.log.String())
				}
				server.Refuse(0)
				server.Thaw()
				b.proven(t)
			})
		})
	}
}

// TestTheFirstViewIsNotWhatALaggingServerRemembers holds for one of several API servers that is behind the others.
func TestTheFirstViewIsNotWhatALaggingServerRemembers(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, _ string) {
		set(server, pods{ready: []int{0}})
		server.Lag()
		set(server, pods{ready: []int{0, 1}})
		b := newBench(t, server)
		b.shows(t, zero+"; "+one)
		b.always(t, one)
	})
}

func TestAWatchThatLagsBehindProvesNothing(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, _ string) {
		set(server, pods{ready: []int{0}})
		b := newBench(t, server)
		b.shows(t, zero)
		b.proven(t)
		server.Hold()
		set(server, pods{ready: []int{0, 1}})
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
	})
}

// TestAWrongListIsNotBelievedForEver holds for a list that was not true, and for a watch that missed a change: no later change brings
// the truth.
func TestAWrongListIsNotBelievedForEver(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, _ string) {
		set(server, pods{ready: []int{0}})
		b := newBench(t, server)
		b.shows(t, zero)
		b.proven(t)
		server.Hide(true)
		server.Expire()
		server.Cut()
		b.shows(t, "")
		server.Hide(false)
		b.proven(t)
		b.shows(t, zero)
	})
}

// TestAnEmptyListIsNoReasonToBeginAnew holds for a server that tells lies while the watch knows better.
func TestAnEmptyListIsNoReasonToBeginAnew(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, source string) {
		set(server, pods{ready: []int{0}})
		b := newBench(t, server)
		b.shows(t, zero)
		b.proven(t)
		server.Hide(true)
		reads := server.Requests("read", source)
		until(t, "proofs fail more often than a watch may lag behind", func() bool {
			b.Confirm()
			return server.Requests("read", source) > reads+4
		})
		b.always(t, zero)
		server.Hide(false)
		b.proven(t)
	})
}

// TestChangesWithoutContactAreCounted holds that it is told whether a backend may have been away while the server was, and only then.
func TestChangesWithoutContactAreCounted(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, _ string) {
		set(server, pods{ready: []int{0, 1}})
		b := newBench(t, server)
		b.shows(t, zero+"; "+one)
		b.proven(t)
		gaps := func() int {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.snapshots[len(b.snapshots)-1].Gaps
		}
		cut := func(meanwhile func()) {
			server.Refuse(http.StatusInternalServerError)
			server.Cut()
			until(t, "the fault is noticed", func() bool { _, failing := b.Describe(); return failing })
			meanwhile()
			server.Refuse(0)
			until(t, "it works again", func() bool { b.Confirm(); _, failing := b.Describe(); return !failing })
			b.proven(t)
		}
		cut(func() {})
		if n := gaps(); n != 0 {
			t.Errorf("%d times while nothing changed", n)
		}
		warned := func() int { return strings.Count(b.log.String(), "level=WARN") }
		before := warned()
		set(server, pods{ready: []int{0}, notReady: []int{1}})
		until(t, "the loss is shown", func() bool { text, _, _ := b.last(); return text != zero+"; "+one })
		set(server, pods{ready: []int{0, 1}})
		b.shows(t, zero+"; "+one)
		if n := gaps(); n != 0 && warned() == before { // or the machine stood still, and the server was away for the watch
			t.Errorf("%d times while all was seen", n)
		}
		cut(func() {
			set(server, pods{ready: []int{0}, notReady: []int{1}})
			set(server, pods{ready: []int{0, 1}})
		})
		if gaps() == 0 {
			t.Error("a backend was away, and nobody says so")
		}
	})
}

// TestTimeWithoutContactIsCounted holds that no proof comes before the time is counted in which the server was away, and
// that it is counted once.
func TestTimeWithoutContactIsCounted(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, _ string) {
		set(server, pods{ready: []int{0}})
		b := newPatientBench(t, server) // so that a proof may well come before the watch is taken up again
		b.shows(t, zero)
		b.proven(t)
		if got := b.blind(t, time.Time{}); got != 0 && !strings.Contains(b.log.String(), "level=WARN") { // as when this machine stands still
			t.Errorf("%s without contact are counted while all is well", got)
		}
		before := time.Now()
		_, _, published := b.last()
		server.Refuse(http.StatusInternalServerError)
		server.Cut()
		until(t, "the fault is noticed", func() bool {
			_, failing := b.Describe()
			_, _, n := b.last()
			return failing && n > published
		})
		noticed := time.Now()
		until(t, "some seconds have passed", func() bool { return time.Since(noticed) > 3*time.Second })
		atLeast := time.Since(noticed)
		server.Refuse(0)
		b.proven(t)
		if got := b.blind(t, noticed); got < atLeast {
			t.Errorf("the first proof counts %s without contact, it was %s at least", got, atLeast)
		}
		until(t, "it works again", func() bool { b.Confirm(); _, failing := b.Describe(); return !failing })
		atMost, asked := time.Since(before), time.Now()
		b.proven(t)
		if got := b.blind(t, asked); got > atMost {
			t.Errorf("%s without contact are counted, it was %s at most", got, atMost)
		}
	})
}

// TestTheServerIsNotBothered counts requests: one list and one watch, and a read a second at most, however often a proof
// is asked for.
func TestTheServerIsNotBothered(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, source string) {
		server.Grant(apitest.StatefulSets)
		server.Set(statefulSet(1))
		set(server, pods{ready: []int{0}})
		b := newPatientBench(t, server)
		b.wants(t, director.StatefulSet{Name: "dovecot-backend", Replicas: 1, Termination: time.Minute})
		start := time.Now()
		until(t, "three reads", func() bool {
			b.Confirm()
			return server.Requests("read", source) >= 3
		})
		if took := time.Since(start); took < 2*time.Second {
			t.Errorf("three reads in %s", took)
		}
		for _, resource := range []string{source, apitest.StatefulSets} {
			if l, w := server.Requests("list", resource), server.Requests("watch", resource); l > 1 || w > 2 {
				t.Errorf("%s: %d lists and %d watches", resource, l, w)
			}
		}
		if n := server.Requests("watch", apitest.Endpoints); source == apitest.EndpointSlices && n != 0 {
			t.Errorf("%d watches on Endpoints, which nobody needs", n)
		}
	})
}

func TestUnusableContentKeepsTheView(t *testing.T) {
	t.Parallel()
	server := apitest.New(t, apitest.Endpoints)
	set(server, pods{ready: []int{0}})
	b := newBench(t, server)
	b.shows(t, zero)
	broken := endpoints(pods{ready: []int{0}})
	broken.Subsets[0].Addresses[0].IP = "0.0.0.0"
	server.Set(broken)
	until(t, "it is noticed", func() bool { _, failing := b.Describe(); return failing })
	b.always(t, zero)
	set(server, pods{ready: []int{0, 1}})
	b.shows(t, zero+"; "+one)
	if _, failing := b.Describe(); failing {
		t.Error("still failing")
	}
}

// TestSlicesAreOrderedAnew holds that a backend is not lost which only changes its slice.
func TestSlicesAreOrderedAnew(t *testing.T) {
	t.Parallel()
	server := apitest.New(t, apitest.EndpointSlices)
	all := pods{ready: []int{0, 1}}
	server.Set(slice("a", all))
	b := startBench(t, server, func(w *k8s.Watch) { // the machine may stand still before the successor comes
		w.Hurry(10*time.Millisecond, 100*time.Millisecond)
		w.KeepForAnHour()
	})
	b.shows(t, zero+"; "+one)
	for range 3 {
		server.Set(slice("b", pods{ready: []int{1}})) // in both
		server.Set(slice("a", pods{ready: []int{0}}))
		server.Delete(apitest.EndpointSlices, "a") // before its successor comes
		server.Delete(apitest.EndpointSlices, "b")
		b.describes(t, "there is no such Service")
		server.Set(slice("c", pods{ready: []int{1}})) // one by one
		server.Set(slice("a", all))
		server.Delete(apitest.EndpointSlices, "c")
		b.proven(t)
	}
	b.always(t, zero+"; "+one)
	b = newBench(t, server)
	b.shows(t, zero+"; "+one)
	server.Delete(apitest.EndpointSlices, "a")
	b.shows(t, "") // but not for ever
}

// TestWhatVanishesFromEndpointsIsNotKept holds that a pod which terminates, and so is not listed there any more, gets nobody at once.
func TestWhatVanishesFromEndpointsIsNotKept(t *testing.T) {
	t.Parallel()
	server := apitest.New(t, apitest.Endpoints)
	set(server, pods{ready: []int{0, 1}})
	b := startBench(t, server, func(w *k8s.Watch) {
		w.Hurry(10*time.Millisecond, 100*time.Millisecond)
		w.KeepForAnHour()
	})
	b.shows(t, zero+"; "+one)
	set(server, pods{ready: []int{0}, terminating: []int{1}})
	b.shows(t, zero)
}

// TestAFailedProofIsTriedAgain holds that contact is known to be back although nobody asks any more.
func TestAFailedProofIsTriedAgain(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, _ string) {
		set(server, pods{ready: []int{0}})
		b := newBench(t, server)
		b.shows(t, zero)
		server.Refuse(http.StatusServiceUnavailable)
		b.Confirm()
		until(t, "it fails", func() bool { _, failing := b.Describe(); return failing })
		server.Refuse(0)
		until(t, "it works again", func() bool { _, failing := b.Describe(); return !failing })
	})
}

func TestASnapshotSaysWhetherItListsWhatTerminates(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, source string) {
		set(server, pods{ready: []int{0}})
		b := newBench(t, server)
		b.shows(t, zero)
		b.mu.Lock()
		defer b.mu.Unlock()
		if got := b.snapshots[len(b.snapshots)-1].ListsTerminating; got != (source == apitest.EndpointSlices) {
			t.Errorf("%v", got)
		}
	})
}

func TestStartAndStopManyTimes(t *testing.T) {
	eachSource(t, func(t *testing.T, server *apitest.Server, _ string) {
		set(server, pods{ready: []int{0}})
		for range 20 {
			w := k8s.NewWatch(k8s.WatchConfig{Client: client(t, server), Namespace: "mail", Service: "dovecot-backend", Publish: func(director.Snapshot) {}})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- w.Run(ctx) }()
			w.Confirm()
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	})
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
