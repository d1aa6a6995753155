package e2e_test

import (
	"flag"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/google/go-cmp/cmp"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/manifest"
)

var update = flag.Bool("update", false, "write the rules for the Prometheus Operator anew")

// Each alert fires at what it is for, and does not a little below.
func TestRules(t *testing.T) {
	t.Parallel()
	for _, arguments := range [][]string{{"check", "rules", "rules.yaml"}, {"test", "rules", "rules_test.yaml", "objectives_test.yaml"}} {
		cmd := exec.Command(installed(t, "promtool"), arguments...)
		cmd.Dir = dovecot.Dir("..", "prometheus")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", cmd, err, out)
		}
	}
}

// file returns what is in a file beside the end-to-end tests.
func file(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(dovecot.Dir(append([]string{".."}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// shippedRules are the rules.
func shippedRules(t *testing.T) (spec monitoringv1.PrometheusRuleSpec) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(file(t, "prometheus", "rules.yaml")), &spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

// The Prometheus Operator gets the same rules, finds the directors, may reach them, and gives their job a name that the rules know.
func TestManifestsForThePrometheusOperator(t *testing.T) {
	t.Parallel()
	text := regexp.MustCompile(`(?m)^.`).ReplaceAllString(file(t, "prometheus", "rules.yaml"), "  $0")
	want := "# Written by TestManifestsForThePrometheusOperator: change ../../../prometheus/rules.yaml and run it with -update.\n" +
		"apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: go-dovecot-director\nspec:\n" + text
	if *update {
		if err := os.WriteFile(dovecot.Dir("..", "kustomize", "components", "prometheus-operator", "prometheusrule.yaml"), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if file(t, "kustomize", "components", "prometheus-operator", "prometheusrule.yaml") != want {
		t.Errorf("prometheusrule.yaml differs from rules.yaml; in deploy/e2e run: go test -run %s -update", t.Name())
	}
	objects := manifest.Render(t, "overlays/prometheus-operator")
	if diff := cmp.Diff(shippedRules(t), manifest.The[*monitoringv1.PrometheusRule](t, objects).Spec); diff != "" {
		t.Errorf("-file +operator:\n%s", diff)
	}
	monitor := manifest.The[*monitoringv1.PodMonitor](t, objects)
	pods := manifest.The[*appsv1.Deployment](t, objects).Spec.Template
	if selected := monitor.Spec.Selector.MatchLabels; len(selected) == 0 || !labels.SelectorFromSet(selected).Matches(labels.Set(pods.Labels)) {
		t.Errorf("the PodMonitor selects %v, the pods have %v", selected, pods.Labels)
	}
	port := *monitor.Spec.PodMetricsEndpoints[0].Port
	listens, lets := false, false
	for _, p := range pods.Spec.Containers[0].Ports {
		listens = listens || p.Name == port
	}
	for _, rule := range manifest.The[*networkingv1.NetworkPolicy](t, objects).Spec.Ingress {
		for _, p := range rule.Ports {
			lets = lets || p.Port.String() == port
		}
	}
	if !listens || !lets {
		t.Errorf("port %s: the pods listen on it: %t, it is let in: %t", port, listens, lets)
	}
	job := monitor.Namespace + "/" + monitor.Name // as the operator calls it
	matchers := regexp.MustCompile(`job=~"(.*?)"`).FindAllStringSubmatch(text, -1)
	for _, m := range matchers {
		if !regexp.MustCompile("^(" + m[1] + ")$").MatchString(job) {
			t.Errorf("%s does not match %s", m[1], job)
		}
	}
	if len(matchers) == 0 {
		t.Error("no rule names a job")
	}
}

// Each alert says how bad it is, what it means, and under which heading of the runbook it stands; and each such heading has its alert.
func TestAlertsAreInTheRunbook(t *testing.T) {
	t.Parallel()
	const page = "https://github.com/k-web-s/go-dovecot-director/blob/main/deploy/runbook.md#"
	headings := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^### (\w+)$\n\n\S`).FindAllStringSubmatch(file(t, "runbook.md"), -1) {
		headings[m[1]] = false
	}
	readme := file(t, "..", "README.md")
	for _, group := range shippedRules(t).Groups {
		for _, rule := range group.Rules {
			if rule.Alert == "" {
				continue
			}
			if _, there := headings[rule.Alert]; !there || rule.Annotations["runbook_url"] != page+strings.ToLower(rule.Alert) {
				t.Errorf("%s has no paragraph in the runbook, or is not told where: %s", rule.Alert, rule.Annotations["runbook_url"])
			}
			headings[rule.Alert] = true
			if !slices.Contains([]string{"page", "ticket"}, rule.Labels["severity"]) || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%s: %v %v", rule.Alert, rule.Labels, rule.Annotations)
			}
			if !regexp.MustCompile("(?m)^\\| `" + rule.Alert + "` \\| [a-z; ]*\\b" + rule.Labels["severity"] + "\\b").MatchString(readme) {
				t.Errorf("the README does not list %s as %s", rule.Alert, rule.Labels["severity"])
			}
		}
	}
	for heading, used := range headings {
		if !used {
			t.Errorf("%s is in the runbook, and is no alert", heading)
		}
	}
}

var (
	notNames = regexp.MustCompile(`"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)`)
	names    = regexp.MustCompile(`\b[a-zA-Z_:][a-zA-Z0-9_:]*(\s*\()?`)
	words    = []string{"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}
)

// metricsOf returns the metrics that an expression names: what is no function, no operator, and not in a matcher or a list of labels.
// The parser of Prometheus, which would say so, would bring hundreds of modules; that an expression can be parsed a real Prometheus says.
func metricsOf(expression string) (found []string) {
	for _, m := range names.FindAllStringSubmatch(notNames.ReplaceAllString(expression, " "), -1) {
		if m[1] == "" && !slices.Contains(words, m[0]) {
			found = append(found, m[0])
		}
	}
	return found
}

func TestMetricsOf(t *testing.T) {
	t.Parallel()
	for expression, want := range map[string][]string{
		`sum by (job, x) (rate(a_total{b="c", d=~"e(f"}[5m])) / sum(rate(g_count[1h] offset 1d)) > 14.4 * 0.001`: {"a_total", "g_count"},
		`absent(up) or ns:a:ratio5m unless on (k) h{i!="j"}`:                                                     {"up", "ns:a:ratio5m", "h"},
		`max without (instance) (time() - k) * 2`:                                                                {"k"},
	} {
		if diff := cmp.Diff(want, metricsOf(expression)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", expression, diff)
		}
	}
}
