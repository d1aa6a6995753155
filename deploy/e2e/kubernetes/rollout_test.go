package kubernetes_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/cluster"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/manifest"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// operation is what operators' orders need.
type operation struct {
	settings []string          // of the directors
	dovecot  string            // settings of the backends
	url      string            // of the admin API
	paths    map[string]string // what the shipped StatefulSet calls its files, and what they are called here
	env      []string          // for the director's program

	mu   sync.Mutex
	ends map[string][]int // how many users each pod had at each of its ends
}

// operate makes the tables, the doveadm key, and what the admin API needs to be reached from other machines: a token and a certificate.
func (s *site) operate(addr netip.Addr) *operation {
	s.t.Helper()
	const key, port = "the-doveadm-key", 8085
	dir := s.t.TempDir()
	write := func(name string, content []byte) string {
		s.t.Helper()
		path := filepath.Join(dir, name)
		s.must(os.WriteFile(path, content, 0o600))
		return path
	}
	cert, private := certificate(s.t, addr)
	o := &operation{ends: map[string][]int{}, url: fmt.Sprintf("https://%s:8082", addr)}
	token, ca := write("token", []byte("a-token-of-some-length\n")), write("ca.crt", cert)
	o.settings = []string{
		"--doveadm-key-file", write("key", []byte(key)), "--doveadm-port", fmt.Sprint(port), "--admin-listen", addr.String() + ":8082",
		"--admin-token-file", token, "--admin-tls-cert-file", ca, "--admin-tls-key-file", write("tls.key", private),
	}
	o.dovecot = fmt.Sprintf("doveadm_api_key = %s\nservice doveadm {\n  inet_listener http {\n    port = %d\n  }\n}\nauth_username_chars =", key, port)
	o.env = []string{"ADMIN_URL=" + o.url, "ADMIN_TOKEN_FILE=" + token, "ADMIN_CA_FILE=" + ca}
	o.paths = map[string]string{
		"/opt/go-dovecot-director/go-dovecot-director": program.Path(s.t), "https://go-dovecot-director:8082": o.url,
		"/etc/go-dovecot-director/admin/token": token, "/etc/go-dovecot-director/admin/ca.crt": ca,
	}
	if _, stderr, code := program.Run(s.t, "migrate", "--database-url", s.database); code != 0 {
		s.t.Fatal(stderr)
	}
	return o
}

func certificate(t *testing.T, addr netip.Addr) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{addr.AsSlice()}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
}

// stopping notes how many users a pod has when its Dovecot is about to end.
func (o *operation) stopping(s *site, pod string) {
	var n int
	db, err := sql.Open("postgres", s.database)
	if err == nil {
		err = db.QueryRow("SELECT count(*) FROM mailbox_username_backend WHERE backend = $1", pod).Scan(&n)
		db.Close()
	}
	if err != nil {
		s.fault("%v", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ends[pod] = append(o.ends[pod], n)
}

func (o *operation) endsOf(pod string) []int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.ends[pod])
}

// Path is what a file of a pod, or the director's Service, is called here.
func (s *site) Path(_ *corev1.Pod, inContainer string) string {
	if here, ok := s.operation.paths[inContainer]; ok {
		return here
	}
	return inContainer
}

// status is what the director's program says.
func (s *site) status() *director.StatusReport {
	s.t.Helper()
	var status director.StatusReport
	eventually(s.t, patience, "the director says how it stands", func() error {
		cmd := exec.CommandContext(s.t.Context(), program.Path(s.t), "status", "-o", "json")
		cmd.Env = s.operation.env
		out, err := cmd.Output()
		if err != nil {
			return err
		}
		return json.Unmarshal(out, &status)
	})
	return &status
}

func (s *site) state(backend string) director.State {
	s.t.Helper()
	for _, b := range s.status().Backends {
		if b.Name == backend {
			return b.State
		}
	}
	return ""
}

// reasons counts the users who were moved, by the journal's reason.
func (s *site) reasons() map[string]int {
	s.t.Helper()
	db, err := sql.Open("postgres", s.database)
	s.must(err)
	defer db.Close()
	found, err := db.Query("SELECT reason, count(*) FROM director_journal WHERE subject = 'user' AND from_backend <> '' AND to_backend <> '' GROUP BY reason")
	s.must(err)
	defer found.Close()
	counts := map[string]int{}
	for found.Next() {
		var reason string
		var n int
		s.must(found.Scan(&reason, &n))
		counts[reason] = n
	}
	s.must(found.Err())
	return counts
}

