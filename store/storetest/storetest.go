// Package storetest is what every store must do, as one suite of tests.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// Store is a store under test. It has to be patient: what is right does not depend on how fast the machine is that runs the suite.
type Store interface {
	director.Mappings
	director.Counter
}

// Bench is one store with what the tests need to prepare it.
type Bench struct {
	// Open opens another handle on the same rows, as another replica does.
	Open func(t *testing.T) Store
	// Insert writes rows that were touched some time ago.
	Insert func(t *testing.T, backend string, ago time.Duration, users ...string)
	// Mailboxes makes the table refuse all users but these from now on.
	Mailboxes func(t *testing.T, users ...string)
}

// Run runs the suite. Each test gets a bench of its own, with no rows.
func Run(t *testing.T, bench func(t *testing.T) Bench) {
	for name, test := range map[string]func(*testing.T, Bench){
		"an absent user has no mapping":                       absent,
		"an assignment is read back":                          readBack,
		"compare-and-set holds for every state of a row":      compareAndSet,
		"a row that is younger than it was read stays":        younger,
		"the age is the time since the row was written":       age,
		"a touch makes a row young, of that backend only":     touches,
		"users are counted by backend":                        counted,
		"names are kept as they are":                          KeepsNames,
		"sixteen writers agree on every user":                 race,
		"writers that move users away agree":                  moves,
		"refused users do not harm others":                    refusals,
		"a caller that leaves does not harm others":           leaving,
		"rows that another wrote are read by the next lookup": fresh,
	} {
		t.Run(name, func(t *testing.T) { test(t, bench(t)) })
	}
}

func get(t *testing.T, s Store, user string) string {
	t.Helper()
	m, err := s.Get(t.Context(), user)
	if errors.Is(err, director.ErrNoMapping) {
		return ""
	}
	if err != nil {
		t.Errorf("get %q: %v", user, err)
	}
	return m.Backend
}

func assign(t *testing.T, s Store, user, was, becomes string) string {
	t.Helper()
	m, err := s.Assign(t.Context(), director.Assignment{User: user, Was: was, Becomes: becomes})
	if err != nil {
		t.Errorf("assign %q: %v", user, err)
	}
	return m.Backend
}

func absent(t *testing.T, b Bench) {
	if _, err := b.Open(t).Get(t.Context(), "ada"); !errors.Is(err, director.ErrNoMapping) {
		t.Errorf("error %v", err)
	}
}

func readBack(t *testing.T, b Bench) {
	s := b.Open(t)
	if got := assign(t, s, "ada", "", "backend-0"); got != "backend-0" {
		t.Errorf("assigned %q", got)
	}
	if got := get(t, b.Open(t), "ada"); got != "backend-0" {
		t.Errorf("another handle reads %q", got)
	}
}

func compareAndSet(t *testing.T, b Bench) {
	s := b.Open(t)
	for i, tc := range []struct{ row, was, becomes, want string }{
		{"", "", "b", "b"},
		{"", "a", "b", "b"}, // an absent row satisfies any expectation
		{"a", "", "b", "a"},
		{"a", "a", "b", "b"},
		{"a", "c", "b", "a"},
		{"b", "a", "b", "b"}, // repeated after an answer was lost
		{"192.0.2.1", "192.0.2.1", "b", "b"},
	} {
		user := fmt.Sprintf("user-%d", i)
		if tc.row != "" {
			b.Insert(t, tc.row, time.Hour, user)
		}
		if got := assign(t, s, user, tc.was, tc.becomes); got != tc.want {
			t.Errorf("row %q, was %q, becomes %q: got %q, want %q", tc.row, tc.was, tc.becomes, got, tc.want)
		}
		m, err := s.Get(t.Context(), user)
		if err != nil || m.Backend != tc.want {
			t.Errorf("row %q, was %q, becomes %q: reads %q, %v", tc.row, tc.was, tc.becomes, m.Backend, err)
		}
		if lost := tc.want == tc.row; lost && tc.row != "" && m.Age < 50*time.Minute {
			t.Errorf("row %q, was %q, becomes %q: a write that lost made the row young: %s", tc.row, tc.was, tc.becomes, m.Age)
		}
	}
}

