// Package mail holds the three clients that the end-to-end tests log in and deliver with: IMAP, POP3 and LMTP. They speak
// just enough of each protocol and keep the server's own words, because how a refusal is worded is what the tests are
// about. A client is used by one goroutine at a time.
package mail
