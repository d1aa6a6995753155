// Package status is the page that shows how a director is: drawn by the server, live with a script and as good without one.
//
// It asks nobody while nobody looks. While somebody does, one goroutine draws what all see, however many there are. Everybody who
// reaches the port may look, so the page names no users: they are for who has a token of the admin API.
package status
