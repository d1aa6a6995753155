package k8s

//lint:file-ignore SA1019 Endpoints are what the minimal rights allow; they are deprecated and go on working

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// kinds returns the kinds that are read, by their group. The groups' own AddToScheme would register all of theirs.
func kinds() map[schema.GroupVersion][]runtime.Object {
	return map[schema.GroupVersion][]runtime.Object{
		corev1.SchemeGroupVersion:      {&corev1.Endpoints{}, &corev1.EndpointsList{}},
		discoveryv1.SchemeGroupVersion: {&discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{}},
		appsv1.SchemeGroupVersion:      {&appsv1.StatefulSet{}, &appsv1.StatefulSetList{}},
	}
}

// The kinds of objects that are watched.
const (
	resourceSlices    = "endpointslices"
	resourceEndpoints = "endpoints"
	resourceSets      = "statefulsets"
)

// Resources are all that is watched.
var Resources = []string{resourceSlices, resourceEndpoints, resourceSets}

// collection is the objects of one kind in one namespace.
type collection struct {
	client              rest.Interface
	parameters          runtime.ParameterCodec
	namespace, resource string
	newList             func() runtime.Object
}

func (c *Client) endpoints(namespace string) collection {
	return collection{
		c.groups[corev1.SchemeGroupVersion], c.parameters, namespace, resourceEndpoints,
		func() runtime.Object { return &corev1.EndpointsList{} },
	}
}

func (c *Client) endpointSlices(namespace string) collection {
	return collection{
		c.groups[discoveryv1.SchemeGroupVersion], c.parameters, namespace, resourceSlices,
		func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
	}
}

func (c *Client) statefulSets(namespace string) collection {
	return collection{
		c.groups[appsv1.SchemeGroupVersion], c.parameters, namespace, resourceSets,
		func() runtime.Object { return &appsv1.StatefulSetList{} },
	}
}

func (c collection) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	list := c.newList()
	err := c.get(o).Do(ctx).Into(list)
	return list, err
}

func (c collection) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.Watch = true
	return c.get(o).Watch(ctx)
}

func (c collection) get(o metav1.ListOptions) *rest.Request {
	request := c.client.Get().Namespace(c.namespace).Resource(c.resource).VersionedParams(&o, c.parameters)
	if o.TimeoutSeconds != nil {
		request.Timeout(time.Duration(*o.TimeoutSeconds) * time.Second)
	}
	return request
}
