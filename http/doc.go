// Package http is the director's three HTTP servers: the lookup API for Dovecot's proxies, the operations API for
// Kubernetes and Prometheus, and the admin API for operators, with a client. It wraps net/http completely; where both are needed, import it as directorhttp.
//
// # The lookup API
//
// POST /auth_passdb_lookup and POST /auth_userdb_lookup take {"user":"..."} and answer {"code":N,"attributes":...}. On
// success the attributes are a flat object that always holds an IP address as host; on any other outcome they are a
// string with the reason, the one form that Dovecot 2.3 and 2.4 both accept (2.3 refuses null, 2.4 an object).
//
// Every request is answered within 3 s, because a proxy asks through at most 30 auth workers: reading is limited by
// the connection's deadlines, and a Resolver is trusted to return in time.
//
// A proxy's auth workers keep their connections for ever. The server closes each politely after some minutes or some
// thousand requests, and at shutdown, so that new replicas get their share of the traffic.
//
// With tokens, a request that carries none of them gets HTTP 401 before its body is looked at, in the same form: Dovecot's scripts make a
// temporary failure of it.
//
// # The admin API
//
// /api/v1 shows how everything is and takes orders, in JSON; openapi.json describes it. It is not for everybody: it wants tokens, or
// answers this machine only, and refuses pages in an operator's browser either way. An order that makes no sense is refused before
// anything is done.
//
// # Tokens and certificates
//
// They are read again when their files change; what cannot be used is logged, and what was read before stays in force. Connections
// that are open go on.
//
// # When something fails
//
// A fault is never answered as "wrong password" or "unknown user", but as code -1, with HTTP 503 where another replica
// may do better. A panic in a handler costs its request only.
//
// # Concurrency
//
// All types are safe for concurrent use.
package http
