package program

import (
	"sync/atomic"
	"time"
)

// skipped is a pause of this process that it did not ask for, and that may have cost a statement its time.
const skipped = 400 * time.Millisecond

// pulse is the process's own, in Unix nanoseconds: its last beat, and the last one that came late.
var pulse struct{ last, late atomic.Int64 }

func init() {
	pulse.last.Store(time.Now().UnixNano())
	go func() {
		for ; ; time.Sleep(skipped / 20) {
			now := time.Now().UnixNano()
			if now-pulse.last.Swap(now) > int64(skipped) {
				pulse.late.Store(now)
			}
		}
	}()
}

// StoodStill says whether the machine has stood still for a moment since then. What was under way may have run out of its time for no
// other reason, and is worth repeating.
func StoodStill(since time.Time) bool {
	return pulse.late.Load() > since.UnixNano() || time.Now().UnixNano()-pulse.last.Load() > int64(skipped)
}
