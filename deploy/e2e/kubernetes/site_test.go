package kubernetes_test

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/cluster"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/manifest"
	"github.com/k-web-s/go-dovecot-director/deploy/e2e/program"
	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

const (
	service = "dovecot-backend"
	// patience is how long a test waits for something that is expected to happen.
	patience = 3 * time.Minute
	// lingers is how long a pod that is deleted goes on serving, unless a plan says otherwise.
	lingers = "3s"
	// users is how many a site has.
	users = 200
)

func eventually(tb testing.TB, limit time.Duration, what string, check func() error) {
	tb.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	tb.Fatalf("%s: not within %s: %v", what, limit, err)
}

// world is what all sites share.
type world struct {
	cluster  *cluster.Cluster
	database *pgtest.Server
}

// site is a mail platform in a namespace of its own: a StatefulSet of Dovecot backends, two directors with the shipped
// manifests' ServiceAccount and Role, a Dovecot proxy, PostgreSQL, and traffic.
type site struct {
	t         *testing.T
	world     *world
	namespace string
	database  string
	directors []*program.Director
	rights    *rbacv1.Role
	operation *operation // nil if operators' orders are not kept
	*traffic

	mu       sync.Mutex
	backends map[string]*dovecot.Server
	stopPods func()
}

// plan says how a site differs from others.
type plan struct {
	overlay  string // of the shipped manifests
	replicas int
	lingers  string
	settings []string // of the directors
	operated bool     // operators' orders are kept, and sessions can be ended
	change   func(*site, *appsv1.StatefulSet)
}

var sites atomic.Int64

// newSite starts a site and logs everybody in. close has to be called.
func newSite(t *testing.T, w *world, p plan) *site {
	t.Helper()
	s := &site{t: t, world: w, namespace: fmt.Sprintf("mail-%d", sites.Add(1)), backends: map[string]*dovecot.Server{}}
	defer func() {
		if t.Failed() {
			s.close()
		}
	}()
	ctx, client := t.Context(), w.cluster.Admin
	_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}, metav1.CreateOptions{})
	s.must(err)
	account := s.apply(manifest.Render(t, p.overlay))
	s.stopPods = w.cluster.RunPods(t, s.namespace, s)
	network := dovecot.NewNet(t)
	s.database = w.database.Database(t)
	pgtest.Exec(t, s.database, "CREATE TABLE mailbox_username_backend (username varchar(255) PRIMARY KEY, backend varchar(255) NOT NULL, last_ts timestamptz NOT NULL)")
	if p.operated {
		s.operation = s.operate(network.Addr(101))
		p.settings = append(slices.Clone(p.settings), s.operation.settings...)
	}
	set := statefulSet(p.replicas, cmp.Or(p.lingers, lingers))
	if p.change != nil {
		p.change(s, set)
	}
	_, err = client.AppsV1().StatefulSets(s.namespace).Create(ctx, set, metav1.CreateOptions{FieldValidation: "Strict"})
	s.must(err)

	inPod := s.pod(account)
	env := append(w.cluster.Env(), "NAMESPACE="+s.namespace, "SERVICE="+service)
	for i := range 2 {
		settings := append([]string{"--database-url", s.database}, p.settings...)
		if i > 0 && p.operated {
			settings = append(settings, "--admin-listen", network.Addr(byte(101+i)).String()+":8082")
		}
		s.directors = append(s.directors, program.Start(t, network.Addr(byte(101+i)), env, inPod, settings...))
	}
	balancer := balance(t, network.Addr(100), s.directors)
	proxy := dovecot.StartProxy(t, dovecot.V23, network.Addr(1), dovecot.ProxyConfig{DirectorURL: "http://" + balancer})
	s.ready(p.replicas)
	s.traffic = newTraffic(proxy, s.stored)
	s.add("u", users)
	s.calm(t, patience)
	return s
}

