package wsconn

import "syscall"

// This file answers: how is a TCP socket read with few system calls, and no memory held while nothing comes?

// ahead reads a plain TCP socket with few system calls, into a buffer that it borrows when bytes have come and gives back
// when they were handled: a connection that waits holds none.
type ahead struct {
	raw syscall.RawConn
	try func(fd uintptr) bool // reads once; false: nothing has come
	buf *[readAhead]byte      // nil: none is borrowed
	p   []byte                // to be read into instead; nil: none
	n   int                   // bytes that try has read
	err error                 // what try met
}

func (a *ahead) fill(p []byte) ([]byte, error) {
	a.n, a.err = 0, nil
	if len(p) >= readAhead {
		a.p = p
	}
	err := a.raw.Read(a.try)
	a.p = nil
	switch {
	case err != nil:
		return nil, err
	case a.buf != nil:
		p = a.buf[:]
	}
	return p[:a.n], a.err
}

func (a *ahead) free() {
	if a.buf != nil {
		borrowed.Put(a.buf)
		a.buf = nil
	}
}
