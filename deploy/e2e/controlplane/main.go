// Command controlplane is a Kubernetes control plane in one program, for tests: the real etcd, kube-apiserver and
// kube-controller-manager as subcommands, each run as a process of its own, so that a test can kill, stop or restart one.
// kubectl is in it too, for scripts that call it; most of what it is made of is there anyway.
//
//	controlplane etcd|kube-apiserver|kube-controller-manager|kubectl [flags]
//
// It is a module of its own because Kubernetes requires its staging modules at versions that only replace directives
// give; and because nobody else should have to download it.
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	parts := map[string]func() int{
		"etcd":                    func() int { etcdmain.Main(os.Args); return 0 },
		"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
		"kube-controller-manager": func() int { return cli.Run(controllermanager.NewControllerManagerCommand()) },
		"kubectl":                 func() int { util.CheckErr(cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand())); return 0 },
	}
	if len(os.Args) > 1 {
		if part, ok := parts[os.Args[1]]; ok {
			os.Args = os.Args[1:]
			os.Exit(part())
		}
	}
	fmt.Fprintln(os.Stderr, "usage: controlplane etcd|kube-apiserver|kube-controller-manager|kubectl [flags]")
	os.Exit(2)
}
