// Package load proves that the director bears load, age and clients that do not behave: more lookups than can be answered,
// thousands of connections that do nothing, clients that are slow on purpose, and months of use, shortened. PostgreSQL and the
// director's program are real. Dovecot is not needed: what it would send, and worse, is sent by the tests.
//
// Nothing here depends on how fast the machine is. What is compared are figures of one run.
package load
