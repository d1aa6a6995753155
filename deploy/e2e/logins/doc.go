// Package logins measures how many IMAP logins per second a Dovecot proxy gets through, by whom it asks for each user's
// backend: nobody, Dovecot 2.3's own Director, or this project's. From deploy/e2e, as root:
//
//	go test -run '^$' -bench Logins -benchtime 5x -timeout 20m ./logins
//
// Each iteration is a round: all proxies get their turn, one after the other, because a machine's speed changes from
// minute to minute. Ratios are taken within a round, medians over all rounds are shown. To see in half a minute that it
// works:
//
//	go test -run '^$' -bench Logins -benchtime 1x ./logins -users 100 -turn 1s
//
// Clients, proxies, backends, directors and PostgreSQL share one machine and keep it busy, so logins per second tell what
// a login costs all of them. The processor time of proxy and director alone is shown too: it depends less on what else
// the machine does, and tells what each costs on a machine of its own.
package logins
