package pgtest

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// port is a TCP port of 127.0.0.1 that belongs to one server from before it starts until it is released, while the server is down too. The
// UDP port of the same number is the reservation, for all test processes of this machine.
type port struct {
	number int
	lock   net.PacketConn
}

// reserve takes a free one. It is none that connections are given by themselves, which are from 32768 (ip(7), ip_local_port_range).
func reserve() (p port, err error) {
	for range 100 {
		if p, err = take(20_000 + rand.IntN(10_000)); err == nil {
			return p, nil
		}
	}
	return port{}, fmt.Errorf("no free port in 100 tries: %w", err)
}

// take reserves a certain one if nobody has it.
func take(number int) (port, error) {
	p := port{number: number}
	var err error
	if p.lock, err = net.ListenPacket("udp", p.addr()); err != nil {
		return port{}, err
	}
	l, err := net.Listen("tcp", p.addr())
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		p.release()
		return port{}, err
	}
	return p, nil
}

func (p port) addr() string { return fmt.Sprintf("127.0.0.1:%d", p.number) }

// release gives it back.
func (p port) release() { _ = p.lock.Close() }
