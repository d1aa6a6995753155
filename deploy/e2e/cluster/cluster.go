package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/k-web-s/go-dovecot-director/deploy/e2e/dovecot"
)

// Part is one process of the control plane.
type Part string

// The parts.
const (
	Etcd              Part = "etcd"
	APIServer         Part = "kube-apiserver"
	ControllerManager Part = "kube-controller-manager"
)

const (
	adminToken = "admin"
	host       = "127.0.0.1"
	port       = 16443 // the network namespace is ours
	// startLimit is how long a part may take to answer on a busy machine.
	startLimit = 2 * time.Minute
)

// Cluster is a running control plane. Its methods are for one goroutine at a time; clients of it are for many.
type Cluster struct {
	// Admin may do everything.
	Admin kubernetes.Interface

	program, dir string
	running      map[Part]*exec.Cmd
}

// Start starts a control plane that ends with the test.
func Start(tb testing.TB) *Cluster {
	tb.Helper()
	if os.Getenv("IN_NETNS") != "1" {
		tb.Fatal(`pods need addresses of their own: run this by go test -exec "$PWD/netns.sh", in deploy/e2e`)
	}
	var stderr bytes.Buffer
	build := exec.Command(dovecot.Dir("controlplane.sh"))
	build.Stderr = &stderr
	program, err := build.Output()
	if err != nil {
		tb.Fatalf("the control plane cannot be built, which needs the network once: run deploy/e2e/controlplane.sh: %v\n%s", err, stderr.String())
	}
	c := &Cluster{program: string(bytes.TrimSpace(program)), dir: tb.TempDir(), running: map[Part]*exec.Cmd{}}
	tb.Cleanup(func() {
		for _, part := range []Part{ControllerManager, APIServer, Etcd} {
			c.Kill(part)
			if log := c.log(part); tb.Failed() {
				tb.Logf("end of the log of %s:\n%s", part, log[max(0, len(log)-4<<10):])
			}
		}
	})
	if err := c.files(); err != nil {
		tb.Fatal(err)
	}
	c.StartPart(tb, Etcd)
	c.StartPart(tb, APIServer)
	c.Ready(tb)
	c.StartPart(tb, ControllerManager)
	return c
}

// files writes the keys and tokens that the parts need.
func (c *Cluster) files() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	var errs []error
	for name, content := range map[string][]byte{
		"account.key": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		"account.pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		"tokens.csv":  []byte(adminToken + `,admin,admin,"system:masters"` + "\n"),
		"kubeconfig":  kubeconfig(fmt.Sprintf("%s:%d", host, port), c.CAFile()),
	} {
		errs = append(errs, os.WriteFile(c.path(name), content, 0o600))
	}
	return errors.Join(errs...)
}

// kubeconfig is how Admin gets to an API server.
func kubeconfig(addr, caFile string) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://%s", certificate-authority: %q}}]
users: [{name: admin, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
`, addr, caFile, adminToken)
}

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

// CAFile is the certificate that the API server made for itself.
func (c *Cluster) CAFile() string { return c.path("certificates/apiserver.crt") }

// Kubectl is a command that runs the kubectl of the same version, as Admin.
func (c *Cluster) Kubectl() string {
	return c.program + " kubectl --kubeconfig=" + c.path("kubeconfig")
}

// Config is how to reach it as Admin.
func (c *Cluster) Config() *rest.Config {
	return &rest.Config{
		Host: fmt.Sprintf("https://%s:%d", host, port), BearerToken: adminToken, QPS: 200, Burst: 400,
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.CAFile()}, WarningHandler: rest.NoWarnings{},
	}
}

// Env is what a pod's processes find in their environment.
func (c *Cluster) Env() []string {
	return []string{"KUBERNETES_SERVICE_HOST=" + host, fmt.Sprintf("KUBERNETES_SERVICE_PORT=%d", port)}
}

func (c *Cluster) flags(part Part) []string {
	etcd, peer := fmt.Sprintf("http://%s:%d", host, port+1), fmt.Sprintf("http://%s:%d", host, port+2)
	switch part {
	case Etcd:
		return []string{
			"--data-dir", c.path("etcd"), "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
			"--unsafe-no-fsync", "--log-level", "warn",
		}
	case APIServer:
		return []string{
			"--etcd-servers", etcd, "--bind-address", host, "--secure-port", fmt.Sprint(port),
			"--advertise-address", "192.0.2.1", "--endpoint-reconciler-type", "none", // there is no default route
			"--cert-dir", c.path("certificates"), "--token-auth-file", c.path("tokens.csv"), "--authorization-mode", "RBAC",
			"--service-cluster-ip-range", "198.51.100.0/24", "--service-account-issuer", "https://kubernetes.default.svc",
			"--service-account-key-file", c.path("account.pub"), "--service-account-signing-key-file", c.path("account.key"),
			"--min-request-timeout", "60", // watches end after one or two minutes, as they do after hours elsewhere
		}
	default:
		return []string{
			"--kubeconfig", c.path("kubeconfig"), "--authentication-kubeconfig", c.path("kubeconfig"),
			"--authorization-kubeconfig", c.path("kubeconfig"), "--leader-elect=false", "--bind-address", host,
			"--secure-port", fmt.Sprint(port + 3), "--service-account-private-key-file", c.path("account.key"),
			"--kube-api-qps", "200", "--kube-api-burst", "400", "--controllers",
			"statefulset-controller,endpoints-controller,endpointslice-controller,serviceaccount-controller,garbage-collector-controller",
		}
	}
}

// StartPart starts a part that does not run.
func (c *Cluster) StartPart(tb testing.TB, part Part) {
	tb.Helper()
	log, err := os.OpenFile(c.path(string(part)+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(c.program, append([]string{string(part)}, c.flags(part)...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	c.running[part] = cmd
}

// Kill ends a part at once.
func (c *Cluster) Kill(part Part) {
	if cmd := c.running[part]; cmd != nil {
		delete(c.running, part)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// Freeze stops a part without ending it, Thaw lets it go on.
func (c *Cluster) Freeze(part Part) { _ = c.running[part].Process.Signal(syscall.SIGSTOP) }

// Thaw lets a part go on that was frozen.
func (c *Cluster) Thaw(part Part) { _ = c.running[part].Process.Signal(syscall.SIGCONT) }

// Ready waits until the API server answers.
func (c *Cluster) Ready(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), startLimit)
	defer cancel()
	err := errors.New("no certificate")
	for ctx.Err() == nil {
		if c.Admin == nil {
			// The API server makes its certificate when it starts.
			if client, e := kubernetes.NewForConfig(c.Config()); e == nil {
				c.Admin = client
			}
		}
		if c.Admin != nil {
			if _, err = c.Admin.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err == nil {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	log := c.log(APIServer)
	tb.Fatalf("the API server is not ready within %s: %v\n%s", startLimit, err, log[max(0, len(log)-4<<10):])
}

func (c *Cluster) log(part Part) []byte {
	log, _ := os.ReadFile(c.path(string(part) + ".log"))
	return log
}
