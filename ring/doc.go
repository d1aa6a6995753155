// Package ring proposes backends for users by consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam,
// arXiv 1608.01350), and places the users of lost backends by weighted rendezvous.
//
// # What it promises
//
// The same members give the same table in every replica and after every history of changes. A lookup reads an immutable
// table: it takes no lock, allocates nothing and never waits for a rebuild. When a member joins or leaves, users of the
// others stay where they are, but for the few that the load bound pushes on.
//
// # The format
//
// The table is a format, as a file format is: changing it would propose another backend to most new users, and two
// replicas of different formats would contradict each other. It consists of what github.com/buraksezer/consistent 1.0.0
// makes of the parameters in format.go, xxhash64 of keys and names, and the names of weighted members. Golden checksums
// hold it, and a comparison with that library: Build makes the same table in a tenth of its time and memory.
//
// # When something fails
//
// Members that cannot be told apart or that carry no weight are left out; there is nothing else that can fail. Without
// members the table is empty and proposes nothing.
//
// # Concurrency
//
// Build keeps nothing. A Table is immutable.
package ring
