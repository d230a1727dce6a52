package wstest_test

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

func TestTopics(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		tp := wstest.NewTopics(s)
		wantAll := func(want map[string]int) {
			t.Helper()
			synctest.Wait()
			if got := tp.All(); !maps.Equal(got, want) {
				t.Fatalf("All = %v, want %v", got, want)
			}
		}
		a := connect(t, n)
		b := connect(t, n)
		p, q := s.Conn(0), s.Conn(1)
		b.say(t, "+c,b")
		synctest.Wait()
		a.say(t, "+b,a", "=a")
		wantAll(map[string]int{"a": 1, "b": 2, "c": 1})
		wantList(t, "On", tp.On(p), "a", "b")
		wantList(t, "On", tp.On(q), "b", "c")
		want(t, "Max", tp.Max(), 2)

		want(t, "b", tp.Publish("b", "1"), 2)
		want(t, "c", tp.Publish("c", "2:3"), 1)
		want(t, "nobody", tp.Publish("d", "4"), 0)
		a.wantText(t, "b:1")
		b.wantText(t, "b:1")
		b.wantText(t, "c:2:3")

		a.say(t, "-b", "heartbeat", "", "{}")
		wantAll(map[string]int{"a": 1, "b": 1, "c": 1})
		b.say(t, "-b", "+d,e,f")
		wantAll(map[string]int{"a": 1, "c": 1, "d": 1, "e": 1, "f": 1})
		wantList(t, "Errors", tp.Errors())
		want(t, "Max", tp.Max(), 4)

		q.Kill()
		wantAll(map[string]int{"a": 1})
		wantList(t, "On", tp.On(q), "c", "d", "e", "f")
		want(t, "c", tp.Publish("c", "5"), 0)
		c := connect(t, n)
		c.say(t, "+a,c")
		wantAll(map[string]int{"a": 2, "c": 1})
		want(t, "a", tp.Publish("a", "6"), 2)
		s.Down()
		wantAll(map[string]int{})
	})
}

func TestTopicsErrors(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		tp := wstest.NewTopics(s)
		connect(t, n).say(t, "+a,b", "+b,c", "-d", "=d", "+", "-a,a", "+x,x")
		b := connect(t, n)
		synctest.Wait()
		b.say(t, "-c")
		b.WriteMessage(websocket.BinaryMessage, []byte("+z"))
		synctest.Wait()
		wantList(t, "Errors", tp.Errors(),
			`conn 0: subscribe of what is on: "b"`,
			`conn 0: unsubscribe of what is not on: "d"`,
			`conn 0: resubscribe of what is not on: "d"`,
			`conn 0: request without a topic: "+"`,
			`conn 0: unsubscribe of what is not on: "a"`,
			`conn 0: subscribe of what is on: "x"`,
			`conn 1: unsubscribe of what is not on: "c"`)
		wantList(t, "On", tp.On(s.Conn(0)), "b", "c", "x")
	})
}

func TestTopicsAck(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		tp := wstest.NewTopics(s)
		c := connect(t, n)
		c.say(t, "+quiet")
		synctest.Wait()
		tp.Ack(true)
		c.say(t, "+a,b", "=a", "-b", "other")
		c.wantText(t, "ack:+a,b")
		c.wantText(t, "ack:=a")
		c.wantText(t, "ack:-b")
		synctest.Wait()
		tp.Ack(false)
		c.say(t, "-a")
		synctest.Wait()
		want(t, "unread", len(c.texts), 0)
	})
}

// Peers come and go while others publish.
// What a hook publishes when a request was honoured comes right behind the answer, also where there is none.
func TestTopicsHonoured(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		tp := wstest.NewTopics(s)
		tp.Honoured(func(p *wstest.Peer, text string) { p.Send("after " + text) })
		c := connect(t, n)
		c.say(t, "+quiet", "no request")
		c.wantText(t, "after +quiet")
		tp.Ack(true)
		c.say(t, "+a")
		c.wantText(t, "ack:+a")
		c.wantText(t, "after +a")
		tp.Honoured(nil)
		c.say(t, "-a")
		c.wantText(t, "ack:-a")
		synctest.Wait()
		want(t, "unread", len(c.texts), 0)
	})
}

