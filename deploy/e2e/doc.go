// Package e2e proves the whole: real Dovecot proxies of both versions with the configuration that this project ships,
// real backends, a real PostgreSQL and the director's own binary; and that what is in deploy can be deployed.
//
// It is a Go module of its own, so that heavy test tools stay out of the product's requirements. It needs root, Dovecot
// 2.3, PostgreSQL and debootstrap; a test that misses one of them fails and says what to install.
package e2e