// script is rollout.sh, as an operator runs it. It and what it has started can be killed.
func (s *site) script(ctx context.Context, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{dovecot.Dir("..", "rollout.sh")}, arguments...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.t.TempDir(), "NAMESPACE=" + s.namespace, "KUBECTL=" + s.world.cluster.Kubectl(), "DIRECTOR=" + program.Path(s.t)}, s.operation.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// roll runs the script to its end, and returns what it said.
func (s *site) roll(well bool, arguments ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*patience) // a move that could not be ended in its time is begun anew after five minutes
	defer cancel()
	out, err := s.script(ctx, arguments...).CombinedOutput()
	s.t.Logf("rollout.sh %s: %v\n%s", strings.Join(arguments, " "), err, out)
	if (err == nil) != well {
		s.t.Fatal("it should have ended otherwise")
	}
	return string(out)
}

// killed runs the script until something has happened, and kills it.
func (s *site) killed(happened func() bool, arguments ...string) {
	s.t.Helper()
	cmd := s.script(s.t.Context(), arguments...)
	s.must(cmd.Start())
	eventually(s.t, patience, "the script has come so far", func() error {
		if !happened() {
			return errors.New("not yet")
		}
		return nil
	})
	s.must(cmd.Cancel())
	if err := cmd.Wait(); err == nil {
		s.t.Error("it had ended by itself")
	}
}

// revision returns the StatefulSet's newest revision once its controller has seen it, and where the gate stands.
func (s *site) revision() (revision string, partition int32) {
	s.t.Helper()
	var set *appsv1.StatefulSet
	eventually(s.t, patience, "the controller has seen the StatefulSet", func() (err error) {
		set, err = s.client().AppsV1().StatefulSets(s.namespace).Get(s.t.Context(), service, metav1.GetOptions{})
		if err == nil && set.Status.ObservedGeneration != set.Generation {
			err = errors.New("not yet")
		}
		return err
	})
	return set.Status.UpdateRevision, *set.Spec.UpdateStrategy.RollingUpdate.Partition
}

// upgraded says whether a pod is of a revision, and ready.
func (s *site) upgraded(pod, revision string) bool {
	s.t.Helper()
	p := s.pods()[pod]
	return isReady(p) && p.Labels[appsv1.ControllerRevisionHashLabelKey] == revision
}

// wellDone holds that all went as it should: all pods are of the newest revision and take users, the gate is open, nobody was turned away or
// on two backends.
func (s *site) wellDone(replicas int) {
	s.t.Helper()
	revision, partition := s.revision()
	if partition != 0 {
		s.t.Errorf("the gate stands at %d", partition)
	}
	for n := range replicas {
		if !s.upgraded(pod(n), revision) {
			s.t.Errorf("%s is not of the new revision", pod(n))
		}
		if state := s.state(pod(n)); state != director.Active {
			s.t.Errorf("%s is %s", pod(n), state)
		}
		if ends := s.operation.endsOf(pod(n)); len(ends) != 1 {
			s.t.Errorf("%s has ended %d times", pod(n), len(ends))
		}
	}
	s.unharmed()
}

func (s *site) unharmed() {
	s.t.Helper()
	s.calm(s.t, patience)
	s.stop()
	for _, fault := range s.wrong() {
		s.t.Error(fault)
	}
	if n := s.seenOnTwo(); n > 0 {
		s.t.Errorf("users were seen on two backends %d times", n)
	}
	if tasks := s.status().Tasks; len(tasks) > 0 {
		s.t.Errorf("%+v", tasks)
	}
}

// TestPlannedStops stops pods on purpose, with what is shipped for that.
func TestPlannedStops(t *testing.T) {
	w := &world{cluster: cluster.Start(t), database: pgtest.Start(t)}
	t.Run("side by side", func(t *testing.T) {
		for name, scenario := range map[string]struct {
			replicas int
			run      func(*site)
			change   func(*site, *appsv1.StatefulSet)
		}{
			"rollout":                         {replicas: 3, run: rollout},
			"rollout with emptied pods":       {replicas: 2, run: rolloutOfEmptiedPods},
			"preStop moves users or does not": {replicas: 3, run: preStop, change: withHook},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, w, plan{overlay: all, replicas: scenario.replicas, lingers: "500ms", operated: true, change: scenario.change})
				defer s.close()
				scenario.run(s)
			})
		}
	})
}

