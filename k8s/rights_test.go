package k8s_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/k8s"
	"github.com/k-web-s/go-dovecot-director/k8s/apitest"
	appsv1 "k8s.io/api/apps/v1"
)

// TestDeniedRightsAreAskedForRarely holds that a server which never grants EndpointSlices and StatefulSets is not asked
// for them all the time.
func TestDeniedRightsAreAskedForRarely(t *testing.T) {
	t.Parallel()
	server := apitest.New(t, apitest.Endpoints)
	set(server, pods{ready: []int{0}})
	b := newPatientBench(t, server)
	b.shows(t, zero)
	for _, resource := range []string{apitest.EndpointSlices, apitest.StatefulSets} {
		requests := func() int { return followed(server, resource) }
		until(t, resource+" are asked for", func() bool { return requests() >= 2 })
	}
	until(t, "10s have passed", func() func() bool {
		start := time.Now()
		return func() bool { return time.Since(start) > 10*time.Second }
	}())
	for _, resource := range []string{apitest.EndpointSlices, apitest.StatefulSets} {
		if n := followed(server, resource); n > 14 {
			t.Errorf("%s: %d requests within 10s", resource, n)
		}
	}
	if text := b.log.String(); strings.Contains(text, "level=WARN") {
		t.Errorf("a choice of the operator is no fault:\n%s", text)
	}
}

// TestARightIsGivenAndTaken follows the right to EndpointSlices without a restart, and loses no backend on the way.
func TestARightIsGivenAndTaken(t *testing.T) {
	t.Parallel()
	server := apitest.New(t, apitest.Endpoints)
	set(server, pods{ready: []int{0, 1}})
	b := newBench(t, server)
	b.describes(t, "Endpoints mail/dovecot-backend")
	for range 2 {
		server.Grant(apitest.EndpointSlices)
		b.describes(t, "EndpointSlices mail/dovecot-backend")
		b.proven(t)
		set(server, pods{ready: []int{0}, terminating: []int{1}})
		b.shows(t, zero+"; 1@11 terminating imap:143")
		set(server, pods{ready: []int{0, 1}})
		b.shows(t, zero+"; "+one)

		// A watch that is open goes on without the right, as with real servers; the next proof finds out.
		server.Deny(apitest.EndpointSlices)
		until(t, "Endpoints", func() bool {
			b.Confirm()
			detail, _ := b.Describe()
			return strings.Contains(detail, "Endpoints mail/dovecot-backend")
		})
		b.proven(t)
		set(server, pods{ready: []int{0, 1, 2}})
		b.shows(t, zero+"; "+one+"; "+two)
		set(server, pods{ready: []int{0, 1}})
		b.shows(t, zero+"; "+one)
	}
	b.always(t, zero)
	if n := strings.Count(b.log.String(), "backends are read from"); n != 5 {
		t.Errorf("logged %d times:\n%s", n, b.log)
	}
}

// TestEndpointsAreLeftForSlices holds that nobody follows Endpoints any more once EndpointSlices are read, and that a proof of those, which
// is late, proves nothing.
func TestEndpointsAreLeftForSlices(t *testing.T) {
	t.Parallel()
	server := apitest.New(t, apitest.Endpoints)
	set(server, pods{ready: []int{0}})
	b := newBench(t, server)
	b.describes(t, "Endpoints mail/dovecot-backend")
	server.Grant(apitest.EndpointSlices)
	b.describes(t, "EndpointSlices mail/dovecot-backend")
	b.proven(t)
	endpoints, slices := followed(server, apitest.Endpoints), followed(server, apitest.EndpointSlices)
	for i := range 3 {
		server.Cut()
		until(t, "it watches again", func() bool { return followed(server, apitest.EndpointSlices) > slices+i })
	}
	if n := followed(server, apitest.Endpoints); n != endpoints {
		t.Errorf("Endpoints were asked for %d times more", n-endpoints)
	}
	late := time.Now().Add(time.Hour)
	b.Prove(late)
	set(server, pods{ready: []int{0, 1}})
	b.shows(t, zero+"; "+one)
	if _, at, _ := b.last(); !at.Before(late) {
		t.Error("Endpoints have proven what EndpointSlices show")
	}
}

