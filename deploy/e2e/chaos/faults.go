package chaos

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/k-web-s/go-dovecot-director/store/pgtest"
)

// diskSize is how many megabytes a fragile site's PostgreSQL has.
const diskSize = 160

// standby is a second PostgreSQL that follows the first by a link, and is waited for by commits.
type standby struct {
	server *pgtest.Server
	link   *Link
}

// follower returns the site's standby. The first time it is made.
func (s *Site) follower(tb testing.TB) *standby {
	tb.Helper()
	if s.standby == nil {
		link := newLink(tb, "standby", s.Database.Addr())
		s.standby = &standby{s.Database.Standby(tb, link.Addr()), link}
		s.Database.Synchronous(tb)
	}
	return s.standby
}

// links are all that lead to PostgreSQL, but for the standby's.
func (s *Site) links() []*Link {
	links := []*Link{s.eye}
	for _, d := range s.Directors {
		links = append(links, d.Link)
	}
	return links
}

func (s *Site) point(tb testing.TB, to string) {
	tb.Helper()
	for _, l := range s.links() {
		l.Point(tb, to)
	}
}

// Faults are what a fragile site with three directors lives through, one after the other. Chance picks the director where one of them
// is hit.
func Faults(seed uint64) []Fault {
	random := rand.New(rand.NewPCG(seed, 2))
	one := func() int { return random.IntN(3) }
	var faults []Fault
	add := func(name string, known int, begin, end func(testing.TB, *Site)) {
		faults = append(faults, Fault{Name: name, Begin: begin, End: end, Known: known})
	}
	postgres(add)
	network(add, one)
	directors(add, one)
	clocks(add, one)
	poolers(add)
	failover(add) // the last: another server is the database then
	return faults
}

type adder = func(name string, known int, begin, end func(testing.TB, *Site))

// nothing is the end of faults that are over by themselves.
func nothing(testing.TB, *Site) {}

func postgres(add adder) {
	add("PostgreSQL killed, all of it (kill -9)", 3, func(_ testing.TB, s *Site) { s.Database.Crash() }, func(tb testing.TB, s *Site) { s.Database.Restart(tb) })
	add("PostgreSQL's session killed (kill -9)", 3, func(tb testing.TB, s *Site) { s.Database.KillSession(tb) }, nothing)
	add("PostgreSQL frozen (SIGSTOP)", 3, func(_ testing.TB, s *Site) { s.Database.Freeze() }, func(_ testing.TB, s *Site) { s.Database.Thaw() })
	add("PostgreSQL read-only", 3, func(tb testing.TB, s *Site) { s.Database.ReadOnly(tb, true) }, func(tb testing.TB, s *Site) { s.Database.ReadOnly(tb, false) })
	var release func()
	add("PostgreSQL out of connections", 3, func(tb testing.TB, s *Site) { release = s.Database.Exhaust(tb) }, func(testing.TB, *Site) { release() })
	var free func()
	add("PostgreSQL's disk full", 3, func(tb testing.TB, s *Site) { free = s.Database.FillDisk(tb) }, func(tb testing.TB, s *Site) {
		free()
		s.Database.Revive(tb)
	})
}

// poolers leave the site behind PgBouncer.
func poolers(add adder) {
	var pooler *pgtest.Pooler
	begin := func(tb testing.TB, s *Site) {
		if pooler == nil {
			pooler = s.Database.Pooler(tb)
		}
		s.point(tb, pooler.Addr())
	}
	add("behind PgBouncer, by transaction", 3, begin, func(tb testing.TB, s *Site) { s.point(tb, s.Database.Addr()) })
	add("PgBouncer killed (kill -9)", 3, func(tb testing.TB, s *Site) {
		begin(tb, s)
		pooler.Kill()
	}, func(tb testing.TB, s *Site) { pooler.Start(tb) })
}

