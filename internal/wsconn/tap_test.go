package wsconn

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// script is a connection whose reads come as they are listed.
type script struct {
	net.Conn // nil: nothing else may be called
	reads    []step
}

type step struct {
	after time.Duration
	bytes string
	err   error
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.reads) == 0 {
		return 0, io.EOF
	}
	next := s.reads[0]
	s.reads = s.reads[1:]
	time.Sleep(next.after)
	return copy(p, next.bytes), next.err
}

func tapped(t *testing.T, f func(t *testing.T, tap *Tap), reads ...step) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		tap := NewTap(&script{reads: reads}, 0)
		tap.Established(0)
		f(t, tap)
	})
}

// The handshake may read so many bytes and no more, however it asks for them.
func TestHeadBudget(t *testing.T) {
	tap := NewTap(&script{reads: []step{{bytes: "12345"}, {bytes: "678"}, {bytes: "x"}}}, 7)
	p := make([]byte, 100)
	for i, want := range []struct {
		n   int
		err error
	}{{7, nil}, {0, ErrHead}, {0, ErrHead}} {
		if n, err := tap.Read(p); n != want.n || err != want.err || tap.Failed() != want.err {
			t.Errorf("read %d: %d, %v (%v)", i, n, err, tap.Failed())
		}
	}
	tap.Established(0) // over: what is read from now on is the connection's
	if b, err := tap.fetch(nil); len(b) != 1 || err != nil || tap.Signs().Reads != 1 {
		t.Errorf("%q, %v, %+v", b, err, tap.Signs())
	}
	if _, err := tap.Read(p); err != net.ErrClosed {
		t.Errorf("the handshake goes on: %v", err)
	}
}

func TestHeadError(t *testing.T) {
	broken := errors.New("broken")
	tap := NewTap(&script{reads: []step{{bytes: "1", err: nil}, {err: broken}}}, 100)
	p := make([]byte, 100)
	tap.Read(p)
	if tap.Failed() != nil {
		t.Error(tap.Failed())
	}
	if _, err := tap.Read(p); err != broken || tap.Failed() != broken {
		t.Errorf("%v, %v", err, tap.Failed())
	}
}

// The reader's clock stands still in callbacks, and only there.
func TestReadersClock(t *testing.T) {
	tapped(t, func(t *testing.T, tap *Tap) {
		want := func(what string, clock time.Duration, waiting bool) {
			t.Helper()
			if s := tap.Signs(); s.Clock(tap.Now()) != clock || s.Waiting != waiting {
				t.Errorf("%s: clock %v, waiting %v; want %v, %v", what, s.Clock(tap.Now()), s.Waiting, clock, waiting)
			}
		}
		want("fresh", 0, false)
		time.Sleep(time.Hour) // a callback
		want("before the first read", 0, false)

		go tap.fetch(nil)
		time.Sleep(2 * time.Second)
		want("waiting", 2*time.Second, true)
		time.Sleep(time.Second)
		synctest.Wait()
		want("read", 3*time.Second, false)
		if s := tap.Signs(); s.Reads != 1 || tap.Stamp() != time.Hour+3*time.Second {
			t.Errorf("%+v, stamp %v", s, tap.Stamp())
		}
		if got, want := tap.At(tap.Stamp()), time.Now(); !got.Equal(want) {
			t.Errorf("stamp is %v, want %v", got, want)
		}
		tap.leaves()
		time.Sleep(time.Hour)
		want("in a callback", 3*time.Second, false)
		tap.fetch(nil)
		want("read what was there", 3*time.Second, false)
		if s := tap.Signs(); s.Asked != 3*time.Second {
			t.Errorf("it began to wait at %v", s.Asked)
		}
		time.Sleep(4 * time.Second) // it parses
		tap.fetch(nil)
		want("had parsed", 7*time.Second, false)
		tap.leaves()
		time.Sleep(time.Hour)
		tap.idles() // a ping after the message
		time.Sleep(time.Second)
		tap.leaves() // a heartbeat after the ping
		time.Sleep(time.Hour)
		tap.returns()
		time.Sleep(time.Second) // parses the next
		tap.leaves()
		time.Sleep(time.Hour)
		tap.Fresh() // it was data: how long it takes from here to the next is not looked at
		tap.returns()
		time.Sleep(time.Second)
		tap.leaves()
		if tap.fetch(nil); tap.Failed() != io.ErrClosedPipe {
			t.Errorf("failed with %v", tap.Failed())
		}
		want("parsed a ping and what followed a heartbeat", 10*time.Second, false)
		if s := tap.Signs(); s.Reads != 3 || tap.Stamp() != 2*time.Hour+7*time.Second {
			t.Errorf("a read without bytes counts: %+v", s)
		}
	}, step{after: 3 * time.Second, bytes: "abc"}, step{bytes: "d"}, step{bytes: "e"}, step{after: time.Second, err: io.ErrClosedPipe})
}

