// Package sim plays scenarios: a site, its users, and what happens to its backends, in simulated time. It drives the production
// director with the production ring on a store in memory, and has no rules of its own: a test has real directors go through the same,
// on PostgreSQL and over HTTP, and compares every answer.
//
// # What is modelled
//
// Backends are pods of a StatefulSet. A pod that is told to end serves for a while; then its sessions are cut, it starts again with
// another address, and is ready some time later. One that crashes cuts its sessions at once. One that fails its probe goes on serving.
// Pods are scaled one after the other, up from the first that is missing and down from the last.
//
// Directors see what the API server shows, each with a delay of its own, and count users when they want to. Lookups go to one of them
// at random.
//
// Of the users, some are connected all day with one or more programs. Now and then one program connects again, and more rarely all of
// them are away for a moment, the fewer there are the more often. The others log in now and then, at the hours when people are awake,
// some of them much more often than others (Zipf's law), and stay for a while. A program whose session was cut logs in again after a second
// and an exponentially distributed time of 3 s more; one that was refused tries again within 5 to 15 s. These are assumptions, not
// measurements.
//
// # Order
//
// Everything happens in one goroutine, in the order of simulated time, to the millisecond: first what happens to backends and directors,
// in the order in which it was planned, then what clients do, by their numbers. Each client draws from random numbers of its own. So the
// same scenario gives the same result, and all strategies meet the same clients.
package sim
