package lifecycle

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what does Login see, and what if it fails?

// TestLoginComesFirst: nothing is written before it has its replies, what it reads goes nowhere else, and what comes after it
// is delivered.
func TestLoginComesFirst(t *testing.T) {
	login := func(ctx context.Context, conn wsshard.LoginConn, st wsshard.ConnectionState) error {
		if st.Generation != 1 || st.ShardID != 0 || st.SubscriptionCount != 1 {
			t.Errorf("state %+v", st)
		}
		challenge, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		if challenge.Type != wsshard.BinaryMessage || challenge.String() != "\x00\xff" {
			t.Errorf("read %v %q", challenge.Type, challenge)
		}
		if err := conn.Write(ctx, wsshard.Binary([]byte("answer"))); err != nil {
			return err
		}
		welcome, err := conn.Read(ctx)
		if welcome.Type != wsshard.TextMessage || welcome.String() != "welcome" {
			t.Errorf("read %v %q, %v", welcome.Type, welcome, err)
		}
		if challenge.String() != "\x00\xff" {
			t.Errorf("the first message is %q after the second was read", challenge)
		}
		return err
	}
	harness.LoginWorld(t, wsshard.Config{}, login, func(w *harness.World) {
		w.App.Connect = func(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
			return []wsshard.Message{wsshard.Text("hello")}, nil
		}
		w.Subscribe("a")
		w.M.Start(context.Background())
		p := w.Srv.Conn(0)
		harness.After(time.Second)
		if got := p.Got(); len(got) != 0 || w.M.Metrics().Connections != 0 {
			t.Errorf("before the challenge the server got %q; %d connections", got, w.M.Metrics().Connections)
		}
		p.SendBinary([]byte("\x00\xff"))
		harness.After(time.Second)
		if got := p.Got(); !slices.Equal(got, []string{"answer"}) {
			t.Errorf("before the welcome the server got %q", got)
		}
		p.Send("welcome")
		p.Send("news")
		harness.After(0)
		if got := p.Got(); !slices.Equal(got, []string{"hello", "+a"}) {
			t.Errorf("then the server got %q", got)
		}
		w.WantGot("news")
	})
}

// TestPingsDuringLogin: a server that pings while it makes up its mind gets its pongs.
func TestPingsDuringLogin(t *testing.T) {
	login := func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
		_, err := conn.Read(ctx)
		return err
	}
	harness.LoginWorld(t, wsshard.Config{}, login, func(w *harness.World) {
		w.M.Start(context.Background())
		p := w.Srv.Conn(0)
		for i := range 3 {
			begin := time.Now()
			p.Ping(string(rune('a' + i)))
			harness.After(0)
			if f := last(p); f.Kind != wstest.KindPong || f.Text != string(rune('a'+i)) || !f.At.Equal(begin) {
				t.Fatalf("ping %d: the last frame is %+v", i, f)
			}
			harness.After(time.Second)
		}
		for range 1000 { // a flood is not answered one by one
			p.Ping("flood")
		}
		harness.After(0)
		if n := len(p.FrameLog()); n > 5 {
			t.Errorf("%d frames", n)
		}
		harness.After(time.Second)
		p.Send("welcome")
		w.Sync()
		harness.After(time.Second)
		if f := last(p); f.Kind != wstest.KindPong || f.Text != "flood" {
			t.Errorf("the flood's last ping was not answered: %+v", f)
		}
	})
}

// last is the last frame that a peer received.
func last(p *wstest.Peer) wstest.Frame {
	log := p.FrameLog()
	if len(log) == 0 {
		return wstest.Frame{}
	}
	return log[len(log)-1]
}

// TestLoginThatFails is a failed attempt: no connection was opened.
func TestLoginThatFails(t *testing.T) {
	reason := errors.New("wrong password")
	attempts := 0
	login := func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
		if attempts++; attempts == 1 {
			return reason
		}
		return nil
	}
	harness.LoginWorld(t, wsshard.Config{}, login, func(w *harness.World) {
		var heard []error
		w.App.Judge = func(err error) bool { heard = append(heard, err); return true }
		w.Start("a")
		w.WantTopics("a")
		var de *wsshard.DialError
		if len(heard) != 1 || !errors.As(heard[0], &de) || !errors.Is(heard[0], reason) || de.URL != "ws://srv/…" || de.Attempt != 1 {
			t.Errorf("OnError heard %v", heard)
		}
		if m := w.M.Metrics(); m.Connections != 1 || m.Reconnections != 0 || m.Shards[0].Generation != 1 || m.Errors != 1 {
			t.Errorf("%+v", m)
		}
		w.WantCauses()
		if w.Net.Open() != 1 {
			t.Errorf("%d sockets are open", w.Net.Open())
		}
	})
}

