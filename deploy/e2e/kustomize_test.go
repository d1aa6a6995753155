package e2e_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	podsecurity "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/manifest"
)

// The manifests can be applied to a namespace that enforces the "restricted" profile, and their parts find each other.
func TestManifests(t *testing.T) {
	t.Parallel()
	for _, folder := range manifest.Overlays(t) {
		t.Run(folder, func(t *testing.T) {
			t.Parallel()
			objects := manifest.Render(t, folder)
			deployment := manifest.The[*appsv1.Deployment](t, objects)
			t.Run("pods meet the restricted profile", func(t *testing.T) { wantRestricted(t, deployment.Spec.Template) })
			t.Run("labels and selectors fit", func(t *testing.T) { wantSelected(t, objects, deployment) })
			t.Run("names refer to what exists", func(t *testing.T) { wantReferences(t, objects, deployment) })
			t.Run("rights are just those on the backends", func(t *testing.T) {
				want := []rbacv1.PolicyRule{
					{Verbs: []string{"list", "watch"}, APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}},
					{Verbs: []string{"list", "watch"}, APIGroups: []string{""}, Resources: []string{"endpoints"}, ResourceNames: []string{"dovecot-backend"}},
					{Verbs: []string{"list", "watch"}, APIGroups: []string{"apps"}, Resources: []string{"statefulsets"}, ResourceNames: []string{"dovecot-backend"}},
				}
				switch folder {
				case "overlays/sessions", "overlays/evacuate-on-stop":
					want[1].ResourceNames = append(want[1].ResourceNames, "dovecot-proxy")
				case "overlays/minimal-rbac":
					want = []rbacv1.PolicyRule{{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"endpoints"}}}
				}
				if diff := cmp.Diff(want, manifest.The[*rbacv1.Role](t, objects).Rules); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
			})
		})
	}
}

// wantRestricted evaluates the pods as the API server's admission would.
func wantRestricted(t *testing.T, pods corev1.PodTemplateSpec) {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
	for _, result := range evaluator.EvaluatePod(restricted, &pods.ObjectMeta, &pods.Spec) {
		if !result.Allowed {
			t.Errorf("%s: %s", result.ForbiddenReason, result.ForbiddenDetail)
		}
	}
	for _, c := range pods.Spec.Containers {
		if c.Name != "director" {
			continue
		}
		if readOnly := c.SecurityContext.ReadOnlyRootFilesystem; readOnly == nil || !*readOnly {
			t.Errorf("%s: the root file system is writable", c.Name)
		}
	}
}

// wantSelected checks that everything that selects pods selects the director's, and the Service of the backends does not.
func wantSelected(t *testing.T, objects []runtime.Object, deployment *appsv1.Deployment) {
	t.Helper()
	pods := labels.Set(deployment.Spec.Template.Labels)
	selectors := map[string]*metav1.LabelSelector{
		"Deployment":          deployment.Spec.Selector,
		"PodDisruptionBudget": manifest.The[*policyv1.PodDisruptionBudget](t, objects).Spec.Selector,
		"NetworkPolicy":       &manifest.The[*networkingv1.NetworkPolicy](t, objects).Spec.PodSelector,
		"topology spread":     deployment.Spec.Template.Spec.TopologySpreadConstraints[0].LabelSelector,
	}
	for _, service := range manifest.All[*corev1.Service](objects) {
		if service.Name == "go-dovecot-director" {
			selectors["Service"] = &metav1.LabelSelector{MatchLabels: service.Spec.Selector}
		} else if labels.SelectorFromSet(service.Spec.Selector).Matches(pods) {
			t.Errorf("Service %s selects the director's pods", service.Name)
		}
	}
	if len(selectors) != 5 {
		t.Errorf("selectors: %v, want five", slices.Sorted(maps.Keys(selectors)))
	}
	for name, selector := range selectors {
		if len(selector.MatchLabels) == 0 || !labels.SelectorFromSet(selector.MatchLabels).Matches(pods) {
			t.Errorf("%s selects %v, the pods have %v", name, selector.MatchLabels, pods)
		}
	}
}

