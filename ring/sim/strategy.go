package sim

import (
	"bytes"
	"cmp"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	director "github.com/k-web-s/go-dovecot-director"
	"github.com/k-web-s/go-dovecot-director/ring"
)

// strategy decides which backend a user belongs to.
type strategy interface {
	// observe takes what the API server shows, whenever it changes.
	observe(director.Snapshot)
	// lookup answers one login of a user. A backend of -1 tells him to try again. reason says why he is where he is now.
	lookup(user uint32, random *stream) (backend int, reason director.Reason)
}

// The strategies, by the names under which they are compared.
const (
	Ours       = "go-dovecot-director"
	Modulo     = "modulo"
	RingOnly   = "ring without mapping"
	Rendezvous = "rendezvous"
	RandomByIP = "random, mapping by IP"
	Dovecot23  = "Dovecot 2.3 director"
)

// Strategies are all names, ours last.
func Strategies() []string {
	return []string{Modulo, RingOnly, RandomByIP, Rendezvous, Dovecot23, Ours}
}

// moved is the reason of the peers' moves: they know no other.
const moved director.Reason = "moved"

// newStrategy makes a strategy.
func newStrategy(name string, w *world) strategy {
	switch name {
	case Modulo:
		return &stateless{w: w, choose: func(s *stateless, key string) int {
			return s.alive[xxhash.Sum64String(key)%uint64(len(s.alive))]
		}}
	case RingOnly:
		return &stateless{w: w, choose: func(s *stateless, key string) int {
			name, _ := s.table.Propose(key)
			return w.byName[name]
		}}
	case Rendezvous:
		return &stateless{w: w, choose: func(s *stateless, key string) int {
			name, _ := s.table.Place(key, s.rooms)
			return w.byName[name]
		}}
	case RandomByIP:
		return &randomByIP{w: w, rows: make([]netip.Addr, len(w.users)), random: newStream(w.scenario.seed, 1)}
	case Dovecot23:
		return &vhosts{w: w, hosts: make([]int16, len(w.users)), last: make([]moment, len(w.users))}
	case Ours:
		return newDirectors(w)
	}
	panic(fmt.Sprintf("no strategy %q", name))
}

// stateless strategies know the ready backends and nothing else.
type stateless struct {
	w      *world
	choose func(s *stateless, key string) int
	alive  []int
	table  *ring.Table
	rooms  []director.Room
}

func (s *stateless) observe(snapshot director.Snapshot) {
	s.alive, s.rooms = s.alive[:0], nil
	var members []director.Member
	for _, b := range snapshot.Backends {
		if b.Condition == director.Ready && b.Weight > 0 {
			s.alive = append(s.alive, s.w.byName[b.Name])
			members = append(members, director.Member{Name: b.Name, Weight: b.Weight})
			s.rooms = append(s.rooms, director.Room{Backend: b.Name, Free: float64(b.Weight)})
		}
	}
	s.table = s.w.build(members)
}

func (s *stateless) lookup(user uint32, _ *stream) (int, director.Reason) {
	if len(s.alive) == 0 {
		return -1, director.NoBackend
	}
	return s.choose(s, s.w.users[user].name), moved
}

// randomByIP keeps a mapping of users to the addresses of backends. A user whose address is not ready is given to a backend at
// random, at once: what an earlier implementation of this service did.
type randomByIP struct {
	w      *world
	rows   []netip.Addr
	ready  []netip.Addr
	byAddr map[netip.Addr]int
	random stream
}

func (r *randomByIP) observe(snapshot director.Snapshot) {
	r.ready, r.byAddr = r.ready[:0], map[netip.Addr]int{}
	for _, b := range snapshot.Backends {
		if b.Condition == director.Ready {
			r.ready = append(r.ready, b.Addr)
			r.byAddr[b.Addr] = r.w.byName[b.Name]
		}
	}
}

func (r *randomByIP) lookup(user uint32, _ *stream) (int, director.Reason) {
	if r.w.databaseDown {
		return -1, director.StoreDown
	}
	if i, ok := r.byAddr[r.rows[user]]; ok {
		return i, director.Mapped
	}
	if len(r.ready) == 0 {
		return -1, director.NoBackend
	}
	r.rows[user] = r.ready[r.random.below(len(r.ready))]
	return r.byAddr[r.rows[user]], moved
}

// vhosts is the ring of Dovecot 2.3's Director (src/director/mail-host.c and director-user.c): 100 points of MD5 for each host,
// users by the first 32 bits of the MD5 of their name, and a mapping in memory that is forgotten 15 minutes after the user's last
// connection. A watchdog takes hosts away that are down, and their users are looked up anew at once. Hosts are known by name here, as if
// their addresses never changed.
type vhosts struct {
	w      *world
	points []vhost
	alive  map[int]bool
	hosts  []int16
	last   []moment
}

type vhost struct {
	hash uint32
	host int
}

// userExpire is director_user_expire.
const userExpire = 15 * 60 * second

func hash32(text []byte) uint32 {
	sum := md5.Sum(text)
	return binary.BigEndian.Uint32(sum[:4])
}

func (v *vhosts) observe(snapshot director.Snapshot) {
	v.points, v.alive = nil, map[int]bool{}
	var text bytes.Buffer
	for _, b := range snapshot.Backends {
		if b.Condition != director.Ready {
			continue
		}
		host := v.w.byName[b.Name]
		v.alive[host] = true
		for i := range 100 * b.Weight {
			text.Reset()
			fmt.Fprintf(&text, "%s-%d", b.Name, i)
			v.points = append(v.points, vhost{hash32(text.Bytes()), host})
		}
	}
	slices.SortFunc(v.points, func(a, b vhost) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.host, b.host)) })
}

func (v *vhosts) lookup(user uint32, _ *stream) (int, director.Reason) {
	u := &v.w.users[user]
	known := v.last[user] > 0 && (u.open > 0 || v.w.now-max(v.last[user], moment(u.openedAt)) < userExpire)
	if host := int(v.hosts[user]); known && v.alive[host] {
		v.last[user] = v.w.now + 1
		return host, director.Mapped
	}
	if len(v.points) == 0 {
		return -1, director.NoBackend
	}
	hash := hash32([]byte(strings.ToLower(u.name)))
	i, _ := slices.BinarySearchFunc(v.points, hash, func(p vhost, hash uint32) int { return cmp.Compare(p.hash, hash) })
	host := v.points[i%len(v.points)].host
	v.hosts[user], v.last[user] = int16(host), v.w.now+1
	return host, moved
}
