package status

import (
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

func TestLatenciesAreWrongByAnEighthAtMost(t *testing.T) {
	last := -1
	for took := 10 * time.Microsecond; took < 8*time.Second; took += took/50 + 1 {
		b := bucketOf(took)
		if off := math.Abs(float64(middle(b)-took)) / float64(took); off > 0.125 || b < last {
			t.Fatalf("%s falls into bucket %d, which stands for %s", took, b, middle(b))
		}
		last = b
	}
	for took, want := range map[time.Duration]int{-time.Second: 0, 0: 0, time.Hour: buckets - 1, math.MaxInt64: buckets - 1} {
		if got := bucketOf(took); got != want {
			t.Errorf("%s falls into bucket %d", took, got)
		}
	}
}

func TestTraffic(t *testing.T) {
	traffic := &Traffic{}
	if all, _ := traffic.history(); all[periods-1].counted {
		t.Error("there was something before it ran")
	}
	for second := range 2 * int(remembered/time.Second) { // all is written over
		for range second % 3 {
			traffic.Resolved(false, director.Hold, director.InGrace, time.Millisecond)
		}
		traffic.second()
	}
	for range int(period / time.Second) {
		for i := range 100 {
			took := time.Millisecond
			if i >= 95 {
				took = 200 * time.Millisecond
			}
			traffic.Resolved(i%2 == 0, director.Serve, director.Mapped, took)
		}
		traffic.Resolved(true, director.Reject, director.UnknownUser, time.Millisecond)
		traffic.Resolved(false, director.Unavailable, director.StoreDown, time.Millisecond)
		traffic.Failed(false, "request", time.Millisecond)
		traffic.second()
	}
	all, rate := traffic.history()
	if rate != [outcomes]float64{101, 0, 2} {
		t.Errorf("the rate is %v", rate)
	}
	newest := all[periods-1]
	if newest.lookups != [outcomes]uint32{505, 0, 10} || newest.p50 > 1200*time.Microsecond || newest.p99 < 180*time.Millisecond {
		t.Errorf("the newest is %+v", newest)
	}
	if older := all[0].lookups; older[held] < 4 || older[answered] != 0 {
		t.Errorf("the oldest is %+v", all[0])
	}
}

func TestLinesHaveGaps(t *testing.T) {
	path, area := line([]float64{-1, 5, 5, 5, 5, -1, 10, -1}, 10)
	if path != "M85.71 50 h.1 L342.86 50 M514.29 0 h.1" || area != "M85.71 100 V50 L342.86 50 V100 Z M514.29 100 V0 V100 Z" {
		t.Errorf("%s\n%s", path, area)
	}
	if path, area := line([]float64{-1, -1}, 1); path+area != "" {
		t.Errorf("of nothing: %q %q", path, area)
	}
}

func TestArcs(t *testing.T) {
	number := regexp.MustCompile(`NaN|Inf|e[-+]`)
	for range 20 {
		pieces := make([]piece, rand.IntN(200))
		for i := range pieces {
			pieces[i] = piece{class: "alive", label: fmt.Sprint(i), size: float64(rand.IntN(5))}
		}
		for _, a := range arcs(pieces, outerFar, outerNear) {
			if number.MatchString(a.Path) || a.Path == "" {
				t.Fatal(a.Path)
			}
		}
	}
	if all := arcs([]piece{{size: 3}}, outerFar, outerNear); len(all) != 1 {
		t.Errorf("a whole circle: %v", all)
	}
	// Three quarters go the long way around.
	if path := arcs([]piece{{size: 3}, {size: 1}}, 100, 80)[0].Path; !regexp.MustCompile(`^M0\.8 -100 A100 100 0 1 1 -100 0\.8 L-80 0\.8 A80 80 0 1 0 0\.8 -80 Z$`).MatchString(path) {
		t.Error(path)
	}
}

func TestShortNames(t *testing.T) {
	for want, all := range map[string][]string{
		"[0 1 10]":              {"dovecot-backend-0", "dovecot-backend-1", "dovecot-backend-10"},
		"[a-0 b-0]":             {"mail-a-0", "mail-b-0"},
		"[one]":                 {"one"},
		"[…23456789 …bcdefghi]": {"123456789123456789", "abcdefghi-abcdefghi"},
		"[b b-]":                {"b", "b-"},
		"[]":                    {},
		"[…éééééééé other-ön]":  {"éééééééééééééééé", "other-ön"},
	} {
		var backends []director.BackendVitals
		for _, name := range all {
			backends = append(backends, director.BackendVitals{Name: name})
		}
		if got := fmt.Sprint(shortNames(backends)); got != want {
			t.Errorf("%q: %s, want %s", all, got, want)
		}
	}
}

func TestMovesAreCounted(t *testing.T) {
	entry := func(second int, user, from, to string) director.Entry {
		return director.Entry{Subject: director.AboutUser, User: user, From: from, To: to, Reason: director.Placed, At: noon.Add(-time.Duration(second) * time.Second)}
	}
	entries := []director.Entry{
		entry(0, "a", "b0", "b1"), entry(1, "b", "b0", "b2"), entry(2, "c", "b0", "b1"),
		{Subject: director.AboutPin, User: "d"},
		entry(60, "e", "b0", "b1"), entry(130, "f", "b0", "b1"),
		{Subject: director.AboutBackend, To: "b3", At: noon.Add(-time.Hour)},
	}
	var got strings.Builder
	for _, l := range lined(entries) {
		got.WriteString(fmt.Sprintln(l.Subject, l.From, l.To, l.Users(), l.Newest.Sub(l.First)))
	}
	if want := "user b0 b1 3 users 1m0s\nuser b0 b2 1 user 0s\nuser b0 b1 1 user 0s\nbackend  b3 1 user 0s\n"; got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
	for i := range 500 {
		entries = append(entries, entry(i, "x", fmt.Sprint(i), "b1"))
	}
	if n := len(lined(entries)); n != movesMost {
		t.Errorf("%d lines", n)
	}
}

// BenchmarkTraffic is what the page adds to a lookup.
func BenchmarkTraffic(b *testing.B) {
	traffic := &Traffic{}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for took := time.Duration(0); pb.Next(); took += 1000 {
			traffic.Resolved(false, director.Serve, director.Mapped, took%(10*time.Millisecond))
		}
	})
}

// BenchmarkDraw is a frame: what there is four times a second while somebody watches.
func BenchmarkDraw(b *testing.B) {
	s := &stage{vitals: well()}
	p := s.page()
	for b.Loop() {
		p.draw(b.Context())
	}
}
