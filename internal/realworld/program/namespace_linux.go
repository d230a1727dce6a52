package program

import (
	"context"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// This file answers: how does a test have sockets on another machine? A network namespace is one.

// In calls f in a network namespace, named by its file. What f opens belongs there: a socket stays in the namespace of the thread
// that made it.
func In(namespace string, f func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var home, there *os.File
		if home, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return
		}
		defer home.Close()
		if there, err = os.Open(namespace); err != nil {
			return
		}
		defer there.Close()
		if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread() // a thread that ends would take along the programs that it started, see mortal
		}
	}()
	<-done
	return err
}

// DialIn connects from a network namespace.
func DialIn(ctx context.Context, namespace, network, addr string) (c net.Conn, err error) {
	err = In(namespace, func() (err error) {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// ListenIn listens in a network namespace.
func ListenIn(namespace, network, addr string) (l net.Listener, err error) {
	err = In(namespace, func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	})
	return l, err
}
