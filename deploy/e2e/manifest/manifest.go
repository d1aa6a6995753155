// Package manifest renders the shipped manifests.
package manifest

import (
	"os"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
)

// known are Kubernetes' own types and those of the Prometheus Operator.
var known = func() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(scheme.AddToScheme(s))
	utilruntime.Must(monitoringv1.AddToScheme(s))
	return s
}()

// Overlays are the folders of deploy/kustomize that can be applied, for Render.
func Overlays(tb testing.TB) []string {
	tb.Helper()
	found, err := os.ReadDir(dovecot.Dir("..", "kustomize", "overlays"))
	if err != nil || len(found) == 0 {
		tb.Fatalf("there are no overlays: %v", err)
	}
	var folders []string
	for _, folder := range found {
		folders = append(folders, "overlays/"+folder.Name())
	}
	return folders
}

// Render builds a folder of deploy/kustomize and decodes every object strictly: a misspelled field fails the test.
func Render(tb testing.TB, folder string) []runtime.Object {
	tb.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).
		Run(filesys.MakeFsOnDisk(), dovecot.Dir("..", "kustomize", folder))
	if err != nil {
		tb.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(known, serializer.EnableStrict).UniversalDeserializer()
	var objects []runtime.Object
	for _, resource := range built.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			tb.Fatal(err)
		}
		object, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			tb.Fatalf("%s: %v", resource.CurId(), err)
		}
		objects = append(objects, object)
	}
	return objects
}

// The returns the only object of its type.
func The[T runtime.Object](tb testing.TB, objects []runtime.Object) T {
	tb.Helper()
	found := All[T](objects)
	if len(found) != 1 {
		tb.Fatalf("%d objects of type %T, want one", len(found), *new(T))
	}
	return found[0]
}

// All returns every object of a type.
func All[T runtime.Object](objects []runtime.Object) (found []T) {
	for _, object := range objects {
		if o, ok := object.(T); ok {
			found = append(found, o)
		}
	}
	return found
}
