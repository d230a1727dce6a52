package wstest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Topics is a feed on top of a Server, with a table of its own of who is subscribed to what. A client subscribes by
// the text message "+a,b", unsubscribes by "-a,b", and asks again for what it has by "=a,b"; what follows a "#" in it is the
// client's own number of the request. Other messages are left alone. Nothing is sent but acks and what is published.
type Topics struct {
	server *Server

	mu     sync.Mutex                    // protects the following; never held while sending
	on     map[*Peer]map[string]struct{} // gone peers too, as they were in the end
	peers  map[string][]*Peer            // by topic and index; gone ones go when the topic is next touched. Each slice is replaced, not changed
	ack    bool
	deaf   bool
	refuse func(p *Peer, topic string) bool
	answer func(p *Peer, request string, refused []string)
	other  func(p *Peer, text string)
	honour time.Duration
	skew   func(p *Peer) time.Duration
	lanes  map[*Peer]*[2]lane
	log    map[string][]Change
	then   func(p *Peer, text string) // runs when a request was honoured and answered
	errors []string
	most   int
}

// Change is one request for a topic that was honoured.
type Change struct {
	At   time.Time
	On   bool // else it was an unsubscription
	Peer *Peer
}

// lane is what waits to happen on one connection, in order.
type lane struct {
	jobs []job
	last time.Time // when the last one is due
	busy bool      // somebody does them
}

type job struct {
	due time.Time
	do  func()
}

const (
	requestLane = iota
	publishLane
)

// NewTopics installs a feed with s.Handle.
func NewTopics(s *Server) *Topics {
	tp := &Topics{
		server: s,
		on:     make(map[*Peer]map[string]struct{}),
		peers:  make(map[string][]*Peer),
		log:    make(map[string][]Change),
	}
	s.Handle(tp.message)
	return tp
}

// On returns the topics of one connection, sorted; of one that is gone, those it had in the end.
func (tp *Topics) On(p *Peer) []string {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	topics := make([]string, 0, len(tp.on[p]))
	for topic := range tp.on[p] {
		topics = append(topics, topic)
	}
	slices.Sort(topics)
	return topics
}

// All returns on how many live connections each topic is. A topic that is on none is missing.
func (tp *Topics) All() map[string]int {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	all := make(map[string]int, len(tp.peers))
	for topic, peers := range tp.peers {
		if n := len(tp.setPeersLocked(topic, living(peers))); n > 0 {
			all[topic] = n
		}
	}
	return all
}

// Changes returns when a topic was subscribed to and unsubscribed from, and on which connection.
func (tp *Topics) Changes(topic string) []Change {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return slices.Clone(tp.log[topic])
}

// Errors returns what clients have asked for and should not have: to subscribe to what is on that connection, to
// unsubscribe from or ask again for what is not, and requests without topics.
func (tp *Topics) Errors() []string {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return slices.Clone(tp.errors)
}

// Ack makes the feed answer each request with "ack:" and its text, or stops that.
func (tp *Topics) Ack(on bool) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.ack = on
}

// Honoured installs a hook that runs when a request was honoured and its answer sent, in the same instant and on the same
// goroutine: nothing of what the client does about the answer need have happened. Nil removes it.
func (tp *Topics) Honoured(f func(p *Peer, text string)) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.then = f
}

// Deaf makes the feed do nothing of what is asked, though it may acknowledge it, or stops that.
func (tp *Topics) Deaf(on bool) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.deaf = on
}

// Refuse has f say which topics are not subscribed to though they are asked for; those that are on stay on. f is called
// under a lock, and must call nothing of the feed. Nil removes it.
func (tp *Topics) Refuse(f func(p *Peer, topic string) bool) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.refuse = f
}

// Answer has f answer each request that was honoured, but for the topics that were refused, in place of Ack. f is called
// without a lock, in the order of a connection's requests. Nil removes it.
func (tp *Topics) Answer(f func(p *Peer, request string, refused []string)) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.answer = f
}

// Other has f hear of each text that is no request, on the goroutine that reads from that connection. Nil removes it.
func (tp *Topics) Other(f func(p *Peer, text string)) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.other = f
}

// Lag makes the feed as slow as real ones are: it honours each request of a connection so long after it came, in order, and
// what is published leaves skew(p) later on the connection p. What waits when a connection ends is lost. Publish waits for nobody then.
func (tp *Topics) Lag(honour time.Duration, skew func(p *Peer) time.Duration) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.honour, tp.skew, tp.lanes = honour, skew, make(map[*Peer]*[2]lane)
}

// later has do called after d, and after all that the lane had before. It reports false when there is no lag.
func (tp *Topics) later(p *Peer, which int, d func() time.Duration, do func()) bool {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if tp.skew == nil {
		return false
	}
	lanes := tp.lanes[p]
	if lanes == nil {
		lanes = new([2]lane)
		tp.lanes[p] = lanes
	}
	l := &lanes[which]
	if due := time.Now().Add(d()); due.After(l.last) {
		l.last = due
	}
	l.jobs = append(l.jobs, job{l.last, do})
	if !l.busy {
		l.busy = true
		tp.server.joined.Go(func() { tp.work(p, l) })
	}
	return true
}

