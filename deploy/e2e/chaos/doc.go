// Package chaos runs several directors on one PostgreSQL, each with a network link and a feed of backends of its own, while
// clients look users up, backends come and go, operators move users and faults strike; and has the history of it checked.
//
// A Site is all of that. New starts it, Go lets clients and churn begin, Strike lets a Fault happen and says what it cost,
// and Finish ends it and says what was wrong. What users, replicas and changes there are, and when, follows from the seed.
// How the processes meet in time does not, so a seed that failed may have to be run some times.
package chaos