// wantReferences checks what one object says of another, and that every object lives in the namespace.
func wantReferences(t *testing.T, objects []runtime.Object, deployment *appsv1.Deployment) {
	t.Helper()
	for _, object := range objects {
		meta := object.(metav1.Object)
		if _, namespace := object.(*corev1.Namespace); !namespace && meta.GetNamespace() != "mail" {
			t.Errorf("%T %s is in namespace %q", object, meta.GetName(), meta.GetNamespace())
		}
	}
	account := manifest.The[*corev1.ServiceAccount](t, objects)
	binding := manifest.The[*rbacv1.RoleBinding](t, objects)
	if s := binding.Subjects[0]; s.Name != account.Name || s.Namespace != account.Namespace {
		t.Errorf("the RoleBinding is for %s/%s, the ServiceAccount is %s/%s", s.Namespace, s.Name, account.Namespace, account.Name)
	}
	if role := manifest.The[*rbacv1.Role](t, objects); binding.RoleRef.Name != role.Name {
		t.Errorf("the RoleBinding refers to %q, the Role is %q", binding.RoleRef.Name, role.Name)
	}
	spec := deployment.Spec.Template.Spec
	if spec.ServiceAccountName != account.Name {
		t.Errorf("pods run as %q, the ServiceAccount is %q", spec.ServiceAccountName, account.Name)
	}
	container, secrets := spec.Containers[0], map[string]*corev1.Secret{}
	for _, s := range manifest.All[*corev1.Secret](objects) {
		secrets[s.Name] = s
	}
	if from := container.EnvFrom[0].SecretRef.Name; secrets[from] == nil {
		t.Errorf("settings come from Secret %q, there are %v", from, slices.Sorted(maps.Keys(secrets)))
	}
	wantFiles(t, spec, secrets)
	ports := map[string]bool{}
	for _, port := range container.Ports {
		ports[port.Name] = true
	}
	for _, probe := range []*corev1.Probe{container.LivenessProbe, container.ReadinessProbe} {
		if !ports[probe.HTTPGet.Port.String()] {
			t.Errorf("probe %s asks port %s, the container has %v", probe.HTTPGet.Path, probe.HTTPGet.Port.String(), ports)
		}
	}
	for _, e := range container.Env {
		known := slices.ContainsFunc(manifest.All[*corev1.Service](objects), func(s *corev1.Service) bool { return s.Name == e.Value })
		if strings.HasSuffix(e.Name, "SERVICE") && !known {
			t.Errorf("%s names no Service that is there", e.Name)
		}
	}
}

// wantFiles checks that the files which the first container's variables name are in its volumes.
func wantFiles(t *testing.T, spec corev1.PodSpec, secrets map[string]*corev1.Secret) {
	t.Helper()
	files := map[string]bool{}
	add := func(folder, name string, keys ...corev1.KeyToPath) {
		secret := secrets[name]
		if secret == nil {
			t.Errorf("%s is from Secret %q, there are %v", folder, name, slices.Sorted(maps.Keys(secrets)))
			return
		}
		if keys == nil {
			for key := range secret.StringData {
				keys = append(keys, corev1.KeyToPath{Key: key, Path: key})
			}
		}
		for _, k := range keys {
			files[folder+"/"+k.Path] = secret.StringData[k.Key] != ""
		}
	}
	for _, mount := range spec.Containers[0].VolumeMounts {
		i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name })
		switch volume := spec.Volumes[i]; {
		case volume.Secret != nil:
			add(mount.MountPath, volume.Secret.SecretName)
		case volume.Projected != nil:
			for _, source := range volume.Projected.Sources {
				add(mount.MountPath, source.Secret.Name, source.Secret.Items...)
			}
		}
	}
	for _, e := range spec.Containers[0].Env {
		if (strings.HasSuffix(e.Name, "_FILE") || strings.HasPrefix(e.Name, "PGSSL")) && !files[e.Value] {
			t.Errorf("%s is %s, which no Secret has; there are %v", e.Name, e.Value, slices.Sorted(maps.Keys(files)))
		}
	}
}

