package k8s

import (
	"errors"
	"fmt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// NewClient returns a client for the API server that a kubeconfig file names, or, without one, of the cluster that the
// program runs in. It connects to nothing yet.
func NewClient(kubeconfig, userAgent string) (kubernetes.Interface, error) {
	config, err := clientConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	config.UserAgent = userAgent
	config.QPS, config.Burst = 5, 10 // one watch, and a read now and then
	// The API server warns in every answer that v1 Endpoints are deprecated.
	config.WarningHandler = rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %q: %w", kubeconfig, err)
	}
	return client, nil
}

func clientConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("kubeconfig %q: %w", kubeconfig, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	switch {
	case errors.Is(err, rest.ErrNotInCluster):
		return nil, errors.New("this is not a pod in a cluster, and no kubeconfig is given; set --kubeconfig, or --endpoints-file to do without Kubernetes")
	case err != nil:
		return nil, fmt.Errorf("the pod's service account cannot be used: %w", err)
	}
	config.Timeout = 0 // watches are long; single requests have limits of their own
	return config, nil
}