func network(add adder, one func() int) {
	poison := func(stream, toxic string, attributes map[string]any, which func(*Site) []*Link) (begin, end func(testing.TB, *Site)) {
		begin = func(tb testing.TB, s *Site) {
			for _, l := range which(s) {
				l.Poison(tb, toxic, stream, attributes)
			}
		}
		end = func(tb testing.TB, s *Site) {
			for _, l := range which(s) {
				l.Restore(tb)
			}
		}
		return begin, end
	}
	cut := func(which func(*Site) []*Link) (begin, end func(testing.TB, *Site)) {
		begin = func(_ testing.TB, s *Site) {
			for _, l := range which(s) {
				l.Cut()
			}
		}
		end = func(tb testing.TB, s *Site) {
			for _, l := range which(s) {
				l.Restore(tb)
			}
		}
		return begin, end
	}
	database := func(n int) func(*Site) []*Link {
		return func(s *Site) []*Link { return []*Link{s.Directors[n].Link} }
	}
	front := func(n int) func(*Site) []*Link {
		return func(s *Site) []*Link { return []*Link{s.Directors[n].front} }
	}
	silence := map[string]any{"timeout": 0}
	begin, end := poison("downstream", "latency", map[string]any{"latency": 200, "jitter": 100}, (*Site).links)
	add("PostgreSQL slow, 100 to 300 ms", 3, begin, end)
	begin, end = poison("downstream", "bandwidth", map[string]any{"rate": 2}, (*Site).links)
	add("PostgreSQL slow, 2 kB/s", 3, begin, end)
	begin, end = cut((*Site).links)
	add("PostgreSQL cut off from all directors", 3, begin, end)
	begin, end = cut(database(one()))
	add("PostgreSQL cut off from one director", 3, begin, end)
	begin, end = poison("downstream", "timeout", silence, (*Site).links)
	add("PostgreSQL's answers lost", 3, begin, end)
	begin, end = poison("upstream", "timeout", silence, database(one()))
	add("one director's questions to PostgreSQL lost", 3, begin, end)
	begin, end = poison("downstream", "reset_peer", map[string]any{"timeout": 100}, (*Site).links)
	add("connections to PostgreSQL reset", 3, begin, end)
	begin, end = cut(front(one()))
	add("one director cut off from the proxies", 2, begin, end)
	begin, end = poison("downstream", "timeout", silence, front(one()))
	add("one director's answers to the proxies lost", 2, begin, end)
}

func directors(add adder, one func() int) {
	kill := func(which ...int) (begin, end func(testing.TB, *Site)) {
		begin = func(tb testing.TB, s *Site) {
			for _, n := range which {
				s.Directors[n].Kill(tb)
			}
		}
		end = func(tb testing.TB, s *Site) {
			for _, n := range which {
				s.Directors[n].Start(tb)
			}
		}
		return begin, end
	}
	begin, end := kill(one())
	add("a director killed (kill -9)", 2, begin, end)
	begin, end = kill(0, 1, 2)
	add("all directors killed (kill -9)", 0, begin, end)
	paused := one()
	add(Paused, 2, func(tb testing.TB, s *Site) { s.Directors[paused].Pause(tb) }, func(tb testing.TB, s *Site) { s.Directors[paused].Resume(tb) })
}

// Paused is the name of the fault that should last for longer than the others.
const Paused = "a director paused (SIGSTOP) and resumed"

func clocks(add adder, one func() int) {
	set := func(name string, ahead time.Duration, which ...int) {
		to := func(ahead time.Duration) func(testing.TB, *Site) {
			return func(tb testing.TB, s *Site) {
				for _, n := range which {
					s.Directors[n].clock.Set(tb, ahead)
				}
			}
		}
		add(name, 3, to(ahead), to(0))
	}
	set("a director's clock set three hours ahead", 3*time.Hour, one())
	set("a director's clock set three hours back", -3*time.Hour, one())
	set("all directors' clocks set a day ahead", 24*time.Hour, 0, 1, 2)
}

func failover(add adder) {
	add("the synchronous standby cut off", 3, func(tb testing.TB, s *Site) {
		s.point(tb, s.Database.Addr()) // see Limits in the README for what a pooler does to commits that wait
		s.follower(tb).link.Cut()
	}, func(tb testing.TB, s *Site) { s.standby.link.Restore(tb) })
	add("PostgreSQL killed, its standby promoted", 3, func(tb testing.TB, s *Site) {
		s.point(tb, s.Database.Addr())
		s.follower(tb)
		s.Database.Crash()
	}, func(tb testing.TB, s *Site) {
		s.Database = s.standby.server
		s.Database.Promote(tb)
		s.point(tb, s.Database.Addr())
	})
}
