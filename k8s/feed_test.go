package k8s

//lint:file-ignore SA1019 Endpoints are what the minimal rights allow; they are deprecated and go on working

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestWhatAFeedKnowsOfItsRights holds when a denied right is believed, for how long, and what other faults change about that.
func TestWhatAFeedKnowsOfItsRights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		no := apierrors.NewForbidden(schema.GroupResource{Resource: resourceSlices}, "", nil)
		fault := errors.New("etcd has no leader")
		changes := 0
		// It has no client: what asks the server panics.
		f := newFeed(resource{kind: "EndpointSlices"}, slog.New(slog.DiscardHandler), &pace{denied: 5 * time.Second, retryMax: 6 * time.Second}, nil, func() { changes++ })
		is := func(step string, denied, believed bool) {
			t.Helper()
			if d, b := f.denied(); d != denied || b != believed {
				t.Errorf("%s: denied %t, believed %t", step, d, b)
			}
		}
		is("nothing was asked", false, false)
		f.answered(toList, no)
		is("denied once", true, false)
		time.Sleep(4 * time.Second)
		f.answered(toList, no)
		is("denied for 4 s", true, false)
		f.answered(toList, fault)
		is("a fault grants nothing", true, false)
		time.Sleep(time.Second)
		f.answered(toList, no)
		is("denied since 0 s: before, there was a fault", true, false)
		time.Sleep(5 * time.Second)
		f.answered(toList, no)
		is("denied for 5 s", true, true)
		if f.prove(t.Context()) || f.refusal(toList) == nil || f.refusal(toWatch) != nil {
			t.Error("the server is asked for what it denies")
		}
		if _, err := f.tryList(t.Context(), f.selector); !errors.Is(err, no) {
			t.Error(err)
		}
		time.Sleep(30 * time.Second)
		if f.refusal(toList) != nil {
			t.Error("the server is not asked again")
		}

		f.answered(toWatch, fault)
		f.listed, f.objects = true, map[string]runtime.Object{"a": &corev1.Endpoints{}}
		f.forget()
		is("taken up again", true, true)
		if objects, listed := f.state(); listed || len(objects) > 0 {
			t.Errorf("taken up again: listed %t, %v", listed, objects)
		}
		if trouble := f.trouble(); !strings.HasPrefix(trouble, "list fails: ") {
			t.Errorf("taken up again: %s", trouble)
		}
		before := changes
		f.answered(toList, nil)
		is("granted", false, false)
		if f.trouble() != "" || changes == before {
			t.Errorf("granted: %q, %d changes", f.trouble(), changes-before)
		}
		before = changes
		f.answered(toList, nil)
		f.answered(toWatch, fault)
		f.answered(toWatch, fault)
		if changes != before+1 {
			t.Errorf("%d changes by one fault", changes-before)
		}
	})
}

// TestWhatProves holds what the watch must have, given what the server has.
func TestWhatProves(t *testing.T) {
	server := map[string]version{"a": {"uid-a", "100"}, "b": {"uid-b", "99"}}
	for name, tc := range map[string]struct {
		watch  map[string]version
		proves bool
	}{
		"the same":           {server, true},
		"a newer version":    {map[string]version{"a": {"uid-a", "101"}, "b": {"uid-b", "99"}}, true},
		"an older version":   {map[string]version{"a": {"uid-a", "100"}, "b": {"uid-b", "98"}}, false},
		"older, not by text": {map[string]version{"a": {"uid-a", "99"}, "b": {"uid-b", "99"}}, false},
		"one too few":        {map[string]version{"a": {"uid-a", "100"}}, false},
		"one too many":       {map[string]version{"a": {"uid-a", "100"}, "b": {"uid-b", "99"}, "c": {"uid-c", "1"}}, false},
		"another name":       {map[string]version{"a": {"uid-a", "100"}, "c": {"uid-b", "99"}}, false},
		"created anew":       {map[string]version{"a": {"uid-a", "100"}, "b": {"uid-b2", "120"}}, false},
		"nothing":            {nil, false},
	} {
		f := newFeed(resource{}, slog.New(slog.DiscardHandler), &pace{}, nil, func() {})
		f.listed, f.objects = true, map[string]runtime.Object{}
		for object, v := range tc.watch {
			f.objects[object] = &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: object, UID: v.uid, ResourceVersion: v.version}}
		}
		if got := f.holds(server); got != tc.proves {
			t.Errorf("%s: proves %t", name, got)
		}
		if f.listed = false; f.holds(server) || f.holds(nil) {
			t.Errorf("%s: proves before it was listed", name)
		}
	}
}

// TestAListReplacesAll holds that what was deleted while the watch was cut is gone after the next list.
func TestAListReplacesAll(t *testing.T) {
	f := newFeed(resource{}, slog.New(slog.DiscardHandler), &pace{}, nil, func() {})
	endpoints := func(names ...string) (all []any) {
		for _, name := range names {
			all = append(all, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: name}})
		}
		return all
	}
	for _, names := range [][]string{{"a", "b"}, {"b", "c"}, {}} {
		if err := (*content)(f).Replace(endpoints(names...), ""); err != nil {
			t.Fatal(err)
		}
		objects, listed := f.state()
		var got []string
		for _, o := range objects {
			name, _ := versionOf(o)
			got = append(got, name)
		}
		if !listed || strings.Join(got, " ") != strings.Join(names, " ") {
			t.Errorf("%v after a list of %v", got, names)
		}
	}
}
