package store

import "time"

// patient are limits for tests that are not about them: the machine may stand still for some seconds.
var patient = limits{
	statement: 30 * time.Second,
	call:      40 * time.Second,
	silence:   45 * time.Second,
	connect:   10 * time.Second,
	flush:     40 * time.Second,
}

// Patient lets a store wait for a slow machine, unless it has limits already.
func (c Config) Patient() Config {
	if c.limits == (limits{}) {
		c.limits = patient
	}
	return c
}

// Usual is for tests of the limits of everybody.
func (c Config) Usual() Config {
	c.limits = usual
	return c
}

// Within is for tests that wait for the end of a statement, and for nothing else.
func (c Config) Within(statement, call time.Duration) Config {
	c.limits = patient
	c.limits.statement, c.limits.call = statement, call
	return c
}