// close stops what would start more.
func (s *site) close() {
	if s.traffic != nil {
		s.stop()
	}
	if s.stopPods != nil {
		s.stopPods()
	}
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// apply creates what a director needs of the shipped manifests, and returns its ServiceAccount.
func (s *site) apply(objects []runtime.Object) *corev1.ServiceAccount {
	s.t.Helper()
	ctx, client := s.t.Context(), s.world.cluster.Admin
	create := metav1.CreateOptions{FieldValidation: "Strict"}
	account, role, binding := manifest.The[*corev1.ServiceAccount](s.t, objects), manifest.The[*rbacv1.Role](s.t, objects), manifest.The[*rbacv1.RoleBinding](s.t, objects)
	account.Namespace, role.Namespace, binding.Namespace, binding.Subjects[0].Namespace = s.namespace, s.namespace, s.namespace, s.namespace
	_, err := client.CoreV1().ServiceAccounts(s.namespace).Create(ctx, account, create)
	s.must(err)
	s.rights, err = client.RbacV1().Roles(s.namespace).Create(ctx, role, create)
	s.must(err)
	_, err = client.RbacV1().RoleBindings(s.namespace).Create(ctx, binding, create)
	s.must(err)
	for _, shipped := range manifest.All[*corev1.Service](objects) {
		if shipped.Name == service {
			s.createService(shipped)
		}
	}
	return account
}

func (s *site) createService(shipped *corev1.Service) {
	s.t.Helper()
	shipped = shipped.DeepCopy()
	shipped.ObjectMeta = metav1.ObjectMeta{Name: service, Namespace: s.namespace}
	_, err := s.world.cluster.Admin.CoreV1().Services(s.namespace).Create(s.t.Context(), shipped, metav1.CreateOptions{FieldValidation: "Strict"})
	s.must(err)
}

// pod returns a command that runs another as if in a pod: with the ServiceAccount's token where client-go looks for it.
func (s *site) pod(account *corev1.ServiceAccount) []string {
	s.t.Helper()
	token, err := s.world.cluster.Admin.CoreV1().ServiceAccounts(s.namespace).CreateToken(s.t.Context(), account.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	s.must(err)
	ca, err := os.ReadFile(s.world.cluster.CAFile())
	s.must(err)
	dir := s.t.TempDir()
	for name, content := range map[string][]byte{"token": []byte(token.Status.Token), "ca.crt": ca, "namespace": []byte(s.namespace)} {
		s.must(os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	const mount = `mount -t tmpfs tmpfs /run && mkdir -p /run/secrets/kubernetes.io && cp -r "$0" /run/secrets/kubernetes.io/serviceaccount && exec "$@"`
	return []string{"/usr/bin/unshare", "--mount", "--", "/bin/sh", "-c", mount, dir}
}

func statefulSet(replicas int, lingers string) *appsv1.StatefulSet {
	labels := map[string]string{"app.kubernetes.io/name": service}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: service}}
	set.Spec = appsv1.StatefulSetSpec{
		ServiceName: service, Replicas: new(int32(replicas)), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{cluster.Lingers: lingers}},
			Spec: corev1.PodSpec{
				AutomountServiceAccountToken: new(bool),
				Containers: []corev1.Container{{Name: "dovecot", Image: "docker.io/dovecot/dovecot", Ports: []corev1.ContainerPort{
					{Name: "imap", ContainerPort: 143}, {Name: "pop3", ContainerPort: 110}, {Name: "lmtp", ContainerPort: 24},
				}}},
			},
		},
	}
	return set
}

// Start starts the Dovecot of a pod; what it stored before is there again.
func (s *site) Start(pod *corev1.Pod, addr netip.Addr) {
	s.mu.Lock()
	b := s.backends[pod.Name]
	s.mu.Unlock()
	if b != nil {
		b.Addr = addr
		b.Start(s.t)
		return
	}
	var settings []string
	if s.operation != nil {
		settings = append(settings, s.operation.dovecot)
	}
	b = dovecot.StartBackend(s.t, dovecot.V23, pod.Name, addr, dovecot.DefaultPorts, settings...)
	s.mu.Lock()
	s.backends[pod.Name] = b
	s.mu.Unlock()
}

// Stop kills the Dovecot of a pod.
func (s *site) Stop(pod *corev1.Pod) {
	if s.operation != nil {
		s.operation.stopping(s, pod.Name)
	}
	s.backend(pod.Name).Stop()
}

func (s *site) backend(name string) *dovecot.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.backends[name]
}

// stored counts a user's messages by backend.
func (s *site) stored(user string) map[string]int {
	s.mu.Lock()
	all := maps.Clone(s.backends)
	s.mu.Unlock()
	counts := map[string]int{}
	for name, b := range all {
		n, err := b.Delivered(user)
		if err != nil {
			s.fault("%v", err)
		}
		counts[name] = n
	}
	return counts
}

// balance does what a ClusterIP Service does: it passes connections to the directors that take them, in turn.
func balance(t *testing.T, addr netip.Addr, directors []*program.Director) string {
	t.Helper()
	listener, err := net.Listen("tcp", addr.String()+":80")
	if err != nil {
		t.Fatal(err)
	}
	var busy sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		listener.Close()
		busy.Wait()
	})
	busy.Go(func() {
		for turn := 0; ; turn++ {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			busy.Go(func() { forward(ctx, client, directors, turn) })
		}
	})
	return addr.String() + ":80"
}

