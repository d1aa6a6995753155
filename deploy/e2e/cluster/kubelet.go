package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Annotations by which a test steers a pod, in the StatefulSet's template or patched onto one pod.
const (
	// NotReady set to "true" lets the readiness probe fail.
	NotReady = "e2e/not-ready"
	// Lingers is how long a pod that is being deleted goes on serving.
	Lingers = "e2e/lingers"
)

// Runtime runs what is in the pods. Its methods are called from goroutines of the kubelet's; Stop is called once for each
// Start that has returned.
type Runtime interface {
	Start(pod *corev1.Pod, addr netip.Addr)
	Stop(pod *corev1.Pod)
}

// Hooks is a Runtime whose pods may have preStop hooks: it says how a path in the container is called on this machine.
type Hooks interface {
	Path(pod *corev1.Pod, inContainer string) string
}

// kubelet plays scheduler and kubelet for one namespace: it binds every pod to the node, gives it an address that no pod
// had before, reports it running and ready, and removes it when it is deleted.
type kubelet struct {
	client  kubernetes.Interface
	runtime Runtime
	ctx     context.Context
	log     func(format string, args ...any)

	mu   sync.Mutex
	pods map[types.UID]*podState
	busy sync.WaitGroup
}

type podState struct {
	sync.Mutex // held while something is done to the pod
	addr       netip.Addr
	started    metav1.Time
	up, dying  bool
	latest     *corev1.Pod
}

const node = "node-1"

