package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"time"
)

// browsers is how many watch the status page.
const browsers = 5

// watched is one load on one director in turns: while nobody looks, and while Prometheus scrapes it each second and browsers watch its page.
type watched struct {
	alone, watched rounds
}

// watching is what it costs that somebody looks, and that there are tables for moves.
func (b *bench) watching(r *report) error {
	if err := b.database.seed(fewUsers, usualBackends, "0s"); err != nil {
		return err
	}
	if out, err := exec.Command(b.director, "migrate", "--database-url", b.database.url()).CombinedOutput(); err != nil {
		return fmt.Errorf("migrate: %w\n%s", err, out)
	}
	return b.with(1, usualBackends, func(all []replica) error {
		if err := b.add(r, all, work{movableUsers, 32, known(fewUsers), fmt.Sprintf(peerSelect, fewUsers-1), 8}); err != nil {
			return err
		}
		l := load{connections: 32, script: known(fewUsers), warm: warm, length: b.length}
		addresses, processes := []string{all[0].lookups}, []int{all[0].cmd.Process.Pid}
		for i := range 2 * b.rounds {
			alone := func() { r.watched.alone = append(r.watched.alone, l.run(addresses, processes, nil)) }
			looked := func() {
				stop := watch("http://" + all[0].ops)
				defer stop()
				r.watched.watched = append(r.watched.watched, l.run(addresses, processes, nil))
			}
			turns := []func(){alone, looked}
			turns[i%2]() // who comes second has the warmer machine
			turns[1-i%2]()
		}
		fmt.Fprintf(os.Stderr, "watched: %.0f lookups/s\n", r.watched.watched.median(perSecondOf))
		return nil
	})
}

// watch looks at a director until stop.
func watch(url string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var looking sync.WaitGroup
	read := func(path string) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
		if err != nil {
			return
		}
		if answer, err := http.DefaultClient.Do(request); err == nil {
			_, _ = io.Copy(io.Discard, answer.Body)
			_ = answer.Body.Close()
		}
	}
	for range browsers {
		looking.Go(func() { read("/events") })
	}
	looking.Go(func() {
		for ctx.Err() == nil {
			read("/metrics")
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	return func() {
		cancel()
		looking.Wait()
	}
}
