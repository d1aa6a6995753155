package http

// Dovecot's result codes, the same in 2.3 and 2.4. A code outside of its own table aborts a Dovecot worker, so the two
// tables must not be mixed.
const (
	// PASSDB_RESULT_OK and USERDB_RESULT_OK (src/auth/passdb.h, src/auth/userdb.h).
	codeOK = 1
	// PASSDB_RESULT_INTERNAL_FAILURE and USERDB_RESULT_INTERNAL_FAILURE: a temporary failure.
	codeInternalFailure = -1
	// PASSDB_RESULT_USER_UNKNOWN (src/auth/passdb.h).
	codePassdbUserUnknown = -3
	// USERDB_RESULT_USER_UNKNOWN (src/auth/userdb.h).
	codeUserdbUserUnknown = -2
)
