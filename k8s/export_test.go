package k8s

import "time"

// Hurry makes a Watch impatient, before Run.
func (w *Watch) Hurry() {
	w.pace = pace{denied: 100 * time.Millisecond, pause: 100 * time.Millisecond, retry: 10 * time.Millisecond, retryMax: 100 * time.Millisecond, settle: 300 * time.Millisecond}
}
