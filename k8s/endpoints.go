package k8s

//lint:file-ignore SA1019 Endpoints are what the minimal rights allow; they are deprecated and go on working

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	director "github.com/k-web-s/go-dovecot-director"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// FromEndpoints returns the backends that an Endpoints object lists, sorted by name. A pod may stand in several subsets,
// while a rollout changes the number behind a port name: its ports are those of all of them, and it is ready only if it
// is ready in all. Terminating pods are not listed in Endpoints at all.
func FromEndpoints(e *corev1.Endpoints) ([]director.Backend, error) {
	if e.Annotations[corev1.EndpointsOverCapacity] == "truncated" {
		return nil, fmt.Errorf("the Endpoints object %s/%s is truncated: Kubernetes lists 1000 pods there at most, and those that are missing must not be taken for lost", e.Namespace, e.Name)
	}
	var m merge
	for _, subset := range e.Subsets {
		ports := make(map[string]uint16, len(subset.Ports))
		for _, p := range subset.Ports {
			addPort(ports, p.Name, p.Port, p.Protocol)
		}
		for condition, addresses := range map[director.Condition][]corev1.EndpointAddress{
			director.Ready: subset.Addresses, director.NotReady: subset.NotReadyAddresses,
		} {
			for _, a := range addresses {
				name, instance := identity(a.TargetRef, a.Hostname, a.IP)
				if err := m.add(director.Backend{Name: name, Instance: instance, Ports: ports, Condition: condition, Weight: 1}, a.IP); err != nil {
					return nil, err
				}
			}
		}
	}
	return m.backends(), nil
}

// FromSlices returns the backends that the EndpointSlices of one Service list, sorted by name. Absent conditions mean
// what the API's documentation says: ready, serving if ready, not terminating. A Service that publishes addresses which
// are not ready says ready for all of them; serving tells the truth.
func FromSlices(slices []discoveryv1.EndpointSlice) ([]director.Backend, error) {
	var m merge
	for _, slice := range slices {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			return nil, fmt.Errorf("EndpointSlice %s holds host names; a backend needs an IP address", slice.Name)
		}
		ports := make(map[string]uint16, len(slice.Ports))
		for _, p := range slice.Ports {
			addPort(ports, value(p.Name, ""), value(p.Port, 0), value(p.Protocol, corev1.ProtocolTCP))
		}
		for _, e := range slice.Endpoints {
			condition := director.NotReady
			serving := value(e.Conditions.Serving, value(e.Conditions.Ready, true))
			switch terminating := value(e.Conditions.Terminating, false); {
			case terminating && serving:
				condition = director.Terminating
			case terminating:
				condition = director.Stopping
			case serving:
				condition = director.Ready
			}
			if len(e.Addresses) == 0 {
				continue
			}
			// "Consumers should only use the first address", says the API.
			name, instance := identity(e.TargetRef, value(e.Hostname, ""), e.Addresses[0])
			b := director.Backend{Name: name, Instance: instance, Ports: ports, Condition: condition, Weight: 1, Zone: value(e.Zone, "")}
			if err := m.add(b, e.Addresses[0]); err != nil {
				return nil, err
			}
		}
	}
	return m.backends(), nil
}

func value[T any](p *T, absent T) T {
	if p == nil {
		return absent
	}
	return *p
}

// identity names a backend: the pod's name, else the host name, else the address.
func identity(target *corev1.ObjectReference, hostname, ip string) (name, instance string) {
	switch {
	case target != nil && target.Kind == "Pod" && target.Name != "":
		return target.Name, string(target.UID)
	case hostname != "":
		return hostname, ""
	default:
		return ip, ""
	}
}

// addPort adds a TCP port that has a name.
func addPort(ports map[string]uint16, name string, port int32, protocol corev1.Protocol) {
	if name != "" && port > 0 && port <= 65535 && (protocol == corev1.ProtocolTCP || protocol == "") {
		ports[strings.ToLower(name)] = uint16(port)
	}
}

// merge collects what is listed in several places into one backend per name.
type merge struct{ byName map[string]director.Backend }

// conditionOrder is which condition counts when places differ: the worst.
var conditionOrder = map[director.Condition]int{director.Ready: 0, director.NotReady: 1, director.Terminating: 2, director.Stopping: 3}

// add adds one mention of a backend. Of two instances of a name, of which one is on its way out, the other counts. Of
// two addresses of one instance the IPv4 one counts, then the smaller, so that all replicas choose alike.
func (m *merge) add(b director.Backend, ip string) error {
	addr, err := netip.ParseAddr(ip)
	if err != nil || addr.IsUnspecified() {
		return fmt.Errorf("backend %s: %q is not an address that can be connected to", b.Name, ip)
	}
	b.Addr = addr.Unmap()
	if m.byName == nil {
		m.byName = make(map[string]director.Backend)
	}
	old, known := m.byName[b.Name]
	switch {
	case !known:
	case old.Instance != b.Instance:
		if c := cmp.Compare(conditionOrder[old.Condition], conditionOrder[b.Condition]); c < 0 || c == 0 && old.Instance > b.Instance {
			return nil
		}
	default:
		b = mergeMentions(old, b)
	}
	m.byName[b.Name] = b
	return nil
}

func mergeMentions(a, b director.Backend) director.Backend {
	ports := make(map[string]uint16, len(a.Ports)+len(b.Ports))
	for _, from := range []map[string]uint16{a.Ports, b.Ports} {
		for name, port := range from {
			// A pod has one number for a name. Should two be listed, the smaller one counts in every replica.
			if old, ok := ports[name]; !ok || port < old {
				ports[name] = port
			}
		}
	}
	if conditionOrder[b.Condition] > conditionOrder[a.Condition] {
		a.Condition = b.Condition
	}
	if a.Addr.Is4() == b.Addr.Is4() && b.Addr.Less(a.Addr) || b.Addr.Is4() && !a.Addr.Is4() {
		a.Addr = b.Addr
	}
	a.Zone = max(a.Zone, b.Zone)
	a.Ports = ports
	return a
}

func (m *merge) backends() []director.Backend {
	all := make([]director.Backend, 0, len(m.byName))
	for _, b := range m.byName {
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b director.Backend) int { return strings.Compare(a.Name, b.Name) })
	return all
}