func TestTopicsRace(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		tp := wstest.NewTopics(s)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				for range 5 {
					ws, _, err := dialer(n).Dial("ws://"+addr, nil)
					if err != nil {
						t.Error(err)
						return
					}
					ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, "+all,own%d", i))
					time.Sleep(time.Duration(1+i) * time.Millisecond)
					ws.Close()
				}
			})
			wg.Go(func() {
				for range 100 {
					tp.Publish("all", "x")
					tp.All()
					time.Sleep(time.Millisecond / 2)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if all := tp.All(); len(all) != 0 {
			t.Fatalf("All = %v", all)
		}
		wantList(t, "Errors", tp.Errors())
	})
}

func BenchmarkPublish(b *testing.B) {
	for _, conns := range []int{1, 100} {
		b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
			n := wstest.NewNet()
			s := wstest.NewServer(b, n, addr)
			tp := wstest.NewTopics(s)
			var wg sync.WaitGroup
			for range conns {
				ws, _, err := dialer(n).Dial("ws://"+addr, nil)
				if err != nil {
					b.Fatal(err)
				}
				ws.WriteMessage(websocket.TextMessage, []byte("+t"))
				b.Cleanup(func() { ws.Close() })
				wg.Go(func() {
					for range b.N {
						if _, _, err := ws.NextReader(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			for tp.All()["t"] < conns {
				time.Sleep(time.Millisecond)
			}
			payload := strings.Repeat("p", 100)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				tp.Publish("t", payload)
			}
			wg.Wait()
		})
	}
}

// A feed that lags honours each request so long after it came, in order, and what waits for a connection that ends is lost.
func TestTopicsLag(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		tp := wstest.NewTopics(s)
		tp.Ack(true)
		tp.Lag(time.Second, func(p *wstest.Peer) time.Duration { return time.Duration(p.Index()) * 300 * time.Millisecond })
		a, b := connect(t, n), connect(t, n)
		begin := time.Now()
		for _, c := range []*client{a, b} {
			c.say(t, "+x")
			c.say(t, "-x")
			c.say(t, "+x")
		}
		time.Sleep(999 * time.Millisecond)
		synctest.Wait()
		want(t, "changes before their time", len(tp.Changes("x")), 0)
		for _, text := range []string{"ack:+x", "ack:-x", "ack:+x"} {
			a.wantText(t, text)
			b.wantText(t, text)
		}
		want(t, "the answers' time", time.Since(begin), time.Second)
		want(t, "changes", len(tp.Changes("x")), 6)
		want(t, "sent", tp.Publish("x", "1"), 2)
		a.wantText(t, "x:1")
		want(t, "the first one's time", time.Since(begin), time.Second)
		b.wantText(t, "x:1")
		want(t, "the second one's time", time.Since(begin), 1300*time.Millisecond)
		tp.Publish("x", "2")
		s.Conn(1).Kill()
		a.wantText(t, "x:2")
		time.Sleep(time.Second)
		want(t, "sent after one is gone", tp.Publish("x", "3"), 1)
	})
}

// What is refused is not subscribed to, whoever answers hears of it, and what is no request goes to Other.
func TestTopicsAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, n *wstest.Net) {
		s := wstest.NewServer(t, n, addr)
		tp := wstest.NewTopics(s)
		tp.Refuse(func(_ *wstest.Peer, topic string) bool { return topic == "b" })
		tp.Answer(func(p *wstest.Peer, request string, refused []string) { p.Send(fmt.Sprint(request, " but ", refused)) })
		tp.Other(func(p *wstest.Peer, text string) { p.Send("what is " + text) })
		c := connect(t, n)
		c.say(t, "+a,b#7")
		c.wantText(t, "+a,b#7 but [b]")
		want(t, "topics", fmt.Sprint(tp.On(s.Conn(0))), "[a]")
		c.say(t, "hello")
		c.wantText(t, "what is hello")
	})
}
