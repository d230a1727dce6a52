package wsconn

import (
	"sync"
	"syscall"
)

// This file answers: how is much read with few system calls, and no memory held while nothing comes?

// readAhead is how much is read from a socket at a time.
const readAhead = 64 << 10

// smallBuffer is what a reader needs that an ahead serves: a few small messages at a time.
const smallBuffer = 1024

// aheadBuffers are shared by all connections.
var aheadBuffers = sync.Pool{New: func() any { return new([readAhead]byte) }}

// ahead reads a plain TCP socket with few system calls, into a buffer that it borrows when bytes have come and gives back
// when they are taken: a connection that waits holds none. Over TLS nothing would be gained, since records are small.
type ahead struct {
	raw  syscall.RawConn
	try  func(fd uintptr) bool // reads once; false: nothing has come
	buf  *[readAhead]byte      // nil: everything is taken
	rest []byte                // of buf: not taken yet
	err  error                 // what try met
}

// fill waits until there is something to take, or an error.
func (a *ahead) fill() (n int, err error) {
	a.err = nil
	if err := a.raw.Read(a.try); err != nil {
		return 0, err
	}
	return len(a.rest), a.err
}

// take hands out some of what fill has read.
func (a *ahead) take(p []byte) int {
	n := copy(p, a.rest)
	if a.rest = a.rest[n:]; len(a.rest) == 0 {
		aheadBuffers.Put(a.buf)
		a.buf, a.rest = nil, nil
	}
	return n
}