// With TLS for lookups, what asks in Kubernetes is told so, and all that is not the lookup API is as it was.
func TestManifestsOfLookupsOverTLS(t *testing.T) {
	t.Parallel()
	plain, objects := manifest.Render(t, "overlays/example"), manifest.Render(t, "overlays/lookup-tls")
	before, after := manifest.The[*appsv1.Deployment](t, plain).Spec.Template.Spec.Containers[0], manifest.The[*appsv1.Deployment](t, objects).Spec.Template.Spec.Containers[0]
	for what, pair := range map[string][2]any{
		"readiness probe": {before.ReadinessProbe, after.ReadinessProbe},
		"liveness probe":  {before.LivenessProbe, after.LivenessProbe},
		"ports":           {before.Ports, after.Ports},
		"NetworkPolicy":   {manifest.The[*networkingv1.NetworkPolicy](t, plain).Spec, manifest.The[*networkingv1.NetworkPolicy](t, objects).Spec},
	} {
		if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
			t.Errorf("%s: -without +with TLS:\n%s", what, diff)
		}
	}
	if probe := after.ReadinessProbe.HTTPGet; probe.Port.String() != "ops" || probe.Scheme != "" {
		t.Errorf("the readiness probe is %+v", probe)
	}
	set := map[string]bool{}
	for _, variable := range after.Env {
		set[variable.Name] = true
	}
	for _, name := range []string{"LOOKUP_TLS_CERT_FILE", "LOOKUP_TLS_KEY_FILE", "LOOKUP_TLS_CLIENT_CA_FILE", "LOOKUP_TOKEN_FILE"} {
		if !set[name] {
			t.Errorf("%s is not set", name)
		}
	}
	for _, mount := range after.VolumeMounts {
		if mount.SubPath != "" || !mount.ReadOnly {
			t.Errorf("%s is mounted as %+v: it would not follow its Secret", mount.Name, mount)
		}
	}
	for _, service := range manifest.All[*corev1.Service](objects) {
		if ports := service.Spec.Ports; service.Name == "go-dovecot-director" && (len(ports) != 1 || ports[0].Name != "http" || ports[0].TargetPort.String() != "http" || ports[0].AppProtocol == nil || *ports[0].AppProtocol != "https") {
			t.Errorf("the Service's ports are %+v", ports)
		}
	}
}

