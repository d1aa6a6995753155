package chaos

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/cluster"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/history"
)

const (
	service = "dovecot-backend"
	// restartEvery is how often a backend is restarted, blink how long it is not ready then.
	restartEvery, blink = 500 * time.Millisecond, 300 * time.Millisecond
)

// endpoints are the backends as a real API server has them. The controllers that would write them have no part in what is tested.
type endpoints struct {
	cluster   *cluster.Cluster
	front     *cluster.Front
	client    kubernetes.Interface
	namespace string
	history   *history.History
	replicas  []string
	listed    map[int]listing
	slice     *discoveryv1.EndpointSlice
}

func newEndpoints(tb testing.TB, c *cluster.Cluster, s *Site) *endpoints {
	tb.Helper()
	e := &endpoints{cluster: c, front: c.Front(tb), client: c.Admin, namespace: "default", history: s.History, listed: map[int]listing{}}
	for _, d := range s.Directors {
		e.replicas = append(e.replicas, d.Name)
	}
	e.slice = &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	var err error
	if e.slice, err = e.client.DiscoveryV1().EndpointSlices(e.namespace).Create(tb.Context(), e.slice, metav1.CreateOptions{}); err != nil {
		tb.Fatal(err)
	}
	for b := range firstBackends {
		if err := e.tell(tb.Context(), b, s.backends[b].now); err != nil {
			tb.Fatal(err)
		}
	}
	return e
}

// tell changes one backend, and insists while the API server is away.
func (e *endpoints) tell(ctx context.Context, backend int, l listing) error {
	e.listed[backend] = l
	e.slice.Endpoints = nil
	for b := range firstBackends {
		l, listed := e.listed[b]
		if !listed {
			continue
		}
		ready := l.state == history.Ready
		e.slice.Endpoints = append(e.slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{l.addr.String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready, Terminating: new(false)},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Name: backendName(b)},
		})
	}
	slices := e.client.DiscoveryV1().EndpointSlices(e.namespace)
	told := e.history.Now()
	for {
		next, err := slices.Update(ctx, e.slice, metav1.UpdateOptions{})
		if err == nil {
			e.slice = next
			for _, replica := range e.replicas {
				e.history.Feed(told, replica, backendName(backend), l.state, l.addr)
			}
			return nil
		}
		if ctx.Err() != nil || apierrors.IsInvalid(err) {
			return err
		}
		if utilnet.IsConnectionRefused(err) {
			told = e.history.Now() // it did not get there
		} else if latest, err := slices.Get(ctx, service, metav1.GetOptions{}); err == nil {
			e.slice.ResourceVersion = latest.ResourceVersion // it may have got there, and have gone on
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// restarts restarts one backend after the other, for ever. Each has another address then.
func (s *Site) restarts(ctx context.Context, tb testing.TB) {
	for n := 0; ; n++ {
		b := n % firstBackends
		for _, e := range []event{{backend: b, state: history.NotReady}, {backend: b, state: history.Ready, newAddress: true}} {
			if err := s.api.tell(ctx, b, s.become(tb, e).now); err != nil {
				return // the end
			}
			pause(ctx, blink)
		}
		pause(ctx, restartEvery)
		if ctx.Err() != nil {
			return
		}
	}
}

// APIFaults are what a site in a cluster lives through, one after the other.
func APIFaults() []Fault {
	var faults []Fault
	add := func(name string, known int, begin, end func(testing.TB, *Site)) {
		faults = append(faults, Fault{Name: name, Begin: begin, End: end, Known: known})
	}
	all := func(s *Site) (links []*Link) {
		for _, d := range s.Directors {
			links = append(links, d.api)
		}
		return links
	}
	restore := func(tb testing.TB, s *Site) {
		for _, l := range all(s) {
			l.Restore(tb)
		}
	}
	for _, lie := range []struct {
		name   string
		known  int
		behave cluster.Behaviour
	}{
		{"API server's lists empty, its history lost", 0, cluster.Forgets},
		{"API server denies everything (403)", 2, cluster.Denies},
		{"API server fails everything (500)", 2, cluster.Fails},
		{"API server answers with a web page", 2, cluster.Portal},
		{"API server's answers cut short", 2, cluster.Truncates},
		{"API server's lists empty", 2, cluster.Empties},
		{"API server's lists outdated", 2, cluster.Outdated},
	} {
		add(lie.name, lie.known, func(_ testing.TB, s *Site) { s.api.front.Behave(lie.behave) }, func(_ testing.TB, s *Site) { s.api.front.Behave(cluster.Honest) })
	}
	faults[0].Least = 8 * time.Second // backends that vanish are shown for some seconds more
	add("API server killed (kill -9)", 2, func(_ testing.TB, s *Site) { s.api.cluster.Kill(cluster.APIServer) }, func(tb testing.TB, s *Site) {
		s.api.cluster.StartPart(tb, cluster.APIServer)
		s.api.cluster.Ready(tb)
	})
	add("API server frozen (SIGSTOP)", 2, func(_ testing.TB, s *Site) { s.api.cluster.Freeze(cluster.APIServer) }, func(_ testing.TB, s *Site) { s.api.cluster.Thaw(cluster.APIServer) })
	add("API server slow, 1 to 3 s", 2, func(tb testing.TB, s *Site) {
		for _, l := range all(s) {
			l.Poison(tb, "latency", "downstream", map[string]any{"latency": 2000, "jitter": 1000})
		}
	}, restore)
	add("API server cut off from all directors", 2, func(_ testing.TB, s *Site) {
		for _, l := range all(s) {
			l.Cut()
		}
	}, restore)
	add("API server cut off from one director", 2, func(_ testing.TB, s *Site) { s.Directors[0].api.Cut() }, restore)
	add("API server's answers lost", 2, func(tb testing.TB, s *Site) {
		for _, l := range all(s) {
			l.Poison(tb, "timeout", "downstream", map[string]any{"timeout": 0})
		}
	}, restore)
	return faults
}
