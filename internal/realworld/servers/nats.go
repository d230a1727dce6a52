package servers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: how does a Handler speak the NATS protocol over WebSocket? acks.go says what PING and PONG prove.

// Subscriber keeps NATS subjects subscribed over as many connections as they need. One subscription is one subject, which
// may have wildcards.
//
// It hands out payloads that lie in Message.Data, so it is not for LowLatencyMode.
type Subscriber struct {
	Manager *wsshard.ShardManager[string]
	Several atomic.Uint64 // frames that completed more than one message
	Split   atomic.Uint64 // frames that left something to the next

	opt Options

	mu     sync.Mutex // protects following fields
	conns  map[connID]*conn
	latest map[int]latest // by shard
}

// Options of a Subscriber.
type Options struct {
	URL     string // ws://host:port or wss://host:port
	Name    string // "name 7" is what the server calls the connection of shard 7
	Config  wsshard.Config
	Receive func(Delivery)               // in order for one shard, concurrent for several
	Removed func(Delivery)               // instead of Receive, for what was received before; nil: none
	Observe func(wsshard.Event[string])  // nil: none
	Lost    func(shard int, cause error) // a connection has ended; nil: none
}

// Delivery is a message that was received.
type Delivery struct {
	Msg
	Shard      int
	Generation uint64
	Shared     bool // its frame held others too
}

var (
	_ wsshard.Handler[string]       = (*Subscriber)(nil)
	_ wsshard.Authenticator         = (*Subscriber)(nil)
	_ wsshard.Unsubscriber[string]  = (*Subscriber)(nil)
	_ wsshard.Inspector[string]     = (*Subscriber)(nil)
	_ wsshard.Acknowledger[string]  = (*Subscriber)(nil)
	_ wsshard.PingMessenger         = (*Subscriber)(nil)
	_ wsshard.DisconnectHandler     = (*Subscriber)(nil)
	_ wsshard.EventObserver[string] = (*Subscriber)(nil)
)

// New returns a Subscriber that is not started: see its Manager.
func New(opt Options) (*Subscriber, error) {
	s := &Subscriber{opt: opt, conns: make(map[connID]*conn), latest: make(map[int]latest)}
	m, err := wsshard.New(s, opt.Config)
	s.Manager = m
	return s, err
}

// connID names a connection. Two of one shard live during a switchover.
type connID struct {
	shard      int
	generation uint64
}

func (s *Subscriber) conn(st wsshard.ConnectionState) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[connID{st.ShardID, st.Generation}]
}

func (s *Subscriber) URL(context.Context, wsshard.ConnectionState) (string, error) {
	return s.opt.URL, nil
}

// Login waits for the server's INFO and introduces itself. The PONG shows that the server agreed.
func (s *Subscriber) Login(ctx context.Context, lc wsshard.LoginConn, st wsshard.ConnectionState) error {
	c := &conn{}
	if err := c.readUntil(ctx, lc, func(f *frame) bool { return f.info != nil }); err != nil {
		return err
	}
	const connect = `CONNECT {"verbose":false,"pedantic":false,"protocol":1,"lang":"go","version":"0","name":"%s %d"}` + "\r\nPING\r\n"
	if err := lc.Write(ctx, wsshard.Text(fmt.Sprintf(connect, s.opt.Name, st.ShardID))); err != nil {
		return err
	}
	if err := c.readUntil(ctx, lc, func(f *frame) bool { return f.pongs > 0 }); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[connID{st.ShardID, st.Generation}] = c
	return nil
}

// OnDisconnect forgets the connection.
func (s *Subscriber) OnDisconnect(_ context.Context, cause error, st wsshard.ConnectionState) {
	s.mu.Lock()
	delete(s.conns, connID{st.ShardID, st.Generation})
	s.mu.Unlock()
	if s.opt.Lost != nil {
		s.opt.Lost(st.ShardID, cause)
	}
}

