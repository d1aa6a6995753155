// Package dovecot runs real Dovecot servers for the end-to-end tests: proxies with the configuration and the Lua script
// that this project ships, and backends that tell who they are.
//
// Version 2.3 is the one installed on this machine, 2.4 runs in a chroot that dovecot24.sh makes. Each server is one
// process tree in a PID namespace and a mount namespace of its own: ending its first process ends all of it, and the
// kernel does that when the test process dies in whatever way. Nothing outside of the server's temporary directory is
// written.
//
// All servers of a test listen on loopback addresses of a random network of their own (Net), because Dovecot proxies
// connect to one port on many addresses; runs at the same time do not meet. Everything needs root: ports 24, 110 and 143,
// chroot and namespaces.
package dovecot
