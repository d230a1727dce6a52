package feed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// patience bounds every wait; none is expected to take long.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	// A goroutine that was joined may still be on its last instructions.
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); code == 0 && n > before {
		buf := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "%d goroutines left:\n%s", n-before, buf[:runtime.Stack(buf, true)])
		code = 1
	}
	os.Exit(code)
}

// start gives a server that ticks only by hand, unless cfg.Rate says otherwise.
func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.Rate == 0 {
		cfg.Rate = -1
	}
	s, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// client is a raw gorilla client that counts for itself, without Tally.
type client struct {
	t    *testing.T
	ws   *websocket.Conn
	seen map[string][]uint64
}

func dial(t *testing.T, s *Server) *client {
	t.Helper()
	ws, _, err := websocket.DefaultDialer.DialContext(t.Context(), s.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	return &client{t, ws, make(map[string][]uint64)}
}

func (c *client) send(r Request) {
	c.t.Helper()
	if err := c.ws.WriteMessage(websocket.TextMessage, r.Encode()); err != nil {
		c.t.Fatal(err)
	}
}

// subscribe returns when the server has answered; what comes before the answer counts.
func (c *client) subscribe(topics ...string) { c.t.Helper(); c.request(Subscribe, topics...) }

func (c *client) request(op string, topics ...string) {
	c.t.Helper()
	c.send(Request{Op: op, ID: 7, Topics: topics})
	for {
		reply, err := c.read()
		if err != nil {
			c.t.Fatal(err)
		}
		if reply.Error != "" {
			c.t.Fatalf("the server answers %q", reply.Error)
		}
		if reply.Ack == 7 {
			return
		}
	}
}

// read counts a tick or returns a reply.
func (c *client) read() (Reply, error) {
	c.t.Helper()
	_, data, err := c.ws.ReadMessage()
	if err != nil {
		return Reply{}, err
	}
	if tick, ok := ParseTick(data); ok {
		topic := string(tick.Topic)
		c.seen[topic] = append(c.seen[topic], tick.N)
		return Reply{}, nil
	}
	reply, ok := ParseReply(data)
	if !ok {
		c.t.Fatalf("received %s", data)
	}
	return reply, nil
}

func (c *client) readTicks(n int) {
	c.t.Helper()
	for want := c.count() + n; c.count() < want; {
		if _, err := c.read(); err != nil {
			c.t.Fatalf("after %d ticks: %v", c.count(), err)
		}
	}
}

// readEnd reads what is left and returns the close code, 1006 for a plain EOF.
func (c *client) readEnd() int {
	c.t.Helper()
	for {
		_, err := c.read()
		var closed *websocket.CloseError
		switch {
		case errors.As(err, &closed):
			_ = c.ws.Close()
			return closed.Code
		case err != nil:
			c.t.Fatalf("not closed in order: %v", err)
		}
	}
}

func (c *client) count() int {
	n := 0
	for _, numbers := range c.seen {
		n += len(numbers)
	}
	return n
}

func (c *client) want(topic string, from, to uint64) {
	c.t.Helper()
	got := c.seen[topic]
	for i, n := range got {
		if n != from+uint64(i) {
			c.t.Fatalf("%s: received %v, want %d to %d", topic, got, from, to)
		}
	}
	if uint64(len(got)) != to-from+1 {
		c.t.Fatalf("%s: received %v, want %d to %d", topic, got, from, to)
	}
}

func finish(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Finish(ctx); err != nil {
		t.Fatalf("Finish: %v", err)
	}
}

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("t%04d", i)
	}
	return all
}

func TestTicks(t *testing.T) {
	s := start(t, Config{})
	a, b := dial(t, s), dial(t, s)
	s.Tick(10) // no topics yet
	a.subscribe("x", "y")
	b.subscribe("y", "y", "z")
	b.subscribe("y") // again: still once
	s.Tick(3 * 5)
	a.readTicks(10)
	b.readTicks(10)
	a.want("x", 1, 5)
	a.want("y", 1, 5)
	b.want("y", 1, 5)
	b.want("z", 1, 5)

	b.request(Unsubscribe, "y", "never heard of")
	s.Tick(3)
	b.readTicks(1)
	b.want("y", 1, 5)
	b.want("z", 1, 6)
	finish(t, s)
	s.Tick(3) // none after Finish

	if s.Sent() != 23 || s.Distinct() != 18 || s.Missed() != 0 {
		t.Errorf("sent %d, distinct %d, missed %d; want 23, 18, 0", s.Sent(), s.Distinct(), s.Missed())
	}
	y := Count{Topic: "y", Number: 6, First: 1, Last: 6, Distinct: 6}
	if got, ok := s.Count("y"); !ok || got != y {
		t.Errorf("Count is %+v, want %+v", got, y)
	}
	if _, ok := s.Count("never heard of"); ok {
		t.Error("a topic exists that nobody subscribed to")
	}
	if all := s.Counts(); len(all) != 3 || all[1] != y {
		t.Errorf("Counts is %+v", all)
	}
	if st := s.Stats(); st != (Stats{Connections: 2, Accepted: 2, Requests: 4}) {
		t.Errorf("Stats is %+v", st)
	}
}