// TestLoginIsTimed: with the rest of the attempt it has ConnectTimeout, whatever it waits for.
func TestLoginIsTimed(t *testing.T) {
	for name, login := range map[string]harness.LoginFunc{
		"a read": func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
			_, err := conn.Read(context.Background())
			return err
		},
		"a read that heeds ctx": func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
			_, err := conn.Read(ctx)
			return err
		},
		"its context": func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
			<-ctx.Done()
			return nil // it says all is well, too late
		},
		"a write": func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
			return conn.Write(ctx, wsshard.Text(strings.Repeat("x", 1<<20)))
		},
		"the pace": func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
			for {
				if err := conn.Write(ctx, wsshard.Text("x")); err != nil {
					return err
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := wsshard.Config{
				Connection: wsshard.ConnectionConfig{ConnectTimeout: 3 * time.Second, WriteTimeout: time.Hour},
				Subscribe:  wsshard.SubscribeConfig{MessagesPerWindow: 5, Window: time.Hour},
			}
			harness.LoginWorld(t, cfg, login, func(w *harness.World) {
				w.Srv.OnOpen(func(p *wstest.Peer) {
					if name == "a write" {
						p.Net().(*wstest.Conn).StallRead(true)
					}
				})
				heard := make(chan error, 9)
				w.App.Judge = func(err error) bool { heard <- err; return false }
				w.M.Start(context.Background())
				harness.After(3*time.Second - 1)
				if len(heard) != 0 || w.Net.Open() != 1 {
					t.Errorf("too early: %d errors, %d sockets", len(heard), w.Net.Open())
				}
				harness.After(1)
				if err := <-heard; !errors.Is(err, context.DeadlineExceeded) || w.Net.Open() != 0 {
					t.Errorf("%v, %d sockets", err, w.Net.Open())
				}
			})
		})
	}
}

// TestLoginContexts: a context given to Read or Write that ends, ends the call with its cause, and the connection.
func TestLoginContexts(t *testing.T) {
	enough := errors.New("enough")
	for name, use := range map[string]func(ctx context.Context, conn wsshard.LoginConn) error{
		"read":  func(ctx context.Context, conn wsshard.LoginConn) error { _, err := conn.Read(ctx); return err },
		"write": func(ctx context.Context, conn wsshard.LoginConn) error { return conn.Write(ctx, wsshard.Text("x")) },
	} {
		cfg := wsshard.Config{Subscribe: wsshard.SubscribeConfig{MessagesPerWindow: 1, Window: time.Hour}}
		login := func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
			conn.Write(ctx, wsshard.Text("first"))
			part, cancel := context.WithTimeoutCause(ctx, time.Second, enough)
			defer cancel()
			begin := time.Now()
			err := use(part, conn)
			if !errors.Is(err, enough) || time.Since(begin) != time.Second {
				t.Errorf("%s: %v after %v", name, err, time.Since(begin))
			}
			return err
		}
		harness.LoginWorld(t, cfg, login, func(w *harness.World) {
			w.App.Judge = func(err error) bool {
				if !errors.Is(err, enough) {
					t.Errorf("%s: OnError heard %v", name, err)
				}
				return false
			}
			w.M.Start(context.Background())
			harness.After(2 * time.Second)
			if w.Net.Open() != 0 {
				t.Errorf("%s: %d sockets are open", name, w.Net.Open())
			}
		})
	}
}

// TestLoginThatCameTooLate: a Login that succeeded has opened the connection, so OnDisconnect follows, once, even where Stop came
// first or the time was up.
func TestLoginThatCameTooLate(t *testing.T) {
	for name, tc := range map[string]struct {
		late func(w *harness.World, ctx context.Context)
		want error
	}{
		"Stop":           {func(w *harness.World, _ context.Context) { w.M.Stop(context.Background()) }, wsshard.ErrStopped},
		"ConnectTimeout": {func(_ *harness.World, ctx context.Context) { <-ctx.Done() }, context.DeadlineExceeded},
	} {
		var w *harness.World
		login := func(ctx context.Context, _ wsshard.LoginConn, _ wsshard.ConnectionState) error {
			tc.late(w, ctx)
			return nil
		}
		harness.LoginWorld(t, wsshard.Config{}, login, func(made *harness.World) {
			w = made
			w.App.Judge = func(error) bool { return false }
			w.App.Connect = func(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
				t.Errorf("%s: OnConnect was called", name)
				return nil, nil
			}
			w.M.Start(context.Background())
			harness.After(time.Minute)
			w.WantCauses(tc.want)
			if n := w.M.Metrics().Connections; n != 1 || w.Net.Open() != 0 {
				t.Errorf("%s: %d connections were opened, %d sockets are", name, n, w.Net.Open())
			}
		})
	}
}

