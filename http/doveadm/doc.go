// Package doveadm asks Dovecot who has sessions and ends them, over doveadm's HTTP API. A Client is a director.Sessions.
//
// Dovecot 2.3 and 2.4 are spoken to, in any mixture. They agree on who and kick as far as the client needs them, and differ
// in what a proxy is asked: a proxy's version is found out by its list of commands and remembered.
//
// # What doveadm does not tell
//
// Masks of who and kick are patterns, and what parses as an address or a network is taken for one, numbers too. Names that
// could be either are never sent: kicking them would hit strangers. The same is true of an empty list of masks, by which 2.3
// kicks everybody.
//
// Masks do not look at the case of ASCII letters. Find compares the names in the answer again, but Kick on a 2.3 backend
// ends the sessions of "Ada" with those of "ada". With Dovecot's default auth_username_format they are one user.
//
// 2.3 ends processes, not sessions: with a client_limit above 1 for imap or pop3, everybody in the same process is kicked.
//
// A proxy of 2.4.1 counts sessions as kicked that it does not end: those whose login process serves one connection only, which
// is the default. With restart_request_count = unlimited in service imap-login, pop3-login and so on it ends them. Cut looks
// again, and says so.
//
// # Concurrency
//
// All methods are safe for concurrent use.
package doveadm
