package servers

import "fmt"

// This file answers: how does the handler of a server that packs messages into frames see to it that none comes twice?

// During a switchover both connections bring the same messages. The library drops the second of two frames that have one
// key. But a frame has one key, and this server puts into a frame whatever is ready to be sent: what came alone on the old
// connection may come with others on the new one, or the other way round. No key says that. So
//
//   - a frame with one message has a key: the library then drops most repeats before they get here, and has proof that the
//     new connection brings what the old one does;
//   - a frame with several has none, and reaches OnMessage;
//   - OnMessage removes the repeats that are left, message by message.
//
// The library hands over all of the old connection, then all of the new one; the server keeps the order of a subject, whose
// messages are numbered. So the highest number that was handed out is all there is to remember.
//
// A price is left: where the new connection brought a message alone that the old one had brought with others, its key is
// waited for in vain, and the switchover cuts over at Switchover.Timeout, with the proof that acknowledgements give.

// key names a message for the library. One that has no number has no key.
func (m Msg) key() string {
	if number := m.Number(); number > 0 {
		return fmt.Sprint(m.source(), " ", number)
	}
	return ""
}

// source is what a message's number counts: a subject, as one subscription brings it. Subscriptions with wildcards may bring
// it twice on one connection, and nothing is repeated then.
func (m Msg) source() string {
	if m.SID == m.Subject {
		return m.Subject
	}
	return m.SID + " " + m.Subject
}

// latest are the highest numbers that a shard has handed out, by source. It is owned by the shard's OnMessage.
type latest map[string]int

func (s *Subscriber) latestOf(shard int) latest {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.latest[shard]
	if l == nil {
		l = make(latest)
		s.latest[shard] = l
	}
	return l
}

// again reports whether m was handed out before; if not, it is now.
func (l latest) again(m Msg) bool {
	number := m.Number()
	if number == 0 {
		return false
	}
	source := m.source()
	if number <= l[source] {
		return true
	}
	l[source] = number
	return false
}