// TestASourceThatIsTakenUpAgainStartsAfresh holds that what failed with EndpointSlices, before the right to them was taken,
// does not count once it is given back.
func TestASourceThatIsTakenUpAgainStartsAfresh(t *testing.T) {
	t.Parallel()
	server := apitest.New(t, apitest.EndpointSlices, apitest.Endpoints)
	set(server, pods{ready: []int{0}})
	b := newBench(t, server)
	b.shows(t, zero)
	server.Hold()
	set(server, pods{ready: []int{0, 1}})
	b.Confirm()
	b.describes(t, "lags behind")
	server.Deny(apitest.EndpointSlices)
	b.describes(t, "Endpoints mail/dovecot-backend")
	server.Release()
	b.proven(t)
	server.Grant(apitest.EndpointSlices)
	b.describes(t, "EndpointSlices mail/dovecot-backend")
	until(t, "nothing fails", func() bool { _, failing := b.Describe(); return !failing })
}

func TestWithoutAnyRightTheLastViewStays(t *testing.T) {
	t.Parallel()
	server := apitest.New(t, apitest.EndpointSlices, apitest.Endpoints)
	set(server, pods{ready: []int{0}})
	b := newBench(t, server)
	b.shows(t, zero)
	server.Deny(apitest.EndpointSlices)
	server.Deny(apitest.Endpoints)
	server.Cut()
	until(t, "it is said", func() bool { return strings.Contains(b.log.String(), "denies reading the backends") })
	set(server, pods{ready: []int{0, 1}})
	b.Confirm()
	b.always(t, zero)
	server.Grant(apitest.Endpoints)
	b.shows(t, zero+"; "+one)
	until(t, "its end is said", func() bool { return strings.Contains(b.log.String(), "may be read again") })
	if n := strings.Count(b.log.String(), "denies reading the backends"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, b.log)
	}
}

func TestStatefulSetsAreFollowedWhereTheyMayBeRead(t *testing.T) {
	three := director.StatefulSet{Name: "dovecot-backend", Replicas: 3, Termination: time.Minute}
	five := director.StatefulSet{Name: "dovecot-backend", Replicas: 5, Termination: time.Minute}
	eachSource(t, func(t *testing.T, server *apitest.Server, _ string) {
		server.Set(statefulSet(3))
		set(server, pods{ready: []int{0, 1, 2}})
		b := newBench(t, server)
		b.shows(t, zero+"; "+one+"; "+two)
		b.proven(t)
		if n := len(b.sets()); n != 0 {
			t.Errorf("%d sets known without the right", n)
		}
		server.Grant(apitest.StatefulSets)
		b.wants(t, three)
		b.describes(t, "StatefulSet dovecot-backend wants 3")
		server.Set(statefulSet(5))
		b.wants(t, five)
		b.proven(t)
		// What is known without the right may be old, and is not used.
		server.Deny(apitest.StatefulSets)
		server.Cut()
		b.wants(t)
		b.proven(t)
		server.Grant(apitest.StatefulSets)
		b.wants(t, five)
		server.Delete(apitest.StatefulSets, "dovecot-backend")
		b.wants(t)
		b.proven(t)
	})
}

// TestTheStatefulSetIsProvenToo holds that a number of replicas which may be old proves nothing.
func TestTheStatefulSetIsProvenToo(t *testing.T) {
	t.Parallel()
	server := apitest.New(t, apitest.EndpointSlices, apitest.StatefulSets)
	server.Set(statefulSet(3))
	set(server, pods{ready: []int{0}})
	b := newBench(t, server)
	b.wants(t, director.StatefulSet{Name: "dovecot-backend", Replicas: 3, Termination: time.Minute})
	b.proven(t)
	server.Hold()
	server.Set(statefulSet(5))
	_, before, _ := b.last()
	until(t, "the lag is noticed", func() bool {
		b.Confirm()
		detail, failing := b.Describe()
		return failing && strings.Contains(detail, "lags behind")
	})
	if _, at, _ := b.last(); at.After(before) {
		t.Errorf("proven at %s", at)
	}
	server.Release()
	b.proven(t)
	b.wants(t, director.StatefulSet{Name: "dovecot-backend", Replicas: 5, Termination: time.Minute})
}

