// Package store keeps mappings in PostgreSQL, or in SQLite for trying the program out.
//
// # What it promises
//
// Every Get is answered by a read that began after it was called: there is no cache. Every Assign is a compare-and-set
// that ends with the row that is true, whoever won. Lookups are batched naturally: while a statement is in flight, those
// that come wait together and share the next one, so that a storm costs few statements and a single lookup no delay. Neither
// takes longer than 1.2 s.
//
// The table mailbox_username_backend is used as it is, with a foreign key or without, owned by anybody, with SELECT,
// INSERT and UPDATE on it. Nothing is created but by Migrate.
//
// # States
//
//	down --probe answers--> up --connection lost, server refuses--> down
//	                        up --statement too slow, probe fails--> down
//
// While the store is down, calls fail at once with director.ErrUnavailable, and a probe tries to reach it with growing
// pauses of at most 5 s. It starts down and is probed at once.
//
// # Users who are in the way of others
//
// A user without a mailbox (foreign key), or whose name the database's encoding cannot hold, makes the whole statement
// fail. The batch is halved until the culprit stands alone; it gets director.ErrUserRefused, the others get their
// answer. A user whose row somebody else has locked makes the statement wait; after a tenth of a second it is given up, the user
// is found in the same way, and waited for alone. For a minute the assignments of such users go in statements of their own.
//
// last_ts is written in the background, in statements of a few users with rests between them, and passes over locked rows.
//
// # Export and import
//
// Each reads all rows as they were at one moment. Insert writes rows of users who have none, and never changes one: who moves a user
// has to wait until the old backend serves him no more, which only lookups do. Both work on a store that is not run, on connections
// that lookups do not use.
//
// # Ledger
//
// Operators' orders, moves, tasks and the journal have tables of their own. Where they are, every Get sees whether its user is being moved, as of
// the same read; a move ends at its deadline by itself, by the database's clock. Without them nothing changes for lookups. Each
// replica notes as of when it follows the ledger, and movers wait for those that may serve a user from memory.
//
// # Poolers
//
// Nothing depends on the state of a session but prepared statements, and those are done without as soon as a pooler turns out
// not to keep them.
//
// # What is authoritative
//
// The database's clock, for the age of rows. A statement that timed out may or may not have been carried out; a
// compare-and-set can be repeated.
//
// # Concurrency
//
// DB is safe for concurrent use. Statements lock rows in the order of user names, so that replicas do not deadlock.
package store
