// Package metrics counts and measures for Prometheus. Other packages tell a Metrics what happens, by small interfaces of their own;
// what is so at a moment is asked for when somebody scrapes, and costs no more than reading memory.
//
// # Labels
//
// Labels are from closed sets, or the names of the backends that are known. There is none that users or proxies choose: the number of
// series grows with the backends and with nothing else. All counters are there from the start, so that the first event is seen as one.
//
// # Cost
//
// Lookups count: their counters are found once, before the first lookup. Each then costs one map's access, a counter and a histogram.
//
// # Concurrency
//
// Metrics is safe for concurrent use.
package metrics
