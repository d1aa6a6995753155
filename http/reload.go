package http

import (
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// retryEvery is how often files are read again that could not be used and have not changed since: it may have been for want of descriptors.
const retryEvery = 10 * time.Second

// reloaded is what some files hold, read again when one of them changes. It is safe for concurrent use.
type reloaded[T any] struct {
	paths  []string
	read   func() (T, error)
	every  time.Duration // how often it is looked whether they changed, at most
	log    *slog.Logger
	failed func() // told each time that changed files cannot be used; may be nil

	mu     sync.Mutex
	loaded bool
	value  T
	seen   []os.FileInfo // the files as they were tried last
	broken bool          // what was tried last is not in value
	look   time.Time     // when to look again
	retry  time.Time     // when to read again what is broken
}

// current returns what the files hold, as of at most r.every ago. If that cannot be used, it is what they held before: one of them may have
// been written already, and the other not.
func (r *reloaded[T]) current() (T, error) { return r.get(false) }

// fresh returns what the files hold now, or held before.
func (r *reloaded[T]) fresh() (T, error) { return r.get(true) }

func (r *reloaded[T]) get(fresh bool) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.loaded && !fresh && now.Before(r.look) {
		return r.value, nil
	}
	r.look = now.Add(r.every)
	// They are looked at before they are read: what is written in between is seen the next time.
	files := r.stat()
	changed := !slices.EqualFunc(files, r.seen, sameFile)
	if r.loaded && !changed && (!r.broken || now.Before(r.retry)) {
		return r.value, nil
	}
	value, err := r.read()
	switch {
	case err == nil:
		if r.loaded {
			r.log.Info("changed files were read and are in force", "files", r.paths)
		}
		r.loaded, r.value, r.seen, r.broken = true, value, files, false
		return value, nil
	case !r.loaded:
		return value, err
	}
	if changed || !r.broken { // once for each change
		r.log.Error("changed files cannot be used; what they held before stays in force", "files", r.paths, "error", err)
	}
	if r.failed != nil {
		r.failed()
	}
	r.seen, r.broken, r.retry = files, true, now.Add(retryEvery)
	return r.value, nil
}

// stat returns what can be seen of the files, nil for one that is not there. Links are followed: Kubernetes changes a Secret by a link.
func (r *reloaded[T]) stat() []os.FileInfo {
	files := make([]os.FileInfo, len(r.paths))
	for i, path := range r.paths {
		if info, err := os.Stat(path); err == nil {
			files[i] = info
		}
	}
	return files
}

func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
