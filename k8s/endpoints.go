package k8s

//lint:file-ignore SA1019 Endpoints are what the minimal rights allow; they are deprecated and go on working

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	director "github.com/k-web-s/go-dovecot-director"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// FromEndpoints returns the backends that an Endpoints object lists, sorted by name. A pod may stand in several subsets,
// while a rollout changes the number behind a port name: its ports are those of all of them, and it is ready only if it
// is ready in all. Terminating pods are not listed in Endpoints at all.
func FromEndpoints(e *corev1.Endpoints) ([]director.Backend, error) {
	if e.Annotations[corev1.EndpointsOverCapacity] == "truncated" {
		return nil, fmt.Errorf("the Endpoints object %.60q is truncated: Kubernetes lists 1000 pods there at most, and those that are missing must not be taken for lost", e.Name)
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
			return nil, fmt.Errorf("EndpointSlice %.60q holds host names; a backend needs an IP address", slice.Name)
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
		lowerPort(ports, strings.ToLower(name), uint16(port))
	}
}

// lowerPort adds a port. A pod has one number for a name; should two be listed, the smaller one counts in every replica.
func lowerPort(ports map[string]uint16, name string, port uint16) {
	if old, ok := ports[name]; !ok || port < old {
		ports[name] = port
	}
}

// merge collects what is listed in several places into one backend per name.
type merge struct {
	byName map[string]map[string]director.Backend
} // and by instance

// conditionOrder is which condition counts when places differ: the worst.
var conditionOrder = map[director.Condition]int{director.Ready: 0, director.NotReady: 1, director.Terminating: 2, director.Stopping: 3}

// maxName is the longest name of a backend in bytes: Kubernetes has none that is longer, and the admin API takes none.
const maxName = 253

// add adds one mention of a backend. Of two addresses of one instance the IPv4 one counts, then the smaller, so that all
// replicas choose alike.
func (m *merge) add(b director.Backend, ip string) error {
	if len(b.Name) > maxName || !utf8.ValidString(b.Name) || strings.ContainsFunc(b.Name, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return fmt.Errorf("%.60q is not a name of a backend: printable text of at most %d bytes", b.Name, maxName)
	}
	addr, err := netip.ParseAddr(ip)
	if addr = addr.Unmap(); err != nil || addr.IsUnspecified() {
		return fmt.Errorf("backend %s: %.60q is not an address that can be connected to", b.Name, ip)
	}
	b.Addr = addr
	if m.byName == nil {
		m.byName = make(map[string]map[string]director.Backend)
	}
	instances := m.byName[b.Name]
	if instances == nil {
		instances = make(map[string]director.Backend, 1)
		m.byName[b.Name] = instances
	}
	if old, known := instances[b.Instance]; known {
		b = mergeMentions(old, b)
	}
	instances[b.Instance] = b
	return nil
}

func mergeMentions(a, b director.Backend) director.Backend {
	ports := make(map[string]uint16, len(a.Ports)+len(b.Ports))
	for _, from := range []map[string]uint16{a.Ports, b.Ports} {
		for name, port := range from {
			lowerPort(ports, name, port)
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

// backends returns one instance of each name. Of several the one counts that is least on its way out, then the one whose
// identity is last: which was listed first says nothing.
func (m *merge) backends() []director.Backend {
	all := make([]director.Backend, 0, len(m.byName))
	for _, instances := range m.byName {
		all = append(all, slices.MinFunc(slices.Collect(maps.Values(instances)), func(a, b director.Backend) int {
			return cmp.Or(cmp.Compare(conditionOrder[a.Condition], conditionOrder[b.Condition]), strings.Compare(b.Instance, a.Instance))
		}))
	}
	slices.SortFunc(all, func(a, b director.Backend) int { return strings.Compare(a.Name, b.Name) })
	return all
}
