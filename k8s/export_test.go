package k8s

import "time"

// Hurry makes a Watch impatient, before Run. It retries after retry, and believes a denial after denied.
func (w *Watch) Hurry(retry, denied time.Duration) {
	w.pace = pace{denied: denied, retry: retry, retryMax: 10 * retry, settle: 5 * time.Second}
}

// Prove lets a proof come in of Endpoints, wherever the backends are read from.
func (w *Watch) Prove(at time.Time) { w.proofs <- proof{of: w.endpoints, at: at} }

// KeepForAnHour makes a Watch patient with backends that vanish, before Run.
func (w *Watch) KeepForAnHour() { w.pace.settle = time.Hour }
