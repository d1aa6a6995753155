package director

import "net/netip"

// Rooms returns how many more users each alive backend that accepts new users should take: its share of all users by
// weight, less those it has. The counts are as the rows name the backends and may be some seconds old: room-weighted
// placement spreads by deficit, so that stale counts do little harm where "least loaded" would herd. Users of lost
// backends count into the shares. When nobody has room, every backend gets its weight, which makes placement a plain
// weighted rendezvous.
func Rooms(v *View, counts map[string]int) []Room {
	members := v.Members()
	rooms := make([]Room, len(members))
	total, weights := 0, 0
	users := make(map[string]int, len(members))
	for backend, n := range counts {
		total += n
		users[nameOf(v, backend)] += n
	}
	for _, m := range members {
		weights += m.Weight
	}
	free := 0.0
	for i, m := range members {
		share := float64(total) * float64(m.Weight) / float64(weights)
		rooms[i] = Room{Backend: m.Name, Free: max(0, share-float64(users[m.Name]))}
		free += rooms[i].Free
	}
	if free > 0 {
		return rooms
	}
	for i, m := range members {
		rooms[i].Free = float64(m.Weight)
	}
	return rooms
}

// nameOf returns the name of the backend that a row names, by name or by address.
func nameOf(v *View, backend string) string {
	if _, ok := v.byName[backend]; ok {
		return backend
	}
	if addr, err := netip.ParseAddr(backend); err == nil {
		if i, ok := v.byAddr[addr.Unmap()]; ok {
			return v.alive[i].Name
		}
	}
	return backend
}