func TestClientCloses(t *testing.T) {
	s := start(t, Config{})
	c := dial(t, s)
	c.subscribe("x")
	s.Tick(100)
	msg := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if err := c.ws.WriteMessage(websocket.CloseMessage, msg); err != nil {
		t.Fatal(err)
	}
	if code := c.readEnd(); code != websocket.CloseNormalClosure {
		t.Errorf("close code %d", code)
	}
	c.want("x", 1, 100) // flushed before the reply
	finish(t, s)
	if s.Sent() != 100 {
		t.Errorf("sent %d", s.Sent())
	}
}

func TestClientVanishes(t *testing.T) {
	s := start(t, Config{})
	c := dial(t, s)
	c.subscribe("x")
	_ = c.ws.Close()
	for deadline := time.Now().Add(patience); s.Stats().Connections > 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("still counted")
		}
	}
	s.Tick(1)
	if s.Sent() != 0 {
		t.Error("sent to nobody")
	}
}

func TestClock(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, Config{Listener: ln, Rate: 20000, PingInterval: time.Millisecond})
	if s.Addr() != ln.Addr().String() {
		t.Errorf("serves %s, not the listener's %s", s.Addr(), ln.Addr())
	}
	c := dial(t, s)
	c.subscribe(names(50)...)
	c.readTicks(5000)
	for s.Stats().Pongs == 0 {
		c.readTicks(1)
	}
	finish(t, s)
	c.readTicks(int(s.Sent()) - c.count())
	if s.Missed() != 0 {
		t.Errorf("missed %d", s.Missed())
	}
	lo, hi := s.Counts()[0].Number, uint64(0)
	for _, count := range s.Counts() {
		c.want(count.Topic, 1, count.Last)
		lo, hi = min(lo, count.Number), max(hi, count.Number)
	}
	if hi-lo > 1 {
		t.Errorf("ticks are not spread evenly: from %d to %d", lo, hi)
	}
}

func TestRefused(t *testing.T) {
	for name, req := range map[string]string{
		"limit": string(Request{Op: Subscribe, ID: 1, Topics: names(4)}.Encode()),
		"op":    `{"op":"shout","id":1}`,
		"json":  `{`,
		"topic": `{"op":"subscribe","id":1,"topics":["a\"b"]}`,
		"empty": `{"op":"subscribe","id":1,"topics":[""]}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, Config{TopicsPerConn: 3})
			c := dial(t, s)
			c.subscribe(names(3)...)
			s.Tick(3)
			if err := c.ws.WriteMessage(websocket.TextMessage, []byte(req)); err != nil {
				t.Fatal(err)
			}
			var reply Reply
			for reply.Error == "" {
				var err error
				if reply, err = c.read(); err != nil {
					t.Fatal(err)
				}
			}
			if code := c.readEnd(); code != websocket.ClosePolicyViolation {
				t.Errorf("close code %d", code)
			}
			if c.count() != 3 {
				t.Errorf("%d ticks, want 3", c.count())
			}
			if st := s.Stats(); st.Refused != 1 || st.Connections != 0 {
				t.Errorf("Stats is %+v", st)
			}
			if d := s.Downs(); len(d) != 1 || d[0].Reason != Refused {
				t.Errorf("Downs is %+v", d)
			}
		})
	}
}

func TestFinishGivesUp(t *testing.T) {
	s := start(t, Config{})
	s.acct.pending.Add(1)
	defer s.acct.pending.Add(-1)
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Finish(ctx) }()
	cancel(why)
	if err := <-done; err != why {
		t.Errorf("Finish: %v", err)
	}
}

func TestStartFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := start(t, Config{})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Restart(0); err != ErrClosed {
		t.Errorf("Restart after Close: %v", err)
	}
	if _, err := net.Dial("tcp", s.Addr()); err == nil {
		t.Error("still listening after Close")
	}
}