func younger(t *testing.T, b Bench) {
	s := b.Open(t)
	const hour = time.Hour
	for i, tc := range []struct {
		is, read time.Duration
		becomes  string
		fits     bool
	}{
		{hour, 0, "b", true},
		{hour, hour, "b", true},
		{hour, hour - time.Second, "b", true},
		{hour, hour + time.Minute, "b", false},
		{time.Minute, hour, "b", false},
		{hour, hour, "a", true}, // renewed
		{time.Minute, hour, "a", false},
		{-30 * time.Second, 0, "b", true},         // clocks differ
		{-30 * time.Second, hour, "b", false},     // too, and it was written since
		{80_000 * hour, 80_000 * hour, "b", true}, // from before the product
	} {
		user := fmt.Sprintf("user-%d", i)
		b.Insert(t, "a", tc.is, user)
		m, err := s.Assign(t.Context(), director.Assignment{User: user, Was: "a", Age: tc.read, Becomes: tc.becomes})
		want := "a"
		if tc.fits {
			want = tc.becomes
		}
		if written := m.Age < 30*time.Second && m.Age >= 0; err != nil || m.Backend != want || tc.is > 0 && written != tc.fits {
			t.Errorf("%s old, read as %s: got %q, %s old, %v; want %q", tc.is, tc.read, m.Backend, m.Age, err, want)
		}
		read, err := s.Get(t.Context(), user)
		if err != nil || read.Backend != want {
			t.Errorf("%s old, read as %s: reads %q, %v", tc.is, tc.read, read.Backend, err)
		}
	}
	// What is read fits, whatever the age has gone through.
	for _, ago := range []time.Duration{1234567 * time.Microsecond, 12345678901 * time.Microsecond, 1234567890123 * time.Microsecond} {
		user := ago.String()
		b.Insert(t, "a", ago, user)
		m, err := s.Get(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		if m, err = s.Assign(t.Context(), director.Assignment{User: user, Was: m.Backend, Age: m.Age, Becomes: "b"}); err != nil || m.Backend != "b" {
			t.Errorf("a row that is %s old: %q, %v", ago, m.Backend, err)
		}
	}
}

// TakesRowsFromTheFuture holds that rows which a clock was wrong for do not keep their users where they are.
func TakesRowsFromTheFuture(t *testing.T, b Bench) {
	s := b.Open(t)
	b.Insert(t, "a", -2*time.Hour, "ada")
	m, err := s.Get(t.Context(), "ada")
	if err != nil || m.Age < time.Hour {
		t.Fatalf("read %+v, %v", m, err)
	}
	if m, err = s.Assign(t.Context(), director.Assignment{User: "ada", Was: "a", Age: m.Age, Becomes: "b"}); err != nil || m.Backend != "b" || m.Age > time.Minute {
		t.Errorf("assigned %+v, %v", m, err)
	}
}

func age(t *testing.T, b Bench) {
	s := b.Open(t)
	b.Insert(t, "backend-0", time.Hour, "old")
	b.Insert(t, "backend-0", -30*time.Second, "ahead") // clocks differ
	assign(t, s, "new", "", "backend-0")
	for user, want := range map[string][2]time.Duration{"old": {time.Hour, time.Hour + time.Minute}, "ahead": {0, 0}, "new": {0, time.Minute}} {
		m, err := s.Get(t.Context(), user)
		if err != nil || m.Age < want[0] || m.Age > want[1] {
			t.Errorf("%s: age %s, %v; want one of %v", user, m.Age, err, want)
		}
	}
}

func touches(t *testing.T, b Bench) {
	s := b.Open(t)
	b.Insert(t, "backend-0", time.Hour, "ada")
	b.Insert(t, "backend-1", time.Hour, "moved")
	s.Touch("ada", "backend-0")
	s.Touch("moved", "backend-0")
	s.Touch("nobody", "backend-0")
	for deadline := time.Now().Add(time.Minute); ; {
		m, err := s.Get(t.Context(), "ada")
		if err != nil {
			t.Fatal(err)
		}
		if m.Age < 50*time.Minute {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the touch is not written")
		}
	}
	if m, _ := s.Get(t.Context(), "moved"); m.Age < 50*time.Minute {
		t.Error("a row of another backend was touched")
	}
	if got := get(t, s, "nobody"); got != "" {
		t.Errorf("a touch made a row: %q", got)
	}
}

func counted(t *testing.T, b Bench) {
	s := b.Open(t)
	for i := range 30 {
		assign(t, s, fmt.Sprintf("user-%d", i), "", fmt.Sprintf("backend-%d", i%3/2))
	}
	counts, err := s.Counts(t.Context())
	if err != nil || len(counts) != 2 || counts["backend-0"] != 20 || counts["backend-1"] != 10 {
		t.Errorf("%v, %v", counts, err)
	}
}

// Names are users, each another one: some look alike, some are alike to a collation, and some are written so as to do harm.
var Names = []string{
	"ada@example.org", "ADA@example.org", `o'hara"; DROP TABLE x; --`, `back\slash`, "%_%", "{a,b}", "NULL", `""`, " ", " ada ", "ada", "ada ", "ada\u00a0", "ad\u200ba", "ad\u00ada", "\ufeffada", "\u202eada",
	"Äda@пример.рф", "👩‍💻", "a\tb\nc", "a\r\nb", "\x01", "\x7f", "\u0085", "\u2028", `\x41`, `E'\x41'`, "$1", "?", ":name",
	"zo\u00eb", "zoe\u0308", "zoe", "straße", "strasse", "\u03c3", "\u03c2", "\u03a3", "\u0130", "i\u0307", "I", "i", "\u0131", "\u212a", "K", "k", "\ufb01", "fi", "\uff21", "A", "a\u0300\u0301", "a\u0301\u0300", "\ufffd", "\U0010ffff",
	strings.Repeat("ä", director.MaxUserLength), strings.Repeat("\U0001f600", director.MaxUserLength), strings.Repeat("x", director.MaxUserLength-1) + " ",
}

// KeepsNames holds that names are kept byte for byte, and that none is taken for another, in one statement or in several.
func KeepsNames(t *testing.T, b Bench) {
	s := b.Open(t)
	var wg sync.WaitGroup
	for i, user := range Names {
		wg.Go(func() { assign(t, s, user, "", fmt.Sprintf("backend-%d", i)) })
	}
	wg.Wait()
	for i, user := range Names {
		wg.Go(func() {
			if got, want := get(t, s, user), fmt.Sprintf("backend-%d", i); got != want {
				t.Errorf("%q: got %q, want %q", user, got, want)
			}
		})
	}
	wg.Wait()
	if counts, err := s.Counts(t.Context()); err != nil || len(counts) != len(Names) {
		t.Errorf("%d names are %d users, %v", len(Names), len(counts), err)
	}
}

func race(t *testing.T, b Bench) {
	const writers, users = 16, 1000
	results := make([][]string, writers)
	var wg sync.WaitGroup
	for w := range writers {
		s := b.Open(t)
		results[w] = make([]string, users)
		wg.Go(func() {
			var callers sync.WaitGroup
			for part := range 4 {
				callers.Go(func() {
					for _, u := range rand.Perm(users) {
						if u%4 != part {
							continue
						}
						m, err := s.Assign(context.Background(), director.Assignment{User: fmt.Sprintf("user-%d", u), Becomes: fmt.Sprintf("backend-%d", w)})
						if err != nil {
							t.Errorf("writer %d: %v", w, err)
							return
						}
						results[w][u] = m.Backend
					}
				})
			}
			callers.Wait()
		})
	}
	wg.Wait()
	s := b.Open(t)
	for u := range users {
		row := get(t, s, fmt.Sprintf("user-%d", u))
		for w := range writers {
			if results[w][u] != row {
				t.Fatalf("user-%d: writer %d was told %q, the row says %q", u, w, results[w][u], row)
			}
		}
	}
}

func moves(t *testing.T, b Bench) {
	const writers, users = 8, 200
	lost := make([]string, users)
	for u := range lost {
		lost[u] = fmt.Sprintf("user-%d", u)
	}
	b.Insert(t, "lost", time.Hour, lost...)
	var mu sync.Mutex
	told := map[string]map[string]bool{}
	var wg sync.WaitGroup
	for w := range writers {
		s := b.Open(t)
		wg.Go(func() {
			for _, u := range rand.Perm(users) {
				user := fmt.Sprintf("user-%d", u)
				m, err := s.Assign(context.Background(), director.Assignment{User: user, Was: "lost", Becomes: fmt.Sprintf("backend-%d", w)})
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				mu.Lock()
				if told[user] == nil {
					told[user] = map[string]bool{}
				}
				told[user][m.Backend] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for user, backends := range told {
		if len(backends) != 1 || backends["lost"] {
			t.Errorf("%s was told to be on %v", user, backends)
		}
	}
}

func refusals(t *testing.T, b Bench) {
	known := make([]string, 0, 200)
	for i := range cap(known) {
		known = append(known, fmt.Sprintf("known-%d", i))
	}
	b.Mailboxes(t, known...)
	s := b.Open(t)
	for range 2 { // the second time the unknown ones are expected
		var wg sync.WaitGroup
		for i, user := range known {
			wg.Go(func() {
				if m, err := s.Assign(context.Background(), director.Assignment{User: user, Becomes: "backend-0"}); err != nil || m.Backend != "backend-0" {
					t.Errorf("%s: %q, %v", user, m.Backend, err)
				}
			})
			if i%10 == 0 {
				wg.Go(func() {
					unknown := fmt.Sprintf("un%s", user)
					if _, err := s.Assign(context.Background(), director.Assignment{User: unknown, Becomes: "backend-0"}); !errors.Is(err, director.ErrUserRefused) {
						t.Errorf("%s: error %v", unknown, err)
					}
				})
			}
		}
		wg.Wait()
	}
	if got := get(t, s, "unknown-0"); got != "" {
		t.Errorf("a refused user was stored: %q", got)
	}
	if counts, err := s.Counts(t.Context()); err != nil || counts["backend-0"] != len(known) {
		t.Errorf("%v, %v", counts, err)
	}
}

func leaving(t *testing.T, b Bench) {
	s := b.Open(t)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			ctx := gone
			if i%2 == 0 {
				ctx = context.Background()
			}
			_, err := s.Assign(ctx, director.Assignment{User: fmt.Sprintf("user-%d", i), Becomes: "backend-0"})
			if i%2 == 0 && err != nil {
				t.Errorf("user-%d stayed and got %v", i, err)
			}
			if i%2 != 0 && errors.Is(err, director.ErrUnavailable) {
				t.Errorf("user-%d left, which is no outage: %v", i, err)
			}
		})
	}
	wg.Wait()
}

func fresh(t *testing.T, b Bench) {
	one, other := b.Open(t), b.Open(t)
	assign(t, one, "ada", "", "backend-0")
	for i := range 100 {
		was, becomes := fmt.Sprintf("backend-%d", i), fmt.Sprintf("backend-%d", i+1)
		assign(t, one, "ada", was, becomes)
		if got := get(t, other, "ada"); got != becomes {
			t.Fatalf("read %q after %q was written", got, becomes)
		}
		one, other = other, one
	}
}
