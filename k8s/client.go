package k8s

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"
)

// Client lists and watches at an API server what this package reads there. It is no clientset of client-go: that one
// brings the kinds of all API groups, which cost more memory than everything else here.
type Client struct {
	groups     map[schema.GroupVersion]rest.Interface
	parameters runtime.ParameterCodec
}

// NewClient returns a client for the API server that a kubeconfig file names, or, without one, of the cluster that the
// program runs in. It connects to nothing yet.
func NewClient(kubeconfig, userAgent string) (*Client, error) {
	config, err := clientConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	config.UserAgent = userAgent
	config.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(5, 10) // one watch, and a read now and then
	// The API server warns in every answer that v1 Endpoints are deprecated.
	config.WarningHandler = rest.NoWarnings{}
	client, err := NewClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %q: %w", kubeconfig, err)
	}
	return client, nil
}

// NewClientForConfig returns a client for an API server of which more is to be said than NewClient can.
func NewClientForConfig(config *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	for group, kinds := range kinds() {
		scheme.AddKnownTypes(group, kinds...)
		metav1.AddToGroupVersion(scheme, group)
	}
	config = rest.CopyConfig(config)
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.ContentType = runtime.ContentTypeProtobuf
	connections, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	c := &Client{groups: make(map[schema.GroupVersion]rest.Interface), parameters: runtime.NewParameterCodec(scheme)}
	for group := range kinds() {
		config.GroupVersion, config.APIPath = &group, "/apis"
		if group.Group == corev1.GroupName {
			config.APIPath = "/api"
		}
		if c.groups[group], err = rest.RESTClientForConfigAndClient(config, connections); err != nil {
			return nil, err
		}
	}
	return c, nil
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
