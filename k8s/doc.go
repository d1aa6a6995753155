// Package k8s observes the backends of one Kubernetes Service, or reads them from a file in the same form.
//
// # What it promises
//
// It delivers raw snapshots: which pods the Service lists, where, with which ports, and in which condition. It decides
// nothing about them: whether a backend is lost, and for how long its users wait, is the domain's. A snapshot is
// complete; before the first list is done there is none.
//
// # When a snapshot is current
//
// An open watch proves nothing: the server behind it may be frozen, or cut off. So a snapshot's CurrentAt is moved by one
// thing only: a read from the API server that was asked for after that moment, not from its cache, and shows the same
// version of the object as the watch does. Confirm asks for such a read; it costs one request a second at most, and is
// needed only while users of lost backends log in.
//
// # When something fails
//
// The last snapshot stays, whatever the API server answers: refused, forbidden and unauthorized (an API server that
// starts answers both for a moment), expired versions, silence. The watch is taken up again with growing pauses of at
// most 10 s. Each kind of failure is logged once until it works again.
//
// An object that is deleted is content, not failure: everything vanished.
//
// # Rights
//
// get, list and watch on endpoints in one namespace, with resourceNames if wanted: requests always select the one
// object by its name.
//
// # Concurrency
//
// Snapshots are published from one goroutine at a time. Confirm may be called from anywhere and never blocks.
package k8s
