package main

import (
	"fmt"
	"os"
	"time"
)

const (
	// fewUsers and manyUsers are how many users have a row.
	fewUsers  = 100_000
	manyUsers = 1_000_000
	// usualBackends is how many backends there are unless a row says otherwise.
	usualBackends = 10
	// settle is how long a director gets to notice an edited list of backends, to wait for the lost one and to count users.
	settle = 5 * time.Second
	// settled is how long after its start a director writes rows anew that it only reads later.
	settled = 9 * time.Second
)

// report is everything that was measured.
type report struct {
	rows     []compared
	growth   []grown
	replicas []shared
	watched  watched
	idle     int64 // resident memory before the first lookup, in bytes
	loaded   int64 // under the load of known users, with manyUsers in the table
	program  int64 // size of the program in bytes
}

// The rows that goals are about.
const (
	knownUsers    = "known users"
	knownUsers256 = "known users, 256 connections"
	knownUsers2   = "known users, 2 connections"
	knownUsersM   = "known users of 1,000,000"
	touchedUsers  = "known users of 1,000,000, last_ts due"
	newUsers      = "new users"
	newUsers256   = "new users, 256 connections"
	movedUsers    = "users of a lost backend"
	mixedUsers    = "mixed with bursts of LMTP"
	movableUsers  = "known users, with tables for moves"
)

// everything measures all rows.
func (b *bench) everything() (*report, error) {
	r := &report{}
	program, err := os.Stat(b.director)
	if err != nil {
		return r, err
	}
	r.program = program.Size()
	for _, part := range []func(*report) error{b.aDay, b.aLoss, b.aMillion, b.growth, b.sharing, b.watching} {
		if err := part(r); err != nil {
			return r, err
		}
	}
	return r, nil
}

// with starts directors for as long as do runs.
func (b *bench) with(replicas, backends int, do func(all []replica) error) error {
	all, err := b.replicas(replicas, backends)
	defer stopAll(all)
	if err != nil {
		return err
	}
	time.Sleep(settled)
	return do(all)
}

// add compares works and adds them to the rows.
func (b *bench) add(r *report, all []replica, works ...work) error {
	for _, w := range works {
		c, err := b.compare(w, all, b.rounds)
		if err != nil {
			return err
		}
		r.rows = append(r.rows, c)
	}
	return nil
}

// aDay is what happens when nothing does: known users and new ones.
func (b *bench) aDay(r *report) error {
	if err := b.database.seed(fewUsers, usualBackends, "0s"); err != nil {
		return err
	}
	return b.with(1, usualBackends, func(all []replica) error {
		return b.add(r, all,
			work{knownUsers, 32, known(fewUsers), fmt.Sprintf(peerSelect, fewUsers-1), 8},
			work{knownUsers256, 256, known(fewUsers), "", 0},
			work{knownUsers2, 2, known(fewUsers), fmt.Sprintf(peerSelect, fewUsers-1), 2},
			work{newUsers, 32, b.numbers.once("new"), peerInsert, 8},
			work{newUsers256, 256, b.numbers.once("new"), peerInsert, 8},
			work{mixedUsers, 32, b.numbers.mixed(fewUsers), "", 0},
		)
	})
}

// aLoss is the end of a backend with lostUsers users, who all log in.
func (b *bench) aLoss(r *report) error {
	if err := b.database.seedLost(); err != nil {
		return err
	}
	return b.with(1, usualBackends, func(all []replica) error {
		if err := b.listBackends(lostBackend); err != nil {
			return err
		}
		time.Sleep(settle)
		return b.add(r, all, work{movedUsers, 32, b.numbers.once("lost"), fmt.Sprintf(peerUpdate, fewUsers-1), 8})
	})
}

// aMillion is a large site, first on an ordinary day and then in the morning, when last_ts is due for everybody.
func (b *bench) aMillion(r *report) error {
	if err := b.database.seed(manyUsers, usualBackends, "0s"); err != nil {
		return err
	}
	err := b.with(1, usualBackends, func(all []replica) error {
		r.idle = all[0].resident()
		if err := b.add(r, all, work{knownUsersM, 32, known(manyUsers), fmt.Sprintf(peerSelect, manyUsers-1), 8}); err != nil {
			return err
		}
		r.loaded = r.rows[len(r.rows)-1].resident
		return nil
	})
	if err != nil {
		return err
	}
	if err := b.database.seed(manyUsers, usualBackends, "1 day"); err != nil {
		return err
	}
	return b.with(1, usualBackends, func(all []replica) error {
		return b.add(r, all, work{touchedUsers, 32, known(manyUsers), "", 0})
	})
}

// grown is one size of a site.
type grown struct {
	backends int
	users    int64
	compared
}

// growth is how lookups and memory grow with backends and users.
func (b *bench) growth(r *report) error {
	for _, users := range []int64{10_000, fewUsers, manyUsers} {
		for _, backends := range []int{3, 30, 300} {
			if err := b.database.seed(users, backends, "0s"); err != nil {
				return err
			}
			c, err := b.compareReplicas(1, backends, work{fmt.Sprintf("%d backends, %d users", backends, users), 32, known(users), "", 0})
			if err != nil {
				return err
			}
			r.growth = append(r.growth, grown{backends, users, c})
		}
	}
	return nil
}

// shared is one number of replicas on one database.
type shared struct {
	replicas int
	compared
}

// sharing is how several replicas do on one database.
func (b *bench) sharing(r *report) error {
	if err := b.database.seed(fewUsers, usualBackends, "0s"); err != nil {
		return err
	}
	for _, n := range []int{1, 2, 4} {
		c, err := b.compareReplicas(n, usualBackends, work{fmt.Sprintf("%d replicas", n), 64, known(fewUsers), "", 0})
		if err != nil {
			return err
		}
		r.replicas = append(r.replicas, shared{n, c})
	}
	return nil
}

// compareReplicas compares a work on replicas of its own, in fewer rounds.
func (b *bench) compareReplicas(n, backends int, w work) (c compared, err error) {
	err = b.with(n, backends, func(all []replica) error {
		c, err = b.compare(w, all, (b.rounds+1)/2)
		return err
	})
	return c, err
}
