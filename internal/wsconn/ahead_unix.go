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
		buf, p := (*[readAhead]byte)(nil), a.p
		if p == nil {
			buf = borrowed.Get().(*[readAhead]byte)
			p = buf[:]
		}
		n, err := syscall.Read(int(fd), p)
		for err == syscall.EINTR {
			n, err = syscall.Read(int(fd), p)
		}
		if n > 0 {
			a.buf, a.n = buf, n
			return true
		}
		if buf != nil {
			borrowed.Put(buf)
		}
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