// TestLoginHearsWhy: how the server ended the connection, as OnDisconnect would.
func TestLoginHearsWhy(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(p *wstest.Peer)
		want func(err error) bool
	}{
		"close": {func(p *wstest.Peer) { p.Close(4001, "not you") }, func(err error) bool {
			var ce *wsshard.CloseError
			return errors.As(err, &ce) && ce.Code == 4001 && ce.Text == "not you" && !ce.Local
		}},
		"EOF": {(*wstest.Peer).Kill, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"violation": {func(p *wstest.Peer) { p.Send("\xff") }, func(err error) bool {
			var ce *wsshard.CloseError
			return errors.As(err, &ce) && ce.Code == 1007 && ce.Local
		}},
	} {
		var heard error
		login := func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
			_, heard = conn.Read(ctx)
			return heard
		}
		harness.LoginWorld(t, wsshard.Config{}, login, func(w *harness.World) {
			w.App.Judge = func(error) bool { return false }
			w.M.Start(context.Background())
			tc.end(w.Srv.Conn(0))
			harness.After(time.Second)
			if err := w.M.Metrics().Shards[0].LastError; !tc.want(heard) || !tc.want(err) {
				t.Errorf("%s: Read said %v, the shard says %v", name, heard, err)
			}
		})
	}
}

// TestLoginWriteFails: what cannot be written is an error, though the context lives.
func TestLoginWriteFails(t *testing.T) {
	var failed error
	login := func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
		conn.Read(ctx) // until the server is gone
		failed = conn.Write(ctx, wsshard.Text("anybody there?"))
		return nil
	}
	harness.LoginWorld(t, wsshard.Config{}, login, func(w *harness.World) {
		w.App.Judge = func(error) bool { return false }
		w.M.Start(context.Background())
		w.Srv.Conn(0).Kill()
		harness.After(time.Second)
		if failed == nil {
			t.Error("it was written to nobody")
		}
	})
}

// TestLoginIsPaced: what Login writes is charged, and what follows it waits.
func TestLoginIsPaced(t *testing.T) {
	cfg := wsshard.Config{Subscribe: wsshard.SubscribeConfig{MessagesPerWindow: 3, Window: 10 * time.Second, MaxPerMessage: 1}}
	login := func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
		return errors.Join(conn.Write(ctx, wsshard.Text("one")), conn.Write(ctx, wsshard.Text("two")))
	}
	harness.LoginWorld(t, cfg, login, func(w *harness.World) {
		begin := time.Now()
		w.Start("a", "b")
		harness.After(0)
		var at []time.Duration
		for _, f := range w.Srv.Conn(0).FrameLog() {
			at = append(at, f.At.Sub(begin))
		}
		if want := []time.Duration{0, 0, 11 * time.Second, 11 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("frames at %v, want %v", at, want)
		}
	})
}

// TestLoginRefusesMessages: what cannot be sent is an error, and costs nothing else.
func TestLoginRefusesMessages(t *testing.T) {
	login := func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
		for _, msg := range []wsshard.Message{{}, wsshard.Text("\xff"), {Type: 7, Data: []byte("x")}} {
			if err := conn.Write(ctx, msg); !errors.Is(err, wsshard.ErrInvalidMessage) {
				t.Errorf("Write of %v %q: %v", msg.Type, msg.Data, err)
			}
		}
		return nil
	}
	harness.LoginWorld(t, wsshard.Config{}, login, func(w *harness.World) { w.Start("a"); w.WantTopics("a") })
}

// TestLoginConnAfterLogin: it is not the connection any more, which has another reader and writer now.
func TestLoginConnAfterLogin(t *testing.T) {
	var kept wsshard.LoginConn
	login := func(_ context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
		kept = conn
		return nil
	}
	harness.LoginWorld(t, wsshard.Config{}, login, func(w *harness.World) {
		w.Start("a")
		w.WantTopics("a")
		if err := kept.Write(context.Background(), wsshard.Text("late")); err == nil {
			t.Error("Write after Login")
		}
		if _, err := kept.Read(context.Background()); err == nil {
			t.Error("Read after Login")
		}
		w.Topics.Publish("a", "1")
		w.WantGot("a:1")
		if got := w.Srv.Conn(0).Got(); !slices.Equal(got, []string{"+a"}) {
			t.Errorf("the server got %q", got)
		}
	})
}

// A write of Login that is stuck ends with its own ctx, and not with WriteTimeout.
func TestLoginWriteEndsWithItsContext(t *testing.T) {
	cfg := harness.DialsOnly()
	cfg.Connection.WriteTimeout = 5 * time.Second
	var took time.Duration
	var err error
	login := func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
		ctx, cancel := context.WithTimeoutCause(ctx, time.Second, harness.ErrTest)
		defer cancel()
		begin := time.Now()
		for err == nil {
			err = conn.Write(ctx, wsshard.Text(strings.Repeat("x", 1<<10)))
		}
		took = time.Since(begin)
		return err
	}
	harness.LoginWorld(t, cfg, login, func(w *harness.World) {
		w.Net.SetBuffer(1 << 12)
		w.App.Addr = "ws://deaf/"
		w.App.Judge = func(error) bool { return false }
		w.ServeRaw("deaf:80", nil, func(c *harness.RawConn) {
			c.Say(c.Switching())
			time.Sleep(time.Minute) // and reads nothing
		})
		w.Begin("a")
		harness.After(20 * time.Second)
		if took != time.Second || !errors.Is(err, harness.ErrTest) {
			t.Errorf("after %v: %v", took, err)
		}
	})
}
