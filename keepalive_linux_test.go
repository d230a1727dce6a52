package wsshard

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"testing"
)

// TCP keep-alive begins after 30 s and comes every 10 s, with and without a source address.
func TestKeepAlive(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, sources := range [][]netip.Addr{nil, {netip.MustParseAddr("127.0.0.1")}} {
		d := newDialer(Config{}.withDefaults(0).Connection)
		d.sources = sources
		conn, err := d.tcp(context.Background(), l.Addr().String(), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			for _, o := range []struct{ level, option, want int }{
				{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
				{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 30},
				{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 10},
			} {
				if got, err := syscall.GetsockoptInt(int(fd), o.level, o.option); err != nil || got != o.want {
					t.Errorf("option %d: %d, %v; want %d", o.option, got, err, o.want)
				}
			}
		})
	}
}
