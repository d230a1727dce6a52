package subscriptions

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: does the server ever measure more than the pace allows?

// talker is an app that writes whatever a connection can be made to write.
type talker struct{ *harness.App }

func (talker) Login(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
	for _, word := range []string{"user", "password"} {
		if err := conn.Write(ctx, wsshard.Text(word)); err != nil {
			return err
		}
	}
	_, err := conn.Read(ctx)
	return err
}

func (talker) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	if msg.String() == "question" {
		v.Heartbeat, v.Reply = true, wsshard.Text("answer")
	}
	return v
}

// wantPace checks that the server received at most n frames of any kind in any window, from each connection. The close
// frame does not count: none follows.
func wantPace(w *harness.World, n int, window time.Duration) {
	w.T.Helper()
	for i := range w.Srv.Conns() {
		log := slices.DeleteFunc(w.Srv.Conn(i).FrameLog(), func(f wstest.Frame) bool { return f.Kind == wstest.KindClose })
		for j := n; j < len(log); j++ {
			if d := log[j].At.Sub(log[j-n].At); d < window {
				w.T.Errorf("connection %d: frames %d to %d within %v", i, j-n, j, d)
				break
			}
		}
	}
}

// The limit holds as the server measures it, whoever writes, and while the network's latency varies.
func TestPaceAsTheServerMeasuresIt(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 20} {
		for _, window := range []time.Duration{time.Second, 3 * time.Second} {
			t.Run(fmt.Sprintf("%d in %v", n, window), func(t *testing.T) {
				cfg := wsshard.Config{
					MaxSubscriptionsPerShard: -1,
					Subscribe:                wsshard.SubscribeConfig{MaxPerMessage: 40, MessagesPerWindow: n, Window: window},
					Health:                   wsshard.HealthConfig{PingInterval: 10 * window, PongTimeout: -1, DataTimeout: -1},
					Connection:               wsshard.ConnectionConfig{ConnectTimeout: time.Minute, ProactiveReconnectInterval: -1},
				}
				harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] { return talker{a} }, func(w *harness.World) {
					w.App.Connect = func(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
						return []wsshard.Message{wsshard.Text("first"), wsshard.Text("second"), wsshard.Text("third")}, nil
					}
					w.Net.SetLatency(20 * time.Millisecond)
					w.Srv.OnOpen(func(p *wstest.Peer) {
						p.Send("welcome")
						go whileLive(window/3, p, func(i int) { // more often than a small limit can answer
							p.Ping(fmt.Sprint(i))
							if i%40 == 0 {
								p.Send("question")
							}
						})
					})
					ctx, cancel := context.WithCancel(context.Background())
					defer cancel()
					go jitter(w, ctx, window/10)
					topics := harness.Numbered(1000)
					w.Subscribe(topics...)
					if err := w.M.Start(context.Background()); err != nil {
						t.Fatal(err)
					}
					begin := time.Now()
					w.Sync()
					if took := time.Since(begin); took > 200*window {
						t.Errorf("Sync took %v", took)
					}
					for i := range 5 {
						if err := w.M.Send(context.Background(), 0, wsshard.Text(fmt.Sprint("sent ", i))); err != nil {
							t.Error(err)
						}
					}
					harness.After(window)
					w.Srv.Conn(0).Kill() // the next connection has a window of its own
					harness.After(time.Second)
					w.Sync()
					cancel()
					harness.After(window)
					w.WantTopics(topics...)
					wantPace(w, n, window)
					wantSaid(w, 0, "user", "password", "first", "second", "third", "answer", "sent 4")
				})
			})
		}
	}
}

// whileLive does something again and again while a connection lives.
func whileLive(d time.Duration, p *wstest.Peer, do func(i int)) {
	for i := 0; ; i++ {
		select {
		case <-p.Gone():
			return
		case <-time.After(d):
		}
		do(i)
	}
}

// jitter delays what the client sends by up to most, again and again.
func jitter(w *harness.World, ctx context.Context, most time.Duration) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for ctx.Err() == nil {
		for _, c := range w.Net.Conns() {
			c.StallWrite(true)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(most))))
		for _, c := range w.Net.Conns() {
			c.StallWrite(false)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(most))))
	}
}

// wantSaid checks that a connection received these messages, among others, in this order.
func wantSaid(w *harness.World, conn int, want ...string) {
	w.T.Helper()
	got := w.Srv.Conn(conn).FrameLog()
	for _, f := range got {
		if len(want) > 0 && f.Kind == wstest.KindData && f.Text == want[0] {
			want = want[1:]
		}
	}
	if len(want) > 0 {
		w.T.Errorf("connection %d never said %q", conn, want)
	}
}