func forward(ctx context.Context, client net.Conn, directors []*program.Director, turn int) {
	defer client.Close()
	for i := range directors {
		server, err := net.Dial("tcp", directors[(turn+i)%len(directors)].Addr())
		if err != nil {
			continue
		}
		stop := context.AfterFunc(ctx, func() { client.Close(); server.Close() })
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(server, client)
			server.Close()
		}()
		_, _ = io.Copy(client, server)
		client.Close()
		<-done
		stop()
		return
	}
}

// pods returns the pods by name.
func (s *site) pods() map[string]corev1.Pod {
	s.t.Helper()
	list, err := s.world.cluster.Admin.CoreV1().Pods(s.namespace).List(s.t.Context(), metav1.ListOptions{})
	s.must(err)
	pods := map[string]corev1.Pod{}
	for _, p := range list.Items {
		pods[p.Name] = p
	}
	return pods
}

// ready waits until that many pods are ready, no other is there, and all directors see them.
func (s *site) ready(n int) {
	s.t.Helper()
	eventually(s.t, patience, fmt.Sprintf("%d pods are ready", n), func() error {
		pods := s.pods()
		ready := 0
		for _, p := range pods {
			if isReady(p) {
				ready++
			}
		}
		if ready != n || len(pods) != n {
			return fmt.Errorf("%d of %d pods are", ready, len(pods))
		}
		return nil
	})
	s.sees(fmt.Sprintf("%d backends alive", n))
}

func isReady(p corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// sees waits until all directors say so in /readyz?verbose.
func (s *site) sees(text string) {
	s.t.Helper()
	eventually(s.t, patience, "all directors say "+text, func() error {
		for i, d := range s.directors {
			if ready, detail := d.Ready(); !ready || !strings.Contains(detail, text) {
				return fmt.Errorf("director %d says %s", i, detail)
			}
		}
		return nil
	})
}

// scale sets how many pods are wanted.
func (s *site) scale(replicas int) {
	s.t.Helper()
	s.patchSet(map[string]any{"spec": map[string]any{"replicas": replicas}})
}

// restart begins a rolling restart.
func (s *site) restart() {
	s.t.Helper()
	s.patchSet(map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{"kubectl.kubernetes.io/restartedAt": time.Now().Format(time.RFC3339Nano)},
	}}}})
}

func (s *site) patchSet(patch any) {
	s.t.Helper()
	body, err := json.Marshal(patch)
	s.must(err)
	_, err = s.world.cluster.Admin.AppsV1().StatefulSets(s.namespace).Patch(s.t.Context(), service, types.StrategicMergePatchType, body, metav1.PatchOptions{})
	s.must(err)
}

// replaced waits until each of these pods is another one than before, at another address, and all are ready.
func (s *site) replaced(before map[string]corev1.Pod, names ...string) {
	s.t.Helper()
	eventually(s.t, patience, "pods were replaced", func() error {
		now := s.pods()
		for _, name := range names {
			if p := now[name]; p.UID == before[name].UID || !isReady(p) {
				return fmt.Errorf("%s was not", name)
			}
		}
		return nil
	})
	s.ready(len(before))
	now := s.pods()
	for _, name := range names {
		if now[name].Status.PodIP == before[name].Status.PodIP {
			s.t.Errorf("%s has the address that it had", name)
		}
	}
}

// probe sets whether a pod's readiness probe passes.
func (s *site) probe(pod string, passes bool) {
	s.t.Helper()
	value := "null"
	if !passes {
		value = `"true"`
	}
	body := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%s}}}`, cluster.NotReady, value)
	_, err := s.world.cluster.Admin.CoreV1().Pods(s.namespace).Patch(s.t.Context(), pod, types.StrategicMergePatchType, body, metav1.PatchOptions{})
	s.must(err)
}

func (s *site) deletePod(pod string) {
	s.t.Helper()
	s.must(s.client().CoreV1().Pods(s.namespace).Delete(s.t.Context(), pod, metav1.DeleteOptions{}))
}

func (s *site) client() kubernetes.Interface { return s.world.cluster.Admin }

// rows returns the mapping as it stands in the table.
func (s *site) rows() map[string]string {
	s.t.Helper()
	db, err := sql.Open("postgres", s.database)
	s.must(err)
	defer db.Close()
	found, err := db.Query("SELECT username, backend FROM mailbox_username_backend")
	s.must(err)
	defer found.Close()
	rows := map[string]string{}
	for found.Next() {
		var user, backend string
		s.must(found.Scan(&user, &backend))
		rows[user] = backend
	}
	s.must(found.Err())
	return rows
}

// on returns the users whom the rows map to these backends.
func on(rows map[string]string, backends ...string) []string {
	var users []string
	for user, backend := range rows {
		if slices.Contains(backends, backend) {
			users = append(users, user)
		}
	}
	slices.Sort(users)
	return users
}
