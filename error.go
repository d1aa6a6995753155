package director

// InvalidUserError reports a user name that no lookup can be made for. It is the caller's fault: HTTP 400.
type InvalidUserError struct {
	// Kind is the kind of fault, from a small closed set, for counting and for logging once per kind.
	Kind string
	// Detail says what is wrong in words.
	Detail string
}

func (e *InvalidUserError) Error() string { return "invalid user name: " + e.Detail }
