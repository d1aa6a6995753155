// Package k8s observes the backends of one Kubernetes Service, or reads them from a file in the same form.
//
// # What it promises
//
// It delivers raw snapshots: which pods the Service lists, where, with which ports, and in which condition. It decides
// nothing about them: whether a backend is lost, and for how long its users wait, is the domain's. A snapshot is
// complete; before the first list is done there is none.
//
// # Where it reads from
//
// From the Service's EndpointSlices, if the right to list and watch them is given: they show pods that terminate, and
// whether those still serve. Otherwise from its Endpoints, where such pods have just vanished. The two are written
// independently and are never mixed; a snapshot says which of the two it is. Both list and watch have to be allowed. A
// right that is given or taken while the program runs is followed: a server has to deny it for some seconds to be
// believed, since one that starts denies everything for a moment.
//
// From the StatefulSets that the pods' names tell of, if the right is given: how many pods are wanted, and how long one
// may take to end. What is known without the right may be old, and is dropped.
//
// A backend that vanishes from all slices without having been seen terminating is shown for some seconds more: it may be
// on its way from one slice to another.
//
// # When a snapshot is current
//
// An open watch proves nothing: the server behind it may be frozen, or cut off, and a right that is withdrawn does not end
// it. So a snapshot's CurrentAt is moved by one thing only: a list from the API server that was asked for after that
// moment, not from its cache, and shows the same versions of the same objects as the watches do, the StatefulSets'
// included. Confirm asks for such lists; they cost one request a second and kind at most, of a few objects, and are needed
// only while users of lost backends log in. One that fails is asked for again, with pauses that grow to 10 s, until one
// succeeds. A watch that does not show the same three times in a row has missed something, and is begun anew.
//
// The time in which the server could not be asked is counted, and told with each snapshot: users of lost backends do not
// wait in it.
//
// # When something fails
//
// The last snapshot stays, whatever the API server answers: refused, forbidden and unauthorized (an API server that
// starts answers both for a moment), expired versions, silence. The watch is taken up again with growing pauses of at
// most 9 s, denied or not. Each kind of failure is logged once until it works again.
//
// A Service that is deleted is content, not failure: everything vanished.
//
// # Rights
//
// list and watch on endpoints are enough, list and watch on endpointslices are better, and list and watch on statefulsets
// add to both. Endpoints and StatefulSets are always selected by their one name, so that resourceNames can narrow the
// Role; the names of slices are made up, and cannot.
//
// # Concurrency
//
// Snapshots are published from one goroutine at a time. Confirm may be called from anywhere and never blocks.
package k8s
