package egress

import (
	"context"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: does the kernel look whether the peer is still there? What it was told of a connection's socket says so.

// socketsTo are this process's sockets that are connected to a port of the IPv4 loopback.
func socketsTo(t *testing.T, port int) (fds []int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range list {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		peer, err := syscall.Getpeername(fd)
		if sa, ok := peer.(*syscall.SockaddrInet4); err == nil && ok && sa.Port == port {
			fds = append(fds, fd)
		}
	}
	return fds
}

// TCP keep-alive begins after 30 s and comes every 10 s, with and without a source address.
func TestKeepAlive(t *testing.T) {
	for _, sources := range [][]string{nil, {"127.0.0.1"}} {
		srv := harness.StartLive(t, "127.0.0.1:0", nil)
		port, err := strconv.Atoi(srv.Port())
		if err != nil {
			t.Fatal(err)
		}
		h := harness.NewCaller(srv.URL)
		m, err := wsshard.New[string](h, wsshard.Config{Connection: wsshard.ConnectionConfig{SourceIPs: sources}})
		if err != nil {
			t.Fatal(err)
		}
		m.Subscribe("a")
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-h.Opened:
		case err := <-h.Failed:
			t.Error(err)
		case <-time.After(harness.Patience):
			t.Error("neither connected nor failed")
		}
		fds := socketsTo(t, port)
		if len(fds) != 1 {
			t.Errorf("%d sockets are connected to the server, from %v", len(fds), sources)
		}
		for _, fd := range fds {
			for _, o := range []struct{ level, option, want int }{
				{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
				{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 30},
				{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 10},
			} {
				if got, err := syscall.GetsockoptInt(fd, o.level, o.option); err != nil || got != o.want {
					t.Errorf("from %v: option %d: %d, %v; want %d", sources, o.option, got, err, o.want)
				}
			}
		}
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}
}