// rollout upgrades three pods behind the gate. Nobody is moved. The script is killed in the middle, and goes on.
func rollout(s *site) {
	if said := s.roll(false, "run", service, "--rate", "5"); !strings.Contains(said, "--rate goes with --evacuate") {
		s.t.Error(said)
	}
	s.roll(true, "close", service)
	if said := s.roll(false, "run", service); !strings.Contains(said, "nothing to upgrade") {
		s.t.Error(said)
	}
	before, pods := s.rows(), s.pods()
	s.restart()
	revision, partition := s.revision()
	if partition != 3 {
		s.t.Fatalf("the gate stands at %d", partition)
	}

	// A check that fails leaves the gate where it is.
	if said := s.roll(false, "run", service, "--", "false"); !strings.Contains(said, "the check of "+pod(2)+" failed: false "+pod(2)) {
		s.t.Error(said)
	}
	if _, partition := s.revision(); partition != 2 || !s.upgraded(pod(2), revision) || s.pods()[pod(1)].UID != pods[pod(1)].UID {
		s.t.Errorf("the gate stands at %d, pods are %v", partition, s.pods())
	}

	s.killed(func() bool { return len(s.operation.endsOf(pod(1))) > 0 }, "run", service)
	if s.pods()[pod(0)].UID != pods[pod(0)].UID {
		s.t.Error("the gate was not closed")
	}
	list := filepath.Join(s.t.TempDir(), "list")
	s.roll(true, "run", service, "--", "/bin/sh", "-c", `echo "$1" >> `+list, "check")
	checked, err := os.ReadFile(list)
	if want := pod(2) + "\n" + pod(1) + "\n" + pod(0) + "\n"; err != nil || !strings.HasSuffix(want, string(checked)) || len(checked) == 0 {
		s.t.Errorf("checked were %q, %v", checked, err)
	}
	s.wellDone(3)
	if after := s.rows(); len(after) != len(before) || len(s.reasons()) > 0 {
		s.t.Errorf("users were moved: %v", s.reasons())
	}
}

// rolloutOfEmptiedPods has each pod evacuated before it restarts, so that no user waits for one. The script is killed while the first is.
func rolloutOfEmptiedPods(s *site) {
	s.roll(true, "close", service)
	s.restart()
	s.killed(func() bool { return s.state(pod(1)) == director.Drain }, "run", service, "--evacuate", "--rate", "1500")
	s.roll(true, "run", service, "--evacuate", "--rate", "1500")
	s.wellDone(2)
	for n := range 2 {
		if ends := s.operation.endsOf(pod(n)); !slices.Equal(ends, []int{0}) {
			s.t.Errorf("%s had %v users when it ended", pod(n), ends)
		}
	}
	if reasons := s.reasons(); len(reasons) != 1 || reasons[string(director.Evacuated)] < users {
		s.t.Errorf("users were moved so: %v", reasons)
	}
}

// withHook takes from the shipped StatefulSet what moves users off a pod that is scaled away.
func withHook(s *site, set *appsv1.StatefulSet) {
	shipped := manifest.The[*appsv1.StatefulSet](s.t, manifest.Render(s.t, "overlays/evacuate-on-stop")).Spec.Template.Spec
	spec := &set.Spec.Template.Spec
	spec.TerminationGracePeriodSeconds, spec.Volumes = shipped.TerminationGracePeriodSeconds, shipped.Volumes
	c, from := &spec.Containers[0], shipped.Containers[0]
	c.Env, c.Lifecycle, c.VolumeMounts = from.Env, from.Lifecycle, from.VolumeMounts
}

// preStop restarts a pod, whose users stay; scales one away, whose users are moved before it ends; and scales it up again.
func preStop(s *site) {
	before, pods := s.rows(), s.pods()
	s.deletePod(pod(1))
	s.replaced(pods, pod(1))
	if after := s.rows(); len(on(after, pod(1))) != len(on(before, pod(1))) || len(s.reasons()) > 0 {
		s.t.Errorf("users of a pod that restarted were moved: %v", s.reasons())
	}

	leave := on(s.rows(), pod(2))
	s.scale(2)
	s.ready(2)
	if ends := s.operation.endsOf(pod(2)); !slices.Equal(ends, []int{0}) {
		s.t.Errorf("%s had %v users when it ended", pod(2), ends)
	}
	if reasons := s.reasons(); len(reasons) != 1 || reasons[string(director.Evacuated)] != len(leave) {
		s.t.Errorf("%d users were to be moved, and were so: %v", len(leave), reasons)
	}

	s.scale(3)
	s.ready(3)
	s.add("new", 60)
	s.calm(s.t, patience)
	if len(on(s.rows(), pod(2))) == 0 {
		s.t.Errorf("no new user reached %s, which is %s", pod(2), s.state(pod(2)))
	}

	// One that is drained is emptied, though it will be back.
	drain := exec.Command(program.Path(s.t), "drain", pod(0))
	drain.Env = s.operation.env
	s.must(drain.Run())
	eventually(s.t, patience, pod(0)+" is drained", func() error {
		if state := s.state(pod(0)); state != director.Drain {
			return fmt.Errorf("it is %s", state)
		}
		return nil
	})
	pods = s.pods()
	s.deletePod(pod(0))
	s.replaced(pods, pod(0))
	if ends := s.operation.endsOf(pod(0)); !slices.Equal(ends, []int{0}) {
		s.t.Errorf("%s had %v users when it ended", pod(0), ends)
	}
	s.unharmed()
}
