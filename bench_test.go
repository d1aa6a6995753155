package director_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	director "github.com/k-web-s/go-dovecot-director"
)

// one knows one mapping, and answers at once.
type one struct{ mapping director.Mapping }

func (o one) Get(context.Context, string) (director.Mapping, error) { return o.mapping, nil }

func (o one) Assign(context.Context, director.Assignment) (director.Mapping, error) {
	return o.mapping, nil
}

func (o one) Touch(string, string) {}

func site(backends int, mapping director.Mapping) *director.Director {
	all := make([]director.Backend, backends)
	for i := range all {
		all[i] = backend(i)
		all[i].Ports = map[string]uint16{"imap": 31143}
	}
	format, err := director.ParseTemplate("%Lu")
	if err != nil {
		panic(err)
	}
	d := director.New(director.Config{
		Mappings: one{mapping}, Graces: graces, Users: director.UserFormat{Name: format, Hash: format},
		BuildRing: func(m []director.Member) director.Ring { return fixedRing(m) }, TouchInterval: time.Hour, Remember: 1000,
	})
	d.Observe(director.Snapshot{Backends: all, CurrentAt: time.Now()})
	return d
}

// BenchmarkResolve is a lookup of a known user without HTTP and database.
func BenchmarkResolve(b *testing.B) {
	d := site(10, director.Mapping{Backend: "dovecot-backend-3"})
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if a, err := d.Resolve(ctx, director.Request{User: "ada@example.org", Protocol: "imap"}); err != nil || a.Verb != director.Serve {
			b.Fatal(a, err)
		}
	}
}

// BenchmarkDecide is the decision alone: on a known user, and on one whose backend is lost for good.
func BenchmarkDecide(b *testing.B) {
	d := site(10, director.Mapping{})
	f := director.Facts{Now: time.Now(), View: d.View(), Ring: fixedRing(d.View().Members()), Rooms: director.Rooms(d.View(), nil), Key: "ada@example.org", Row: director.RowFound}
	for name, on := range map[string]string{"mapped": "dovecot-backend-3", "lost": "dovecot-backend-99"} {
		f := f
		f.Mapping = director.Mapping{Backend: on, Age: time.Hour}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				director.Policy{}.Decide(f)
			}
		})
	}
}

// BenchmarkObserve is a view's change by one backend, without the ring.
func BenchmarkObserve(b *testing.B) {
	for _, n := range []int{3, 30, 300} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d := site(n, director.Mapping{})
			all := make([]director.Backend, n)
			for i := range all {
				all[i] = backend(i)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				d.Observe(director.Snapshot{Backends: all[i%2:], CurrentAt: time.Now()})
			}
		})
	}
}
