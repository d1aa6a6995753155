package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// The bar appears when something has taken showAfter, and changes every showEvery.
const (
	showAfter = time.Second
	showEvery = 100 * time.Millisecond
	barWidth  = 40
)

// progress is a bar on a terminal, of several things that go on. It is safe for concurrent use.
type progress struct {
	w     io.Writer // nil: there is no terminal
	mu    sync.Mutex
	done  []float64
	begun time.Time
	shown time.Time
}

func newProgress(w io.Writer, count int) *progress {
	p := &progress{done: make([]float64, count), begun: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.w = w
	}
	return p
}

// set says how much of one thing is done, from 0 to 1.
func (p *progress) set(i int, done float64) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done[i] = done
	now := time.Now()
	if now.Sub(p.begun) < showAfter || now.Sub(p.shown) < showEvery {
		return
	}
	p.shown = now
	fmt.Fprint(p.w, "\r"+drawBar(p.done))
}

// drawBar draws how much of all is done.
func drawBar(done []float64) string {
	sum := 0.0
	for _, d := range done {
		sum += d
	}
	part := sum / float64(len(done))
	full := int(part * barWidth)
	return fmt.Sprintf("[%s%s] %3.0f %%", strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), 100*part)
}

// close takes the bar away.
func (p *progress) close() {
	if !p.shown.IsZero() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
