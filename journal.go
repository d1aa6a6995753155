package director

import "time"

// Subject is what an entry of the journal is about.
type Subject string

// The subjects.
const (
	// AboutUser: the user's backend was changed.
	AboutUser Subject = "user"
	// AboutUndone: a move was given up, the user stays where he was.
	AboutUndone Subject = "undone"
	// AboutBackend: an operator gave a backend, To, another state or weight.
	AboutBackend Subject = "backend"
	// AboutTask: a task was ordered, changed or ended.
	AboutTask Subject = "task"
	// AboutPin: a user was pinned or unpinned.
	AboutPin Subject = "pin"
	// AboutKick: a user's sessions were ended.
	AboutKick Subject = "kick"
	// AboutReplica: a replica was forgotten.
	AboutReplica Subject = "replica"
)

// Entry is one entry of the journal. Entries are only ever added; those that are older than the journal is kept for are removed.
type Entry struct {
	ID      int64     `json:"id"`
	At      time.Time `json:"at"`
	Subject Subject   `json:"subject"`
	// User, From and To are empty where they mean nothing.
	User   string `json:"user,omitempty"`
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
	Reason Reason `json:"reason,omitempty"`
	// Actor is who ordered it, empty for what the director does by itself; Replica which one did it.
	Actor   string `json:"actor,omitempty"`
	Replica string `json:"replica,omitempty"`
	Note    string `json:"note,omitempty"`
}

// Replica is a running director as the others see it.
type Replica struct {
	Name, Version string
	// Generation is of its view; it counts within that replica only. Fingerprint is equal in replicas that see the same.
	Generation  uint64
	Fingerprint string
	// Alive and Lost are how many backends it sees so.
	Alive, Lost int
	// Silent is how long ago it was heard of.
	Silent time.Duration
}