// The backends' hook finds the program, the director and what it needs to be let in, and has the time that it takes.
func TestManifestsOfTheHook(t *testing.T) {
	t.Parallel()
	objects := manifest.Render(t, "overlays/evacuate-on-stop")
	set := manifest.The[*appsv1.StatefulSet](t, objects)
	deployment := manifest.The[*appsv1.Deployment](t, objects)
	wantRestricted(t, set.Spec.Template)
	spec, secrets := set.Spec.Template.Spec, map[string]*corev1.Secret{}
	for _, s := range manifest.All[*corev1.Secret](objects) {
		secrets[s.Name] = s
	}
	wantFiles(t, spec, secrets)
	if set.Namespace != "mail" || !slices.ContainsFunc(manifest.All[*corev1.Service](objects), func(s *corev1.Service) bool {
		return s.Name == set.Spec.ServiceName && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(set.Spec.Template.Labels))
	}) {
		t.Errorf("no Service %s in %s selects the backends", set.Spec.ServiceName, set.Namespace)
	}
	hook := spec.Containers[0].Lifecycle.PreStop.Exec.Command
	image := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Image != nil })
	mount := slices.IndexFunc(spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == spec.Volumes[image].Name })
	if program := spec.Containers[0].VolumeMounts[mount].MountPath + "/go-dovecot-director"; hook[0] != program {
		t.Errorf("the hook runs %s, the image has %s", hook[0], program)
	}
	if director := deployment.Spec.Template.Spec.Containers[0].Image; spec.Volumes[image].Image.Reference != director {
		t.Errorf("the hook's program is from %s, the director from %s", spec.Volumes[image].Image.Reference, director)
	}
	if help := runDirector(t, append(slices.Clone(hook[1:2]), "--help")...); !strings.Contains(help, hook[2]) {
		t.Errorf("%v: the program has no such flag:\n%s", hook, help)
	}
	within, err := time.ParseDuration(hook[3])
	if grace := time.Duration(*spec.TerminationGracePeriodSeconds) * time.Second; err != nil || within+30*time.Second > grace {
		t.Errorf("the hook may take %s, the pod %s: %v", within, grace, err)
	}
	variables := map[string]string{}
	for _, e := range spec.Containers[0].Env {
		variables[e.Name] = e.Value
	}
	for _, service := range manifest.All[*corev1.Service](objects) {
		if service.Name != "go-dovecot-director" {
			continue
		}
		i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == "admin" })
		if want := fmt.Sprintf("https://%s:%d", service.Name, service.Spec.Ports[i].Port); variables["ADMIN_URL"] != want {
			t.Errorf("the hook asks %s, the admin API is at %s", variables["ADMIN_URL"], want)
		}
		if len(service.Spec.Ports) != 2 {
			t.Errorf("the Service's ports are %v", service.Spec.Ports)
		}
	}
	if !slices.ContainsFunc(manifest.The[*networkingv1.NetworkPolicy](t, objects).Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool {
		return r.Ports[0].Port.String() == "admin" && labels.SelectorFromSet(r.From[0].PodSelector.MatchLabels).Matches(labels.Set(set.Spec.Template.Labels))
	}) {
		t.Error("the backends are not let in")
	}
}

// A client's key that is put beside the authority may be read by the director's group, and by no others, or the driver refuses it.
func TestManifestsOfTLSToTheDatabase(t *testing.T) {
	t.Parallel()
	spec := manifest.The[*appsv1.Deployment](t, manifest.Render(t, "overlays/database-tls")).Spec.Template.Spec
	i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == "database-tls" })
	if mode := spec.Volumes[i].Secret.DefaultMode; mode == nil || *mode != 0o440 {
		t.Errorf("the mode is %v", mode)
	}
	if group := spec.SecurityContext.FSGroup; group == nil || *group != *spec.SecurityContext.RunAsGroup {
		t.Errorf("the files are of group %v", group)
	}
	if !slices.ContainsFunc(spec.Containers[0].Env, func(e corev1.EnvVar) bool { return e.Name == "DATABASE_SSLMODE" && e.Value == "verify-full" }) {
		t.Error("the certificate is not verified")
	}
}

// Every variable that the manifests set is one of the program's: of serve, or of the verbs that are run beside it.
func TestManifestsSetKnownVariables(t *testing.T) {
	t.Parallel()
	help := runDirector(t, "serve", "--help") + runDirector(t, "status", "--help")
	var names []string
	for _, folder := range []string{"overlays/example", "overlays/sessions", "overlays/evacuate-on-stop", "overlays/lookup-tls"} {
		objects := manifest.Render(t, folder)
		for _, secret := range manifest.All[*corev1.Secret](objects) {
			if secret.Name == "go-dovecot-director" {
				names = slices.AppendSeq(names, maps.Keys(secret.StringData))
			}
		}
		for _, variable := range manifest.The[*appsv1.Deployment](t, objects).Spec.Template.Spec.Containers[0].Env {
			names = append(names, variable.Name)
		}
	}
	for _, name := range names {
		if !strings.Contains(help, "["+name+"]") {
			t.Errorf("%s is no setting of the program:\n%s", name, help)
		}
	}
}
