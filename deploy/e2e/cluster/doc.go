// Package cluster runs a Kubernetes control plane for tests: the real etcd, kube-apiserver and kube-controller-manager,
// each a process that a test can kill, and a kubelet that is played. Pods get addresses of 192.0.2.0/24, since the API
// server takes no loopback ones: run such tests by netns.sh.
package cluster
