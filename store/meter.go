package store

import "time"

// Meter is told of statements. It is called from any number of goroutines, and returns at once.
type Meter interface {
	// Called tells that a statement of one of Calls was for so many users, 0 for all, how long it took, repetitions included, and which of
	// Causes it failed for, empty if it did not.
	Called(call string, users int, took time.Duration, cause string)
}

// The calls.
const (
	callGet    = "get"
	callAssign = "assign"
	callTouch  = "touch"
	callCount  = "count"
)

// Calls are what statements are for.
var Calls = []string{callGet, callAssign, callTouch, callCount}

// causes are the words for why statements fail.
var causes = [...]string{
	none:    "",
	broken:  "connection",
	slow:    "timeout",
	refused: "refused",
	retry:   "conflict",
	locked:  "locked",
	faulty:  "faulty",
}

// Causes are why statements fail.
var Causes = causes[none+1:]

// called tells the meter of a statement that has ended.
func (db *DB) called(call string, users int, begun time.Time, k kind) {
	if db.meter != nil {
		db.meter.Called(call, users, time.Since(begun), causes[k])
	}
}
