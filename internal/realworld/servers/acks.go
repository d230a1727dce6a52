package servers

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what does a PONG prove?

// The server works off a connection's lines in order. So each PONG answers the oldest PING that is unanswered, and says that
// all before it is done; what was refused has been named by then.

// conn is what is known of one connection.
type conn struct {
	parser parser // owned by the goroutine that reads

	mu    sync.Mutex // protects following fields
	asked []question // PINGs without a PONG so far, oldest first
}

// question is a PING of ours: behind a request, or alone.
type question struct {
	request  uint64 // 0: a heartbeat
	subjects []string
}

// ask is called just before the PING is written.
func (c *conn) ask(q question) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, q)
}

// feed parses a frame and finds what its PONGs answer.
func (c *conn) feed(data []byte) (*frame, error) {
	f, err := c.parser.feed(data)
	if err != nil {
		return f, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, text := range f.errs {
		if subject, ok := refused(text); ok { // no PONG confirms it
			for i, q := range c.asked {
				c.asked[i].subjects = slices.DeleteFunc(q.subjects, func(s string) bool { return s == subject })
			}
		}
	}
	for range min(f.pongs, len(c.asked)) {
		if q := c.asked[0]; q.request != 0 {
			f.answered = append(f.answered, q)
		}
		c.asked = c.asked[1:]
	}
	return f, nil
}

// acknowledge says what f confirms and rejects. One request is answered as such. When several are, or when something was
// refused, which the server says by name, the answer is by topic: then what is asked for again meanwhile stays open.
func (c *conn) acknowledge(f *frame) (ack wsshard.Ack[string], ok bool) {
	var why []error
	for _, text := range f.errs {
		if subject, ok := refused(text); ok {
			ack.Rejected = append(ack.Rejected, subject)
			why = append(why, errors.New("nats: "+text))
		}
	}
	ack.Err = errors.Join(why...)
	if len(ack.Rejected) == 0 && len(f.answered) == 1 {
		ack.Request = f.answered[0].request
		return ack, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, q := range f.answered {
		for _, subject := range q.subjects {
			if !slices.ContainsFunc(c.asked, func(q question) bool { return slices.Contains(q.subjects, subject) }) {
				ack.Confirmed = append(ack.Confirmed, subject)
			}
		}
	}
	return ack, len(ack.Rejected) > 0 || len(f.answered) > 0
}

// refused finds the subject that an -ERR is about.
func refused(text string) (subject string, ok bool) {
	after, ok := strings.CutPrefix(text, `Permissions Violation for Subscription to "`)
	if !ok {
		return "", false
	}
	subject, _, ok = strings.Cut(after, `"`)
	return subject, ok
}