// script writes what the server received as "0s data +a, 1.1s ping".
func script(begin time.Time, p *wstest.Peer) string {
	var words []string
	for _, f := range p.FrameLog() {
		word := fmt.Sprint(f.At.Sub(begin), " ", f.Kind)
		if f.Kind == wstest.KindData {
			word = fmt.Sprint(f.At.Sub(begin), " ", f.Text)
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// Each kind of frame takes a place of the window, and the last place is for a pong.
func TestPaceCharges(t *testing.T) {
	nothing := func(*wstest.Peer) {}
	for _, c := range []struct {
		name   string
		n      int
		before func(p *wstest.Peer) // what the server does before the topics are wanted
		after  func(p *wstest.Peer) // and half a second later
		want   string
	}{
		{"one", 1, nothing, nothing, "0s +a, 1.1s +b, 2.2s +c"},
		{"two", 2, nothing, nothing, "0s +a, 1.1s +b, 2.2s +c"},
		{"three", 3, nothing, nothing, "0s +a, 0s +b, 1.1s +c"},
		{"enough", 4, nothing, nothing, "0s +a, 0s +b, 0s +c"},
		{"reply", 3, func(p *wstest.Peer) { p.Send("question") }, nothing, "0s answer, 0s +a, 1.1s +b, 1.1s +c"},
		{"pong", 3, func(p *wstest.Peer) { p.Ping("") }, nothing, "0s pong, 0s +a, 0s +b, 1.1s +c"},
		{"pong in the last place", 2, nothing, func(p *wstest.Peer) { p.Ping("") }, "0s +a, 500ms pong, 1.1s +b, 2.2s +c"},
		{"pong in the only place", 1, nothing, func(p *wstest.Peer) { p.Ping("") }, "0s +a, 1.1s pong, 2.2s +b, 3.3s +c"},
		{"pongs in turns", 1, func(p *wstest.Peer) { p.Ping("") }, func(p *wstest.Peer) { p.Ping("") }, "0s pong, 1.1s +a, 2.2s pong, 3.3s +b, 4.4s +c"},
		{"pongs in places that nobody wants", 4, func(p *wstest.Peer) { p.Ping("") }, func(p *wstest.Peer) { p.Ping("") }, "0s pong, 0s +a, 0s +b, 0s +c, 1.1s pong"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := wsshard.Config{
				Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: c.n},
				Health:    wsshard.HealthConfig{PingInterval: -1, DataTimeout: -1},
			}
			harness.Bubble(t, cfg, answering, func(w *harness.World) {
				w.Start()
				harness.After(time.Minute)
				begin := time.Now()
				c.before(w.Srv.Conn(0))
				synctest.Wait()
				w.Subscribe("a", "b", "c")
				harness.After(500 * time.Millisecond)
				c.after(w.Srv.Conn(0))
				w.Sync()
				harness.After(10 * time.Second)
				if got := script(begin, w.Srv.Conn(0)); got != c.want {
					t.Errorf("server received %s\nwant %s", got, c.want)
				}
			})
		})
	}
}

// answering has questions answered.
func answering(a *harness.App) wsshard.Handler[string] {
	return struct {
		wsshard.Handler[string]
		wsshard.ConnectHandler
		wsshard.Inspector[string]
	}{a, a, talker{a}}
}

// So do the messages of OnConnect and our own pings.
func TestPaceChargesOurOwn(t *testing.T) {
	cfg := wsshard.Config{
		Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 3},
		Health:    wsshard.HealthConfig{PingInterval: 5 * time.Second, PongTimeout: -1, DataTimeout: -1},
	}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.App.Connect = func(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
			return []wsshard.Message{wsshard.Text("hello"), {}, wsshard.Text("again"), wsshard.Text("and again")}, nil
		}
		begin := time.Now()
		w.Start("a", "b", "c")
		harness.After(2500 * time.Millisecond)
		w.Subscribe("d", "e", "f", "g")
		harness.After(2 * time.Second)
		want := "0s hello, 0s again, 1.1s and again, 1.1s +a, 2.2s +b, 2.2s +c, 4.7s +d, 4.7s +e, 5.8s ping, 5.8s +f"
		if got := script(begin, w.Srv.Conn(0)); got != want {
			t.Errorf("server received %s\nwant %s", got, want)
		}
	})
}

// A flood of pings must not keep subscriptions from the wire, however small the limit.
func TestPaceUnderPingFlood(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			cfg := wsshard.Config{
				Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: n},
				Health:    wsshard.HealthConfig{DataTimeout: -1},
			}
			harness.Bubble(t, cfg, nil, func(w *harness.World) {
				w.Srv.OnOpen(func(p *wstest.Peer) { go whileLive(10*time.Millisecond, p, func(i int) { p.Ping(fmt.Sprint(i)) }) })
				begin := time.Now()
				w.Start("a", "b", "c", "d", "e", "f", "g", "h", "i", "j")
				if took := time.Since(begin); took > time.Minute {
					t.Errorf("took %v", took)
				}
				wantPace(w, n, time.Second)
				if pongs := strings.Count(script(begin, w.Srv.Conn(0)), "pong"); pongs < 2 {
					t.Errorf("%d pongs while that was written", pongs)
				}
			})
		})
	}
}

// A write that was stuck left when it was over, not when it began.
func TestPaceAfterAStuckWrite(t *testing.T) {
	cfg := wsshard.Config{
		Subscribe: wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 2},
		Health:    wsshard.HealthConfig{PingInterval: -1, DataTimeout: -1},
	}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Net.SetBuffer(1)
		w.Start()
		synctest.Wait()
		w.Net.Conns()[0].StallWrite(true)
		w.Subscribe("a", "b", "c")
		harness.After(4 * time.Second)
		w.Net.Conns()[0].StallWrite(false)
		w.Sync()
		w.WantTopics("a", "b", "c")
		wantPace(w, 1, time.Second)
	})
}