// SubscriptionMessage asks for all subjects in one frame. The PING behind them is answered when the server has taken them.
// The subject serves as subscription id too: asking twice then changes nothing.
func (s *Subscriber) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	var b strings.Builder
	for _, subject := range req.Subs {
		if err := checkSubject(subject); err != nil {
			return wsshard.Message{}, err
		}
		fmt.Fprintf(&b, "SUB %s %s\r\n", subject, subject)
	}
	b.WriteString("PING\r\n")
	s.conn(req.State).ask(question{request: req.ID, subjects: slices.Clone(req.Subs)})
	return wsshard.Text(b.String()), nil
}

// UnsubscriptionMessage needs no answer: what still comes for a subject is for the application to ignore.
func (s *Subscriber) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	var b strings.Builder
	for _, subject := range req.Subs {
		fmt.Fprintf(&b, "UNSUB %s\r\n", subject)
	}
	return wsshard.Text(b.String()), nil
}

// checkSubject refuses what would break the line, or what the server would refuse without saying which.
func checkSubject(subject string) error {
	if strings.ContainsAny(subject, " \t\r\n\x00") || slices.Contains(strings.Split(subject, "."), "") {
		return fmt.Errorf("nats: %.100q is no subject", subject)
	}
	return nil
}

// PingMessage asks the server itself, where a ping frame would ask its WebSocket layer.
func (s *Subscriber) PingMessage(st wsshard.ConnectionState) wsshard.Message {
	s.conn(st).ask(question{})
	return wsshard.Text("PING\r\n")
}

// Inspect sees each frame of a connection once and in order, held ones too: so this is where lines are put together.
func (s *Subscriber) Inspect(msg wsshard.Message, st wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	c := s.conn(st)
	f, err := c.feed(msg.Data)
	v.Value = f
	if err != nil { // nothing that follows can be understood
		s.Manager.Reconnect(st.ShardID)
		v.NoData = true
		return v
	}
	if f.pings > 0 {
		v.Reply = wsshard.Text(strings.Repeat("PONG\r\n", f.pings))
	}
	v.Switchover = f.info != nil && f.info.LameDuck
	control := f.pings > 0 || f.pongs > 0 || f.info != nil || len(f.errs) > 0
	v.NoData = control && len(f.msgs) == 0
	v.Heartbeat = v.NoData && len(f.answered) == 0 && len(f.errs) == 0
	for _, m := range f.msgs {
		v.Subs = append(v.Subs, m.SID)
	}
	if len(f.msgs) == 1 {
		v.Key = f.msgs[0].key()
	}
	if len(f.msgs) > 1 {
		s.Several.Add(1)
	}
	if len(c.parser.rest) > 0 {
		s.Split.Add(1)
	}
	return v
}

// Acknowledge says what the frame answers.
func (s *Subscriber) Acknowledge(msg wsshard.Message, st wsshard.ConnectionState) (wsshard.Ack[string], bool) {
	return s.conn(st).acknowledge(msg.Value.(*frame))
}

// OnMessage hands out what the frame has completed, less what was handed out before: see repeats.go.
func (s *Subscriber) OnMessage(_ context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	f, seen := msg.Value.(*frame), s.latestOf(st.ShardID)
	for _, m := range f.msgs {
		d := Delivery{Msg: m, Shard: st.ShardID, Generation: st.Generation, Shared: len(f.msgs) > 1}
		if seen.again(m) {
			if s.opt.Removed != nil {
				s.opt.Removed(d)
			}
			continue
		}
		s.opt.Receive(d)
	}
}

func (s *Subscriber) OnEvent(ev wsshard.Event[string]) {
	if s.opt.Observe != nil {
		s.opt.Observe(ev)
	}
}

// readUntil reads during the login.
func (c *conn) readUntil(ctx context.Context, lc wsshard.LoginConn, done func(*frame) bool) error {
	for {
		msg, err := lc.Read(ctx)
		if err != nil {
			return err
		}
		f, err := c.parser.feed(msg.Data)
		switch {
		case err != nil:
			return err
		case len(f.errs) > 0:
			return errors.New("nats: " + f.errs[0])
		}
		for range f.pings {
			if err := lc.Write(ctx, wsshard.Text("PONG\r\n")); err != nil {
				return err
			}
		}
		if done(f) {
			return nil
		}
	}
}
