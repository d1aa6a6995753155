// Package kubernetes holds the tests on a real control plane: what becomes of users, with sessions open and mail coming
// in, while pods are scaled, restarted and lost. They print a table of who moved.
package kubernetes