// TestOneRefusalIsNoDenial holds that a server which denies a right for a moment, as one that starts does, is not
// believed: Endpoints would not show who terminates.
func TestOneRefusalIsNoDenial(t *testing.T) {
	t.Parallel()
	server := apitest.New(t, apitest.EndpointSlices, apitest.Endpoints)
	set(server, pods{ready: []int{0}, terminating: []int{1}})
	b := startBench(t, server, func(w *k8s.Watch) { w.Hurry(300*time.Millisecond, 200*time.Millisecond) })
	const both = zero + "; 1@11 terminating imap:143"
	b.shows(t, both)
	for range 3 {
		requests := func() int {
			return followed(server, apitest.EndpointSlices)
		}
		before := requests()
		server.DenyOnce(apitest.EndpointSlices)
		server.Cut()
		until(t, "it is denied, and asked for again", func() bool { return requests() >= before+2 })
		until(t, "it works again", func() bool { _, failing := b.Describe(); return !failing })
	}
	b.always(t, both)
	if n := strings.Count(b.log.String(), "backends are read from"); n != 1 {
		t.Errorf("the source changed:\n%s", b.log)
	}
}

// TestHalfARightIsNone holds that EndpointSlices which may be listed but not watched, or watched but not listed, are not
// used, and that this settles.
func TestHalfARightIsNone(t *testing.T) {
	for _, verb := range []string{"list", "watch"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			server := apitest.New(t, apitest.Endpoints)
			server.Grant(apitest.EndpointSlices, verb)
			set(server, pods{ready: []int{0}})
			b := newBench(t, server)
			b.describes(t, "Endpoints mail/dovecot-backend")
			changes := func() int { return strings.Count(b.log.String(), "backends are read from") }
			before := changes()
			for range 3 {
				b.proven(t)
			}
			if n := changes(); n != before || n > 2 {
				t.Errorf("the source changed %d times, %d of them after it had settled:\n%s", n, n-before, b.log)
			}
			server.Grant(apitest.EndpointSlices)
			b.describes(t, "EndpointSlices mail/dovecot-backend")
			b.proven(t)
		})
	}
}

// TestAnOldStatefulSetDoesNotCount holds that what was known before a right was taken is not taken for true again because
// of an error of another kind.
func TestAnOldStatefulSetDoesNotCount(t *testing.T) {
	t.Parallel()
	server := apitest.New(t, apitest.EndpointSlices, apitest.StatefulSets)
	server.Set(statefulSet(3))
	set(server, pods{ready: []int{0}})
	b := newBench(t, server)
	three := director.StatefulSet{Name: "dovecot-backend", Replicas: 3, Termination: time.Minute}
	b.wants(t, three)
	server.Deny(apitest.StatefulSets)
	server.Cut()
	b.wants(t)
	b.mu.Lock()
	published := len(b.snapshots)
	b.mu.Unlock()
	requests := func() int {
		return followed(server, apitest.StatefulSets)
	}
	server.Refuse(http.StatusInternalServerError)
	before := requests()
	until(t, "the server fails", func() bool { return requests() > before+1 })
	server.Refuse(0)
	b.proven(t)
	b.mu.Lock()
	for _, s := range b.snapshots[published:] {
		if len(s.StatefulSets) > 0 {
			t.Errorf("%v counts, without the right to it", s.StatefulSets)
		}
	}
	b.mu.Unlock()
	server.Grant(apitest.StatefulSets)
	b.wants(t, three)
}

// TestARightToTheStatefulSetThatIsGivenBackIsNoticed although the watch was never cut.
func TestARightToTheStatefulSetThatIsGivenBackIsNoticed(t *testing.T) {
	t.Parallel()
	server := apitest.New(t, apitest.EndpointSlices, apitest.StatefulSets)
	server.Set(statefulSet(3))
	set(server, pods{ready: []int{0}})
	b := newBench(t, server)
	three := director.StatefulSet{Name: "dovecot-backend", Replicas: 3, Termination: time.Minute}
	b.wants(t, three)
	server.Deny(apitest.StatefulSets)
	until(t, "it is not used", func() bool { b.Confirm(); return len(b.sets()) == 0 })
	server.Grant(apitest.StatefulSets)
	until(t, "it is used again", func() bool { b.Confirm(); return len(b.sets()) == 1 })
}

func TestOrdinalsMayStartElsewhere(t *testing.T) {
	t.Parallel()
	server := apitest.New(t, apitest.EndpointSlices, apitest.StatefulSets)
	s := statefulSet(3)
	s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5}
	server.Set(s)
	set(server, pods{ready: []int{6}})
	b := newBench(t, server)
	b.wants(t, director.StatefulSet{Name: "dovecot-backend", Start: 5, Replicas: 3, Termination: time.Minute})
}