// work does a lane's jobs until there are none, or the connection is gone.
func (tp *Topics) work(p *Peer, l *lane) {
	for {
		tp.mu.Lock()
		if len(l.jobs) == 0 {
			l.busy = false
			tp.mu.Unlock()
			return
		}
		next := l.jobs[0]
		l.jobs = l.jobs[1:]
		tp.mu.Unlock()
		t := time.NewTimer(time.Until(next.due))
		select {
		case <-t.C:
			next.do()
		case <-p.gone:
			t.Stop()
		}
	}
}

// Publish sends "topic:payload" to each live peer that is subscribed, oldest first, and returns to how many it could
// be sent. As Send does, it waits up to 5 s for a peer that does not read.
func (tp *Topics) Publish(topic, payload string) (n int) {
	tp.mu.Lock()
	peers := tp.setPeersLocked(topic, living(tp.peers[topic]))
	tp.mu.Unlock()
	if len(peers) == 0 {
		return 0
	}
	text := make([]byte, 0, len(topic)+1+len(payload))
	text = append(append(append(text, topic...), ':'), payload...)
	for _, p := range peers {
		send := func() { p.write(websocket.TextMessage, text) }
		if tp.later(p, publishLane, func() time.Duration { return tp.skew(p) }, send) || p.write(websocket.TextMessage, text) == nil {
			n++
		}
	}
	return n
}

// Max returns the most topics that were ever on one connection.
func (tp *Topics) Max() int {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return tp.most
}

// message is the Server's handler.
func (tp *Topics) message(p *Peer, typ int, data []byte) {
	text := string(data)
	if typ != websocket.TextMessage || len(data) == 0 {
		return
	}
	if !strings.Contains("+-=", text[:1]) {
		tp.mu.Lock()
		other := tp.other
		tp.mu.Unlock()
		if other != nil {
			other(p, text)
		}
		return
	}
	do := func() {
		refused, answer := tp.request(p, text)
		if answer != nil {
			answer(p, text, refused)
		}
		if then := tp.honoured(); then != nil {
			then(p, text)
		}
	}
	if !tp.later(p, requestLane, func() time.Duration { return tp.honour }, do) {
		do()
	}
}

func (tp *Topics) honoured() func(*Peer, string) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return tp.then
}

// acked is the answer that Ack asks for.
func acked(p *Peer, request string, _ []string) { p.Send("ack:" + request) }

// request changes the table and says how to answer; nil: not at all.
func (tp *Topics) request(p *Peer, text string) (refused []string, answer func(p *Peer, request string, refused []string)) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if answer = tp.answer; answer == nil && tp.ack {
		answer = acked
	}
	if tp.deaf {
		return nil, answer
	}
	text, _, _ = strings.Cut(text, "#")
	on := tp.on[p]
	if on == nil {
		on = make(map[string]struct{})
		tp.on[p] = on
	}
	for topic := range strings.SplitSeq(text[1:], ",") {
		_, is := on[topic]
		switch {
		case topic == "":
			tp.errorLocked(p, "request without a topic", text)
		case text[0] == '+' && is:
			tp.errorLocked(p, "subscribe of what is on", topic)
		case text[0] == '-' && !is:
			tp.errorLocked(p, "unsubscribe of what is not on", topic)
		case text[0] == '=' && !is:
			tp.errorLocked(p, "resubscribe of what is not on", topic)
		case text[0] == '+' && tp.refuse != nil && tp.refuse(p, topic):
			refused = append(refused, topic)
		case text[0] == '+':
			on[topic] = struct{}{}
			tp.log[topic] = append(tp.log[topic], Change{time.Now(), true, p})
			tp.setPeersLocked(topic, with(living(tp.peers[topic]), p))
		case text[0] == '-':
			delete(on, topic)
			tp.log[topic] = append(tp.log[topic], Change{time.Now(), false, p})
			tp.setPeersLocked(topic, without(living(tp.peers[topic]), p))
		}
	}
	tp.most = max(tp.most, len(on))
	return refused, answer
}

func (tp *Topics) errorLocked(p *Peer, what, topic string) {
	tp.errors = append(tp.errors, fmt.Sprintf("conn %d: %s: %q", p.index, what, topic))
}

func (tp *Topics) setPeersLocked(topic string, peers []*Peer) []*Peer {
	if len(peers) == 0 {
		delete(tp.peers, topic)
	} else {
		tp.peers[topic] = peers
	}
	return peers
}

// living returns peers if all of them are live, otherwise those that are.
func living(peers []*Peer) []*Peer {
	if !slices.ContainsFunc(peers, gone) {
		return peers
	}
	return slices.DeleteFunc(slices.Clone(peers), gone)
}

func gone(p *Peer) bool { return p.down.Load() }

func with(peers []*Peer, p *Peer) []*Peer {
	i, _ := slices.BinarySearchFunc(peers, p.index, func(q *Peer, index int) int { return q.index - index })
	return slices.Insert(slices.Clip(peers), i, p)
}

func without(peers []*Peer, p *Peer) []*Peer {
	return slices.DeleteFunc(slices.Clone(peers), func(q *Peer) bool { return q == p })
}
