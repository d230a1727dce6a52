package wsconn

import "io"

// This file answers: which bytes have come, and where do they lie?

// mostPart is the most that a caller needs to see at once, bytes: a control frame's payload, which is longer than any header.
const mostPart = mostControl

// input is what has come and is not taken yet. It is handed out where it lies. What did not come as a whole is put together:
// a header or a control frame here, a message in the memory of whoever asks for it.
type input struct {
	tap  *Tap
	rest []byte // in the source's memory: valid until fetch
	part [mostPart]byte
	have int   // bytes of part that are there
	err  error // what comes after rest
}

// need returns the next n bytes, which stay until take; n is at most mostPart.
func (in *input) need(n int) ([]byte, error) {
	if in.have == 0 && len(in.rest) >= n {
		return in.rest[:n], nil
	}
	return in.gather(n)
}

// gather puts the next n bytes together.
func (in *input) gather(n int) ([]byte, error) {
	for {
		m := copy(in.part[in.have:n], in.rest)
		in.have += m
		in.rest = in.rest[m:]
		if in.have == n {
			return in.part[:n], nil
		}
		if in.have > 0 {
			in.tap.partial = true // the frame before has ended, and this one has begun
		}
		if err := in.fetch(nil); err != nil {
			return nil, err
		}
	}
}

// take ends what need returned: n bytes, as many as were asked for last.
func (in *input) take(n int) {
	if in.have > 0 {
		in.have = 0
		return
	}
	in.rest = in.rest[n:]
}

// whole takes the next n bytes where they lie, which is until the next fetch; ok: they are all there.
func (in *input) whole(n int64) (p []byte, ok bool) {
	if int64(len(in.rest)) < n {
		return nil, false
	}
	p, in.rest = in.rest[:n:n], in.rest[n:]
	return p, true
}

// read takes some bytes, straight from the socket when nothing is there and p is long.
func (in *input) read(p []byte) (n int, err error) {
	if len(in.rest) == 0 {
		if err := in.fetch(p); err != nil {
			return 0, err
		}
		if &in.rest[0] == &p[0] {
			n, in.rest = len(in.rest), nil
			return n, nil
		}
	}
	n = copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

// fetch waits for bytes when all are taken. It is the end, where no close frame came before it, that is unexpected.
func (in *input) fetch(p []byte) error {
	for range 100 {
		if in.err != nil {
			return in.err
		}
		if in.rest, in.err = in.tap.fetch(p); in.err == io.EOF {
			in.err = io.ErrUnexpectedEOF
		}
		if len(in.rest) > 0 {
			return nil
		}
	}
	if in.err == nil {
		in.err = io.ErrNoProgress
	}
	return in.err
}

// drained says that what was taken in place is used no longer: if nothing is left, the source's memory is free.
func (in *input) drained() {
	if len(in.rest) == 0 {
		in.drop()
	}
}

// drop says that nothing is wanted any more of what is there.
func (in *input) drop() {
	in.rest = nil
	in.tap.source.free()
}
