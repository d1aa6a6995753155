package kubernetes_test

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/cluster"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/manifest"
)

// operatorGroup is of the Prometheus Operator: its kinds are not there without it.
const operatorGroup = "monitoring.coreos.com"

// TestManifestsOnTheAPIServer lets a real API server take what is shipped, in a namespace that enforces the restricted profile, and then tries
// what the director's ServiceAccount may do.
func TestManifestsOnTheAPIServer(t *testing.T) {
	c := cluster.Start(t)
	s := newAPIServer(t, c)
	s.namespace(t, "mail")
	t.Run("it refuses what is wrong", s.refusesWhatIsWrong)
	for n, folder := range manifest.Overlays(t) {
		t.Run(folder, func(t *testing.T) {
			objects := manifest.Render(t, folder)
			t.Run("it is taken", func(t *testing.T) { s.takes(t, objects) })
			t.Run("its pods are let in", func(t *testing.T) { s.letsIn(t, objects) })
			t.Run("it has the rights that it needs and no others", func(t *testing.T) { s.grants(t, fmt.Sprintf("rights-%d", n), folder, objects) })
		})
	}
}

// apiServer tries things without doing them.
type apiServer struct {
	cluster *cluster.Cluster
	dynamic dynamic.Interface
	kinds   meta.RESTMapper
}

