// Package director decides which Dovecot backend a mail user belongs to. It holds the words, the rules and the loop that
// applies them; it does no I/O of its own. Other packages bring the parts it needs: ring proposes, store remembers, k8s
// observes, http asks.
//
// # What it promises
//
// A user is served by one backend at a time. The mapping in the store decides, as long as its backend is alive; the
// ring only proposes for users without a mapping. Users move as little as possible: a restart that is shorter than the
// grace moves nobody, new backends move nobody, a backend that is lost for good moves its own users only, and spreads
// them by how much room the others have.
//
// # How a lookup is answered
//
//  1. The name is made canonical and checked. What could not be stored, or would be stored as somebody else, is refused.
//  2. Without a complete view of the backends nothing is answered: "not seen yet" is never taken for "dead".
//  3. The user's row is read. It is read for every lookup; nothing may answer against it.
//  4. Its backend is alive: that is the answer. If evening out is on and the backend is crowded, a user who has no session
//     open anywhere may be moved off it now.
//  5. Its backend is lost: the user waits (Hold) while it may come back, and is placed elsewhere when the wait is over
//     and the source has just proven that the view is current.
//  6. There is no row: the ring proposes. Right after a start new users wait while some backends are still expected, so
//     that they do not all go to the first.
//  7. A choice is written as compare-and-set before it is answered. Whoever loses a race gets the winner's row and
//     starts again at 4.
//  8. The database refuses the user (no such mailbox): the ring's proposal is the answer, nothing is stored; or the user
//     is rejected, if the operator wants that.
//  9. Read-only lookups (userdb) go the same way and write nothing.
//  10. The store is down: users whom this replica remembers are served if their backend was not away meanwhile.
//     Others are told to try again.
//
// Policy.Decide is this as one pure function, Planner.Plan says as another what it takes to even out a site. testdata/policy.golden is its whole table, to be read by people.
//
// # What is authoritative
//
// The row, for who belongs where. The source of snapshots, for who is alive, but only while it can prove that it is
// current: without proof nobody is moved. The store's clock, for the age of rows. This replica's clock, for waits.
//
// # Concurrency
//
// View, Ring, Policy and Template are immutable. Director is safe for concurrent use: lookups read one atomic pointer
// to view and ring and take no lock while the store answers. Tracker is owned by Director.Observe.
package director
