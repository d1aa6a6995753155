package http

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// checkLimit is how long the parts have to say how they are: less than a probe's time-out.
const checkLimit = 800 * time.Millisecond

// Part is one part of the program that readiness depends on.
type Part struct {
	Name string
	// Check says how the part is. It returns soon after ctx ends.
	Check func(ctx context.Context) PartState
}

// PartState is how a part is.
type PartState struct {
	// Ready parts do not keep lookups away from this replica.
	Ready bool
	// Degraded parts are ready and need somebody to look at them.
	Degraded bool
	// Detail is for people.
	Detail string
}

// Health is the handler of the operations API.
type Health struct {
	parts    []Part
	draining atomic.Bool
	mux      *http.ServeMux
}

// Show serves a handler's answers for a pattern of http.ServeMux, beside the rest. It is called before the first request.
func (h *Health) Show(pattern string, handler http.Handler) { h.mux.Handle(pattern, handler) }

// Unready says of each part that is not ready why, nothing if lookups may come.
func (h *Health) Unready(ctx context.Context) (reasons []string) {
	for _, p := range h.state(ctx).Parts {
		if !p.Ready {
			reasons = append(reasons, p.Name+": "+p.Detail)
		}
	}
	return reasons
}

// NewHealth returns the operations API. It is ready when all parts are.
func NewHealth(parts ...Part) *Health {
	h := &Health{parts: parts, mux: http.NewServeMux()}
	h.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	h.mux.HandleFunc("GET /readyz", h.ready)
	return h
}

// Drain makes the replica unready for good: it is about to stop.
func (h *Health) Drain() { h.draining.Store(true) }

// ServeHTTP answers one request.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff") // people look with browsers
	h.mux.ServeHTTP(w, r)
}

// readiness is the JSON form of /readyz?verbose.
type readiness struct {
	Ready bool        `json:"ready"`
	Parts []partState `json:"parts"`
}

type partState struct {
	Name     string `json:"name"`
	Ready    bool   `json:"ready"`
	Degraded bool   `json:"degraded,omitempty"`
	Detail   string `json:"detail"`
}

func (h *Health) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkLimit)
	defer cancel()
	state := h.state(ctx)
	status := http.StatusOK
	if !state.Ready {
		status = http.StatusServiceUnavailable
	}
	if r.URL.Query().Has("verbose") {
		body, err := json.MarshalIndent(state, "", "  ")
		if err != nil {
			panic(err) // strings and booleans can always be encoded
		}
		write(w, status, append(body, '\n'))
		return
	}
	var text strings.Builder
	for _, p := range state.Parts {
		if !p.Ready || p.Degraded {
			fmt.Fprintf(&text, "%s: %s\n", p.Name, p.Detail)
		}
	}
	if state.Ready {
		text.WriteString("ready\n")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text.String()))
}

// state asks all parts.
func (h *Health) state(ctx context.Context) readiness {
	state := readiness{Ready: true}
	if h.draining.Load() {
		state.Ready = false
		state.Parts = append(state.Parts, partState{Name: "process", Detail: "shutting down"})
	}
	for _, p := range h.parts {
		s := p.Check(ctx)
		state.Ready = state.Ready && s.Ready
		state.Parts = append(state.Parts, partState{Name: p.Name, Ready: s.Ready, Degraded: s.Degraded, Detail: s.Detail})
	}
	return state
}
