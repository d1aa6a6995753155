package pgtest

import (
	"net"
	"testing"
)

// TestPortsBelongToOneServer reserves so many ports that the same ones come up again by chance.
func TestPortsBelongToOneServer(t *testing.T) {
	reserved := map[int]bool{}
	for range 500 {
		p, err := reserve()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.release)
		if reserved[p.number] {
			t.Errorf("%d is reserved twice", p.number)
		}
		reserved[p.number] = true
	}
}

// TestPortsThatAreTakenAreLeftAlone holds that a port on which somebody listens who knows of no reservation is nobody's.
func TestPortsThatAreTakenAreLeftAlone(t *testing.T) {
	p, err := reserve()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", p.addr())
	p.release()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if again, err := take(p.number); err == nil {
		again.release()
		t.Errorf("%d is taken, and given away", p.number)
	}
}