// A clock that is asked for an instant before it began to wait stands.
func TestClockOfThePast(t *testing.T) {
	s := Signs{Waiting: true, Since: 10, Waited: 5}
	for now, want := range map[time.Duration]time.Duration{0: 5, 10: 5, 12: 7} {
		if got := s.Clock(now); got != want {
			t.Errorf("at %d: %d, want %d", now, got, want)
		}
	}
}

// Data is when the last data message had been handled, and is published when the reader waits again.
func TestFresh(t *testing.T) {
	tapped(t, func(t *testing.T, tap *Tap) {
		tap.fetch(nil)
		tap.leaves()
		if tap.Fresh(); tap.Signs().Fed {
			t.Error("fed before it was handled")
		}
		time.Sleep(time.Minute) // the handler
		tap.fetch(nil)
		if s := tap.Signs(); !s.Fed || s.Data != time.Second || s.Waited != 3*time.Second {
			t.Errorf("%+v", s)
		}
		tap.fetch(nil)
		if s := tap.Signs(); s.Data != time.Second {
			t.Errorf("fed by nothing: %+v", s)
		}
	}, step{after: time.Second, bytes: "a"}, step{after: 2 * time.Second, bytes: "b"}, step{bytes: "c"})
}

// What has begun, and since when: from the first byte, through control frames, until its own end.
func TestBegun(t *testing.T) {
	one := step{after: time.Second, bytes: "x"}
	tapped(t, func(t *testing.T, tap *Tap) {
		read := func(begun bool, began time.Duration) {
			t.Helper()
			tap.fetch(nil)
			if s := tap.Signs(); s.Begun != begun || begun && s.Began != began {
				t.Errorf("after %v: begun %v at %v, want %v at %v", s.Waited, s.Begun, s.Began, begun, began)
			}
		}
		read(false, 0) // 1st second: nothing has come before
		read(true, time.Second)
		tap.message = true // its header is complete
		read(true, time.Second)
		tap.frame() // a ping in between
		read(true, time.Second)
		tap.message = false
		tap.frame() // the end of it
		read(false, 0)
		tap.frame() // whole in one read
		read(false, 0)
		tap.message = true // one ends and the next begins in one read
		tap.ended = true
		read(true, 6*time.Second)
		tap.message = false
		tap.frame()
		tap.message = true
		read(true, 7*time.Second)
	}, one, one, one, one, one, one, one, one)
}

// Whatever unfinished messages hold, it is freed when their connections end, and who waits for that goes on.
func TestUnfinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := NewUnfinished(1000)
		conns := make([]*Conn, 3)
		for i := range conns {
			client, server := net.Pipe()
			defer server.Close()
			conns[i] = &Conn{Tap: NewTap(client, 0)}
		}
		small, large, other := conns[0], conns[1], conns[2]
		for c, n := range map[*Conn]int64{small: 100, large: 600, other: 300} {
			if err := u.hold(c, n); err != nil {
				t.Error(err)
			}
		}
		waited := make(chan error, 1)
		go func() { waited <- u.hold(small, 50) }()
		synctest.Wait()
		select {
		case err := <-waited:
			t.Fatalf("it did not wait for what is not free yet: %v", err)
		default:
		}
		if _, err := large.Conn.Read(make([]byte, 1)); err == nil {
			t.Error("the reader of the longest was not woken")
		}
		if err := u.hold(large, 1); err != ErrUnfinished {
			t.Errorf("the longest goes on: %v", err)
		}
		if !u.free(large) || u.free(other) {
			t.Error("the wrong one ended")
		}
		if err := <-waited; err != nil || u.sum != 150 || u.doomed != 0 || len(u.live) != 1 {
			t.Errorf("%v; %d and %d are held by %d", err, u.sum, u.doomed, len(u.live))
		}
		if err := u.hold(small, 2000); err != ErrUnfinished || !u.free(small) || u.sum != 0 || u.doomed != 0 {
			t.Errorf("one that is too long by itself: %v; %d held", err, u.sum)
		}
	})
}
