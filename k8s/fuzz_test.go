package k8s_test

//lint:file-ignore SA1019 Endpoints are what the minimal rights allow; they are deprecated and go on working

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/k8s"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"
)

// checkBackends holds what the rest of the program relies on, whatever a source lists.
func checkBackends(t *testing.T, backends []director.Backend) {
	t.Helper()
	for i, b := range backends {
		switch {
		case b.Name == "" || len(b.Name) > 253 || !oneLine(b.Name):
			t.Errorf("a name that cannot be stored, printed or ordered about: %q", b.Name)
		case !b.Addr.IsValid() || b.Addr.Is4In6() || b.Addr.IsUnspecified():
			t.Errorf("%s is at %s", b.Name, b.Addr)
		case b.Weight < 0 || b.Weight > 100:
			t.Errorf("%s has weight %d", b.Name, b.Weight)
		case i > 0 && backends[i-1].Name >= b.Name:
			t.Errorf("%q stands before %q", backends[i-1].Name, b.Name)
		}
		for name, port := range b.Ports {
			if name != strings.ToLower(name) || port == 0 {
				t.Errorf("%s has port %q %d", b.Name, name, port)
			}
		}
	}
}

// checkError holds that an error can be shown in a log and on a page.
func checkError(t *testing.T, err error) {
	t.Helper()
	if text := err.Error(); text == "" || len(text) > 1000 || !oneLine(text) {
		t.Errorf("error %.2000q", text)
	}
}

func oneLine(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) })
}

// FuzzParse holds that what a file is taken to say is sound, and the same each time.
func FuzzParse(f *testing.F) {
	for _, path := range []string{"../testdata/endpoints.yaml", "../testdata/endpointslice.yaml", "../testdata/backends.yaml", "testdata/two-subsets-endpoints.yaml"} {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		backends, err := k8s.Parse(text)
		if err != nil {
			checkError(t, err)
			return
		}
		checkBackends(t, backends)
		for range 5 { // maps are walked in any order
			if again, err := k8s.Parse(text); err != nil || !reflect.DeepEqual(again, backends) {
				t.Fatalf("%+v, and then %+v, %v", backends, again, err)
			}
		}
	})
}

// addObjects adds the recorded objects of one kind, as JSON.
func addObjects(f *testing.F, pattern string) {
	files, err := filepath.Glob("testdata/" + pattern)
	if err != nil || len(files) == 0 {
		f.Fatal("no objects", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		object, err := yaml.YAMLToJSON(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(object)
	}
}

// FuzzEndpoints holds that an Endpoints object, whatever an API server sends, is refused or makes sound backends, and that its order
// says nothing: replicas must not differ.
func FuzzEndpoints(f *testing.F) {
	addObjects(f, "*-endpoints.yaml")
	f.Fuzz(func(t *testing.T, object []byte) {
		var e corev1.Endpoints
		if json.Unmarshal(object, &e) != nil {
			return
		}
		backends, err := k8s.FromEndpoints(&e)
		if err != nil {
			checkError(t, err)
			return
		}
		checkBackends(t, backends)
		slices.Reverse(e.Subsets)
		for i := range e.Subsets {
			slices.Reverse(e.Subsets[i].Addresses)
			slices.Reverse(e.Subsets[i].NotReadyAddresses)
			slices.Reverse(e.Subsets[i].Ports)
		}
		if again, err := k8s.FromEndpoints(&e); err != nil || !reflect.DeepEqual(again, backends) {
			t.Fatalf("%+v, the other way round %+v, %v", backends, again, err)
		}
	})
}

// FuzzSlices holds the same for EndpointSlices, of which a Service has several.
func FuzzSlices(f *testing.F) {
	addObjects(f, "*-endpointslice.yaml")
	f.Fuzz(func(t *testing.T, object []byte) {
		var list discoveryv1.EndpointSliceList
		if json.Unmarshal(object, &list) != nil || len(list.Items) == 0 {
			var one discoveryv1.EndpointSlice
			if json.Unmarshal(object, &one) != nil {
				return
			}
			list.Items = []discoveryv1.EndpointSlice{one}
		}
		backends, err := k8s.FromSlices(list.Items)
		if err != nil {
			checkError(t, err)
			return
		}
		checkBackends(t, backends)
		slices.Reverse(list.Items)
		for i := range list.Items {
			slices.Reverse(list.Items[i].Endpoints)
			slices.Reverse(list.Items[i].Ports)
		}
		if again, err := k8s.FromSlices(list.Items); err != nil || !reflect.DeepEqual(again, backends) {
			t.Fatalf("%+v, the other way round %+v, %v", backends, again, err)
		}
	})
}
