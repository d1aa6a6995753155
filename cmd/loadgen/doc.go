// Loadgen measures the director as its proxies see it: it starts PostgreSQL, the director's release binary and a null
// handler, sends lookups as Dovecot's auth workers do, and prints how the director compares with its peers in the same run.
//
//	loadgen bench --director PATH    everything, about ten minutes
//	loadgen null ADDRESS             the null handler alone
//
// # What is compared
//
// The null handler is net/http with an answer of the same length and no work behind it: no service in Go on this HTTP server
// can be faster. pgbench is the database alone, with prepared single-row statements and no HTTP. Rounds of the peers
// take turns, and the figures are medians of ratios within a round, since machines are noisy and absolute times lie.
//
// Everything shares one machine: load, director, PostgreSQL. CPU time per request is that of the server's process alone, which does not
// depend on how busy the others are.
//
// # What the load is like
//
// A closed loop: each connection asks, waits for the answer and asks again, on a connection that it keeps, as Dovecot's auth
// workers do. The client is net/http's; what it takes of the machine is printed, as it is missing for the others. Dovecot's own
// takes several times as much.
package main
