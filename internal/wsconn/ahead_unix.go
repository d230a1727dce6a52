//go:build unix

package wsconn

import (
	"io"
	"net"
	"os"
	"syscall"
)

// newAhead returns nil where it cannot be done. A type that only wraps a TCP connection has a Read of its own, with a meaning
// of its own.
func newAhead(conn net.Conn) *ahead {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	a := &ahead{raw: raw}
	a.try = func(fd uintptr) bool {
		buf := aheadBuffers.Get().(*[readAhead]byte)
		n, err := syscall.Read(int(fd), buf[:])
		for err == syscall.EINTR {
			n, err = syscall.Read(int(fd), buf[:])
		}
		if n > 0 {
			a.buf, a.rest = buf, buf[:n]
			return true
		}
		aheadBuffers.Put(buf)
		switch err {
		case syscall.EAGAIN:
			return false
		case nil:
			a.err = io.EOF
		default: // as net's own Read would say it
			a.err = &net.OpError{Op: "read", Net: "tcp", Source: tcp.LocalAddr(), Addr: tcp.RemoteAddr(), Err: os.NewSyscallError("read", err)}
		}
		return true
	}
	return a
}
