package k8s

import (
	"slices"
	"strings"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// settling keeps backends that vanish without having been seen terminating: a pod that is deleted is listed as
// terminating first, so that what just vanishes has most likely only been listed anew.
type settling struct {
	shown   map[string]director.Backend
	missing map[string]time.Time // since when backends that are shown are not listed
}

// apply returns what to show when these are listed. With patience, what was ready and is not listed at all is kept for
// that long; without, only what is being kept already is. Until then, if not zero, is when to ask again.
func (s *settling) apply(now time.Time, keep time.Duration, listed []director.Backend, patience bool) (show []director.Backend, then time.Time) {
	show = listed[:len(listed):len(listed)]
	missing := make(map[string]time.Time)
	there := make(map[string]bool, len(listed))
	for _, b := range listed {
		there[b.Name] = true
	}
	for name, b := range s.shown {
		since, kept := s.missing[name]
		switch {
		case there[name] || b.Condition != director.Ready:
			continue
		case !kept && !patience:
			continue
		case !kept:
			since = now
		}
		end := since.Add(keep)
		if !now.Before(end) {
			continue
		}
		missing[name] = since
		show = append(show, b)
		if then.IsZero() || end.Before(then) {
			then = end
		}
	}
	slices.SortFunc(show, func(a, b director.Backend) int { return strings.Compare(a.Name, b.Name) })
	s.missing = missing
	s.shown = make(map[string]director.Backend, len(show))
	for _, b := range show {
		s.shown[b.Name] = b
	}
	return show, then
}
