package wsconn

import (
	"errors"
	"sync"
	"time"
)

// This file answers: how much memory may the unfinished messages of many connections hold?

// ErrUnfinished says that unfinished messages held more than Unfinished allows, and that this connection's was the longest.
var ErrUnfinished = errors.New("too much is held by unfinished messages")

// serialJoin is how long a message is at least that is joined while no other such one is, bytes: meanwhile it is held twice.
const serialJoin = 1 << 20

// Unfinished bounds what the unfinished messages of all connections that share it hold. Beyond that, the connection with the
// longest one ends; the others wait until its memory is free, which takes its reader a moment.
type Unfinished struct {
	limit   int64      // not positive: none
	joining sync.Mutex // held while one long message is copied

	mu     sync.Mutex // protects following fields and held of each Conn; a leaf lock
	freed  sync.Cond
	live   map[*Conn]struct{} // those that hold something, less the doomed
	sum    int64              // what they hold
	doomed int64              // what the doomed ones hold still
}

// NewUnfinished returns a bound of limit bytes; not positive: none.
func NewUnfinished(limit int64) *Unfinished {
	u := &Unfinished{limit: limit, live: make(map[*Conn]struct{})}
	u.freed.L = &u.mu
	return u
}

// hold notes that c's message takes n bytes more. It fails when the connection is to end.
func (u *Unfinished) hold(c *Conn, n int64) error {
	if u == nil || u.limit <= 0 {
		return nil
	}
	if doomed := u.more(c, n); len(doomed) > 0 {
		for _, d := range doomed {
			d.SetReadDeadline(time.Unix(1, 0)) // its reader may wait for bytes
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.sum+u.doomed > u.limit && u.doomed > 0 && !c.doomed {
		u.freed.Wait()
	}
	if c.doomed {
		return ErrUnfinished
	}
	return nil
}

// more adds to what c holds, and chooses who has to end for it.
func (u *Unfinished) more(c *Conn, n int64) (doomed []*Conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c.doomed {
		return nil
	}
	c.held += n
	u.sum += n
	u.live[c] = struct{}{}
	for u.sum > u.limit {
		var longest *Conn
		for l := range u.live {
			if longest == nil || l.held > longest.held {
				longest = l
			}
		}
		longest.doomed = true
		delete(u.live, longest)
		u.sum -= longest.held
		u.doomed += longest.held
		doomed = append(doomed, longest)
		u.freed.Broadcast() // it may wait for another one
	}
	return doomed
}

// free notes that c's message holds nothing any more, and reports whether c was chosen to end.
func (u *Unfinished) free(c *Conn) (doomed bool) {
	if u == nil || u.limit <= 0 {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if c.held == 0 {
		return c.doomed
	}
	if c.doomed {
		u.doomed -= c.held
		u.freed.Broadcast()
	} else {
		u.sum -= c.held
		delete(u.live, c)
	}
	c.held = 0
	return c.doomed
}

// join copies a message while no other long one is copied.
func (u *Unfinished) join(size int, copy func()) {
	if u != nil && size >= serialJoin {
		u.joining.Lock()
		defer u.joining.Unlock()
	}
	copy()
}
