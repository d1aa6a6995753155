package main

import (
	"io"
	"net/http"
	"strconv"
)

// nullAnswer is what the director says of a user.
const nullAnswer = `{"code":1,"attributes":{"proxy":true,"nopassword":true,"host":"198.18.0.100","port":31143}}`

// null reads the request and answers: the least that a handler can do.
func null(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(nullAnswer)))
	_, _ = io.WriteString(w, nullAnswer)
}

// serveNull serves the null handler until it is killed.
func serveNull(address string) error {
	return http.ListenAndServe(address, http.HandlerFunc(null))
}