func newAPIServer(t *testing.T, c *cluster.Cluster) *apiServer {
	t.Helper()
	client, err := dynamic.NewForConfig(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	asked, err := discovery.NewDiscoveryClientForConfig(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(asked)
	if err != nil {
		t.Fatal(err)
	}
	return &apiServer{c, client, restmapper.NewDiscoveryRESTMapper(groups)}
}

// namespace makes one that lets in nothing but restricted pods, and the ServiceAccounts that these name.
func (s *apiServer) namespace(t *testing.T, name string) {
	t.Helper()
	labels := map[string]string{"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest"}
	ctx := t.Context()
	if _, err := s.cluster.Admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.cluster.Admin.CoreV1().ServiceAccounts(name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "go-dovecot-director"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "there is the default ServiceAccount", func() error {
		_, err := s.cluster.Admin.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// try has the API server do all but write an object.
func (s *apiServer) try(ctx context.Context, object *unstructured.Unstructured) error {
	kind := object.GroupVersionKind()
	mapping, err := s.kinds.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return err
	}
	options := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
	client := dynamic.ResourceInterface(s.dynamic.Resource(mapping.Resource))
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		client = s.dynamic.Resource(mapping.Resource).Namespace(object.GetNamespace())
	}
	_, err = client.Create(ctx, object, options)
	return err
}

// loose is an object as YAML has it.
func loose(t *testing.T, object runtime.Object) *unstructured.Unstructured {
	t.Helper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: fields}
}

// refusesWhatIsWrong holds that a dry run means something here.
func (s *apiServer) refusesWhatIsWrong(t *testing.T) {
	shipped := podOf(t, "director", manifest.The[*appsv1.Deployment](t, manifest.Render(t, all)).Spec.Template)
	for name, tc := range map[string]struct {
		change func(pod *unstructured.Unstructured) error
		want   string
	}{
		"a pod that may gain rights": {func(pod *unstructured.Unstructured) error {
			containers, _, err := unstructured.NestedSlice(pod.Object, "spec", "containers")
			if err != nil {
				return err
			}
			unstructured.RemoveNestedField(containers[0].(map[string]any), "securityContext", "allowPrivilegeEscalation")
			return unstructured.SetNestedSlice(pod.Object, containers, "spec", "containers")
		}, "violates PodSecurity"},
		"a pod on the host's network": {func(pod *unstructured.Unstructured) error {
			return unstructured.SetNestedField(pod.Object, true, "spec", "hostNetwork")
		}, "violates PodSecurity"},
		"a field that is misspelled": {func(pod *unstructured.Unstructured) error {
			return unstructured.SetNestedField(pod.Object, int64(1), "spec", "terminationGracePeriod")
		}, "unknown field"},
	} {
		pod := loose(t, shipped)
		if err := tc.change(pod); err != nil {
			t.Fatal(err)
		}
		if err := s.try(t.Context(), pod); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// takes tries each object that the API server can know of.
func (s *apiServer) takes(t *testing.T, objects []runtime.Object) {
	tried := 0
	for _, object := range objects {
		o := loose(t, object)
		o.SetResourceVersion("")
		if o.GetKind() == "Namespace" || o.GetKind() == "ServiceAccount" {
			o.SetName(o.GetName() + "-2") // the others need one that is there
		}
		err := s.try(t.Context(), o)
		if o.GroupVersionKind().Group == operatorGroup {
			if !meta.IsNoMatchError(err) {
				t.Errorf("%s %s need not be left out: %v", o.GetKind(), o.GetName(), err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
		tried++
	}
	if tried < 8 {
		t.Errorf("only %d objects were tried", tried)
	}
}

func podOf(t *testing.T, name string, template corev1.PodTemplateSpec) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: *template.ObjectMeta.DeepCopy(), Spec: *template.Spec.DeepCopy()}
	pod.Name, pod.Namespace = name, "mail"
	return pod
}

// letsIn tries the pods themselves: a Deployment whose pods are refused is taken.
func (s *apiServer) letsIn(t *testing.T, objects []runtime.Object) {
	templates := map[string]corev1.PodTemplateSpec{"director": manifest.The[*appsv1.Deployment](t, objects).Spec.Template}
	for _, set := range manifest.All[*appsv1.StatefulSet](objects) {
		templates[set.Name] = set.Spec.Template
	}
	for name, template := range templates {
		if err := s.try(t.Context(), loose(t, podOf(t, name, template))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// grants gives the ServiceAccount its Role, and asks as it.
func (s *apiServer) grants(t *testing.T, namespace, folder string, objects []runtime.Object) {
	s.namespace(t, namespace)
	ctx, admin := t.Context(), s.cluster.Admin
	role, binding := manifest.The[*rbacv1.Role](t, objects), manifest.The[*rbacv1.RoleBinding](t, objects)
	role.Namespace, binding.Namespace, binding.Subjects[0].Namespace = namespace, namespace, namespace
	if _, err := admin.RbacV1().Roles(namespace).Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.RbacV1().RoleBindings(namespace).Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	config := s.cluster.Config()
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + namespace + ":go-dovecot-director",
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	one := metav1.ListOptions{FieldSelector: "metadata.name=" + service}
	needed := map[string]func() error{
		"Endpoints": func() error { _, err := client.CoreV1().Endpoints(namespace).List(ctx, one); return err },
		"a watch of Endpoints": func() error {
			w, err := client.CoreV1().Endpoints(namespace).Watch(ctx, one)
			if err == nil {
				w.Stop()
			}
			return err
		},
	}
	minimal := path.Base(folder) == "minimal-rbac"
	if !minimal {
		needed["EndpointSlices"] = func() error {
			_, err := client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + service})
			return err
		}
		needed["the StatefulSet"] = func() error { _, err := client.AppsV1().StatefulSets(namespace).List(ctx, one); return err }
	}
	eventually(t, patience, "the Role counts", needed["Endpoints"])
	for what, do := range needed {
		if err := do(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// All that it may do in its namespace besides is what everybody may: to ask what he may.
	review, err := client.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range review.Status.ResourceRules {
		ours := slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool {
			return slices.Equal(r.Verbs, rule.Verbs) && slices.Equal(r.APIGroups, rule.APIGroups) && slices.Equal(r.Resources, rule.Resources) && slices.Equal(r.ResourceNames, rule.ResourceNames)
		})
		everybodys := slices.Equal(rule.Verbs, []string{"create"}) && (slices.Equal(rule.APIGroups, []string{"authorization.k8s.io"}) || slices.Equal(rule.APIGroups, []string{"authentication.k8s.io"}))
		if !ours && !everybodys {
			t.Errorf("it may %v %v of %v %v", rule.Verbs, rule.Resources, rule.APIGroups, rule.ResourceNames)
		}
	}
	for what, do := range map[string]func() error{
		"the Secrets": func() error { _, err := client.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{}); return err },
		"its own Secret": func() error {
			_, err := client.CoreV1().Secrets(namespace).Get(ctx, "go-dovecot-director", metav1.GetOptions{})
			return err
		},
		"Endpoints of others": func() error {
			if minimal {
				return apierrors.NewForbidden(corev1.Resource("endpoints"), "", nil) // these may be read, as the overlay says
			}
			_, err := client.CoreV1().Endpoints(namespace).List(ctx, metav1.ListOptions{})
			return err
		},
		"Endpoints of another namespace": func() error {
			_, err := client.CoreV1().Endpoints("mail").List(ctx, one)
			return err
		},
		"Endpoints that are made up": func() error {
			_, err := client.CoreV1().Endpoints(namespace).Patch(ctx, service, types.MergePatchType, []byte(`{"subsets":[{"addresses":[{"ip":"192.0.2.66"}]}]}`), metav1.PatchOptions{})
			return err
		},
		"Endpoints that are removed": func() error { return client.CoreV1().Endpoints(namespace).Delete(ctx, service, metav1.DeleteOptions{}) },
		"EndpointSlices that are removed": func() error {
			return client.DiscoveryV1().EndpointSlices(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
		},
		"a StatefulSet that is scaled": func() error {
			_, err := client.AppsV1().StatefulSets(namespace).Patch(ctx, service, types.MergePatchType, []byte(`{"spec":{"replicas":0}}`), metav1.PatchOptions{})
			return err
		},
		"pods":            func() error { _, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{}); return err },
		"a pod that ends": func() error { return client.CoreV1().Pods(namespace).Delete(ctx, service+"-0", metav1.DeleteOptions{}) },
		"the nodes":       func() error { _, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); return err },
		"the namespaces":  func() error { _, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); return err },
		"a Role of its own": func() error {
			_, err := client.RbacV1().Roles(namespace).Create(ctx, role, metav1.CreateOptions{})
			return err
		},
		"what it may itself": func() error { _, err := client.RbacV1().Roles(namespace).List(ctx, metav1.ListOptions{}); return err },
	} {
		if err := do(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: it may: %v", what, err)
		}
	}
}