// RunPods plays the kubelet in a namespace until the test ends, or stop was called.
func (c *Cluster) RunPods(tb testing.TB, namespace string, runtime Runtime) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	k := &kubelet{client: c.Admin, runtime: runtime, ctx: ctx, pods: map[types.UID]*podState{}}
	var logged sync.Mutex
	var lines []string
	k.log = func(format string, args ...any) {
		logged.Lock()
		defer logged.Unlock()
		lines = append(lines, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	}
	factory := informers.NewSharedInformerFactoryWithOptions(c.Admin, 0, informers.WithNamespace(namespace))
	stop = func() {
		cancel()
		factory.Shutdown()
		k.busy.Wait()
	}
	tb.Cleanup(func() {
		stop()
		for _, line := range lines {
			if tb.Failed() {
				tb.Log("kubelet:", line)
			}
		}
	})
	// The endpoints controllers skip pods whose node does not exist.
	_, err := c.Admin.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{corev1.LabelTopologyZone: "zone-1"}}}, metav1.CreateOptions{})
	if err != nil && c.nodeIsMissing(ctx) {
		tb.Fatal(err)
	}
	_, err = factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { k.saw(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { k.saw(o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if t, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = t.Obj
			}
			k.forget(o.(*corev1.Pod))
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	factory.Start(ctx.Done())
	return stop
}

func (c *Cluster) nodeIsMissing(ctx context.Context) bool {
	_, err := c.Admin.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	return err != nil
}

// saw takes the newest state of a pod.
func (k *kubelet) saw(pod *corev1.Pod) {
	k.mu.Lock()
	s := k.pods[pod.UID]
	if s == nil {
		s = &podState{}
		k.pods[pod.UID] = s
	}
	s.latest = pod
	k.mu.Unlock()
	k.busy.Go(func() {
		s.Lock()
		defer s.Unlock()
		k.mu.Lock()
		pod := s.latest
		k.mu.Unlock()
		k.sync(pod, s)
	})
}

// sync brings the pod one step nearer to what is wanted. Each step changes the pod, which brings the next.
func (k *kubelet) sync(pod *corev1.Pod, s *podState) {
	pods := k.client.CoreV1().Pods(pod.Namespace)
	switch {
	case k.ctx.Err() != nil || s.dying:
	case pod.DeletionTimestamp != nil:
		s.dying = true
		if s.up {
			lingers, _ := time.ParseDuration(pod.Annotations[Lingers])
			select {
			case <-time.After(lingers):
			case <-k.ctx.Done():
				return
			}
			k.preStop(pod)
			k.stop(pod, s)
		}
		k.insist("delete", pod, func() error {
			return pods.Delete(k.ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		})
	case pod.Spec.NodeName == "":
		k.insist("bind", pod, func() error {
			return pods.Bind(k.ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}, metav1.CreateOptions{})
		})
	case !s.up:
		s.addr, s.started = nextAddr(), metav1.Now()
		k.log("%s starts at %s", pod.Name, s.addr)
		k.runtime.Start(pod, s.addr)
		s.up = true
		k.report(pod, s)
	case s.up:
		k.report(pod, s)
	}
}

// preStop runs the hooks of the pod's containers, for as long as the pod may take to end.
func (k *kubelet) preStop(pod *corev1.Pod) {
	hooks, ok := k.runtime.(Hooks)
	ctx, cancel := context.WithTimeout(k.ctx, time.Duration(*pod.DeletionGracePeriodSeconds)*time.Second)
	defer cancel()
	for _, c := range pod.Spec.Containers {
		if !ok || c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.Lifecycle.PreStop.Exec == nil {
			continue
		}
		argv := c.Lifecycle.PreStop.Exec.Command
		cmd := exec.CommandContext(ctx, hooks.Path(pod, argv[0]), argv[1:]...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		for _, e := range c.Env {
			value := hooks.Path(pod, e.Value)
			if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil && e.ValueFrom.FieldRef.FieldPath == "metadata.name" {
				value = pod.Name
			}
			cmd.Env = append(cmd.Env, e.Name+"="+value)
		}
		out, err := cmd.CombinedOutput()
		k.log("%s preStop %v: %v\n%s", pod.Name, argv, err, out)
	}
}

// stop ends what is in the pod. s is locked.
func (k *kubelet) stop(pod *corev1.Pod, s *podState) {
	s.up = false
	k.log("%s stops", pod.Name)
	k.runtime.Stop(pod)
}

// forget is for pods that are gone, by force too.
func (k *kubelet) forget(pod *corev1.Pod) {
	k.mu.Lock()
	s := k.pods[pod.UID]
	delete(k.pods, pod.UID)
	k.mu.Unlock()
	if s == nil {
		return
	}
	k.busy.Go(func() {
		s.Lock()
		defer s.Unlock()
		if s.up {
			k.stop(pod, s)
		}
		s.dying = true
	})
}

// report writes the pod's status, if it is not written yet.
func (k *kubelet) report(pod *corev1.Pod, s *podState) {
	ready := corev1.ConditionTrue
	if pod.Annotations[NotReady] == "true" {
		ready = corev1.ConditionFalse
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == ready && pod.Status.PodIP == s.addr.String() {
			return
		}
	}
	condition := func(kind corev1.PodConditionType, status corev1.ConditionStatus) map[string]any {
		return map[string]any{"type": kind, "status": status, "lastTransitionTime": metav1.Now()}
	}
	containers := []corev1.ContainerStatus{}
	for _, c := range pod.Spec.Containers {
		containers = append(containers, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: ready == corev1.ConditionTrue, Started: new(true),
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: s.started}},
		})
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": map[string]any{
		"phase": corev1.PodRunning, "startTime": s.started, "hostIP": "192.0.2.1", "hostIPs": []corev1.HostIP{{IP: "192.0.2.1"}},
		"podIP": s.addr.String(), "podIPs": []corev1.PodIP{{IP: s.addr.String()}}, "containerStatuses": containers,
		"conditions": []map[string]any{
			condition(corev1.PodScheduled, corev1.ConditionTrue), condition(corev1.PodInitialized, corev1.ConditionTrue),
			condition(corev1.ContainersReady, ready), condition(corev1.PodReady, ready),
		},
	}})
	if err != nil {
		panic(err)
	}
	k.insist("status ready="+string(ready), pod, func() error {
		_, err := k.client.CoreV1().Pods(pod.Namespace).Patch(k.ctx, pod.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
		return err
	})
}

// insist repeats a request while the API server is away, as a kubelet does.
func (k *kubelet) insist(what string, pod *corev1.Pod, request func() error) {
	for k.ctx.Err() == nil {
		err := request()
		k.log("%s %s: %v", pod.Name, what, err)
		if err == nil || !transient(err) {
			return
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-k.ctx.Done():
		}
	}
}

var addrs = struct {
	sync.Mutex
	last netip.Addr
}{last: netip.MustParseAddr("192.0.2.10")}

// nextAddr gives the addresses from 192.0.2.11 to 192.0.2.250 in turn, so that a pod that is made anew has another one.
func nextAddr() netip.Addr {
	addrs.Lock()
	defer addrs.Unlock()
	addrs.last = addrs.last.Next()
	if addrs.last == netip.MustParseAddr("192.0.2.251") {
		addrs.last = netip.MustParseAddr("192.0.2.11")
	}
	return addrs.last
}

// transient reports whether a request may be repeated: the server did not answer, or not in earnest.
func transient(err error) bool {
	return !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && !apierrors.IsInvalid(err)
}
