package director

import (
	"net/netip"
	"strings"
)

// Condition says what a source sees of one backend. It is an observation, not a verdict: whether a backend counts as
// lost, and for how long its users wait, is the Tracker's to decide.
type Condition uint8

// The conditions of a backend.
const (
	// Ready backends serve and take logins.
	Ready Condition = iota
	// NotReady backends are listed but fail their readiness probe.
	NotReady
	// Terminating backends are being deleted and go on serving the sessions that they have, for their termination grace
	// period at most. They take no logins from us.
	Terminating
	// Stopping backends are being deleted and fail their readiness probe already.
	Stopping
	// SwitchedOff backends are not used because an operator said so, whatever the source sees of them.
	SwitchedOff
)

// Backend is one Dovecot backend as a source sees it. It is a value: treat Ports as read-only, copies share it.
type Backend struct {
	// Name is the backend's identity: the pod's name in a StatefulSet. Mappings hold it, the ring hashes it.
	Name string
	// Addr is where the backend serves now. A restarted pod keeps its Name and comes back with another Addr.
	Addr netip.Addr
	// Ports maps a lower-case port name (imap, pop3, lmtp, ...) to its number. Nil when the source names none.
	Ports map[string]uint16
	// Weight is the backend's share of new users relative to the others; 0 takes no new users and keeps those it has.
	// Sources that know no weights set 1.
	Weight int
	// Instance tells incarnations of one Name apart: the pod's UID. Empty when the source has none.
	Instance string
	// Zone is the topology zone, empty when unknown. It is shown, never decided by.
	Zone string
	// Condition is what the source saw last.
	Condition Condition
}

// Port returns the number of the port that serves protocol, a Dovecot service name in any case. Dovecot calls
// ManageSieve "sieve"; a port named managesieve serves it too.
func (b Backend) Port(protocol string) (uint16, bool) {
	protocol = strings.ToLower(protocol)
	if port, ok := b.Ports[protocol]; ok {
		return port, true
	}
	if protocol == "sieve" {
		port, ok := b.Ports["managesieve"]
		return port, ok
	}
	return 0, false
}
