package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

// scrapeJob is the name of the directors' job.
const scrapeJob = "dovecot-director"

// prometheus is a real one that scrapes directors. Its methods are for many goroutines.
type prometheus struct{ url string }

// installed returns the path of a program of Debian's package prometheus.
func installed(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: apt-get install prometheus", err)
	}
	return path
}

// startPrometheus starts one at addr that scrapes these addresses each second and evaluates the rules as often, until the test ends.
func startPrometheus(t *testing.T, addr netip.Addr, rules monitoringv1.PrometheusRuleSpec, targets ...netip.Addr) *prometheus {
	t.Helper()
	dir := t.TempDir()
	text, err := yaml.Marshal(rules)
	if err != nil {
		t.Fatal(err)
	}
	var hosts []string
	for _, target := range targets {
		hosts = append(hosts, target.String()+":8081")
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\nrule_files: [rules.yaml]\n"+
		"scrape_configs: [{job_name: %s, static_configs: [{targets: ['%s']}]}]\n", scrapeJob, strings.Join(hosts, "', '"))
	for name, content := range map[string][]byte{"rules.yaml": text, "prometheus.yaml": []byte(config)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the process has its own
	cmd := exec.Command(installed(t, "prometheus"), "--config.file="+filepath.Join(dir, "prometheus.yaml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr.String()+":9090", "--log.level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("Prometheus at %s:\n%s", addr, text)
		}
	})
	p := &prometheus{"http://" + addr.String() + ":9090"}
	for _, target := range targets {
		eventually(t, "the director at "+target.String()+" is scraped", func() error {
			if v := p.values(t, fmt.Sprintf(`up{instance="%s:8081"} == 1`, target)); len(v) != 1 {
				return fmt.Errorf("%v", v)
			}
			return nil
		})
	}
	return p
}

// get asks the API. While Prometheus starts there is no answer.
func (p *prometheus) get(t *testing.T, path string, answer any) error {
	t.Helper()
	response, err := http.Get(p.url + "/api/v1/" + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode == http.StatusBadRequest {
		t.Fatalf("%s: %s", path, body)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, body)
	}
	return json.Unmarshal(body, answer)
}

// sample is one of a query's results.
type sample struct {
	Metric map[string]string
	Value  [2]any // when, and how much as text
}

// values returns what a query leads to. One that Prometheus cannot parse fails the test.
func (p *prometheus) values(t *testing.T, query string) []sample {
	t.Helper()
	var answer struct{ Data struct{ Result []sample } }
	if err := p.get(t, "query?query="+url.QueryEscape(query), &answer); err != nil {
		return nil
	}
	return answer.Data.Result
}

// firing returns the alerts that fire, each as its name and severity.
func (p *prometheus) firing(t *testing.T) map[string]bool {
	t.Helper()
	var answer struct {
		Data struct {
			Alerts []struct {
				Labels map[string]string
				State  string
			}
		}
	}
	if err := p.get(t, "alerts", &answer); err != nil {
		t.Fatal(err)
	}
	firing := map[string]bool{}
	for _, a := range answer.Data.Alerts {
		if a.State == "firing" {
			firing[a.Labels["alertname"]+" "+a.Labels["severity"]] = true
		}
	}
	return firing
}

// wantFiring waits until all of these alerts fire, wantQuiet until none of them does.
func (p *prometheus) wantFiring(t *testing.T, alerts ...string) { t.Helper(); p.want(t, true, alerts) }

func (p *prometheus) wantQuiet(t *testing.T, alerts ...string) { t.Helper(); p.want(t, false, alerts) }

func (p *prometheus) want(t *testing.T, firing bool, alerts []string) {
	t.Helper()
	begun := time.Now()
	for _, alert := range alerts {
		eventuallyWithin(t, 3*patience, fmt.Sprintf("%s, firing: %t", alert, firing), func() error {
			if now := p.firing(t); now[alert] != firing {
				return fmt.Errorf("these fire: %v", now)
			}
			return nil
		})
		t.Logf("%s, firing: %t, after %s", alert, firing, time.Since(begun).Round(time.Second))
	}
}
