package acceptance

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

type loginFunc = func(ctx context.Context, conn wsshard.LoginConn, st wsshard.ConnectionState) error

// loginWorld is bubble with a Login.
func loginWorld(t *testing.T, cfg wsshard.Config, login loginFunc, script func(w *world)) {
	t.Helper()
	bubble(t, cfg, func(a *app) wsshard.Handler[string] { return &loggingIn{app: a, login: login} }, script)
}

// loggingIn is an app with a Login.
type loggingIn struct {
	*app
	login loginFunc
}

func (l *loggingIn) Login(ctx context.Context, conn wsshard.LoginConn, st wsshard.ConnectionState) error {
	return l.login(ctx, conn, st)
}

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
	loginWorld(t, wsshard.Config{}, login, func(w *world) {
		w.app.onConnect = func(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
			return []wsshard.Message{wsshard.Text("hello")}, nil
		}
		w.subscribe("a")
		w.m.Start(context.Background())
		p := w.srv.Conn(0)
		after(time.Second)
		if got := p.Got(); len(got) != 0 || w.m.Metrics().Connections != 0 {
			t.Errorf("before the challenge the server got %q; %d connections", got, w.m.Metrics().Connections)
		}
		p.SendBinary([]byte("\x00\xff"))
		after(time.Second)
		if got := p.Got(); !slices.Equal(got, []string{"answer"}) {
			t.Errorf("before the welcome the server got %q", got)
		}
		p.Send("welcome")
		p.Send("news")
		after(0)
		if got := p.Got(); !slices.Equal(got, []string{"hello", "+a"}) {
			t.Errorf("then the server got %q", got)
		}
		w.wantGot("news")
	})
}

// TestPingsDuringLogin: a server that pings while it makes up its mind gets its pongs.
func TestPingsDuringLogin(t *testing.T) {
	login := func(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
		_, err := conn.Read(ctx)
		return err
	}
	loginWorld(t, wsshard.Config{}, login, func(w *world) {
		w.m.Start(context.Background())
		p := w.srv.Conn(0)
		for i := range 3 {
			begin := time.Now()
			p.Ping(string(rune('a' + i)))
			after(0)
			if f := last(p); f.Kind != wstest.KindPong || f.Text != string(rune('a'+i)) || !f.At.Equal(begin) {
				t.Fatalf("ping %d: the last frame is %+v", i, f)
			}
			after(time.Second)
		}
		for range 1000 { // a flood is not answered one by one
			p.Ping("flood")
		}
		after(0)
		if n := len(p.FrameLog()); n > 5 {
			t.Errorf("%d frames", n)
		}
		after(time.Second)
		p.Send("welcome")
		w.sync()
		after(time.Second)
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
	loginWorld(t, wsshard.Config{}, login, func(w *world) {
		var heard []error
		w.app.onError = func(err error) bool { heard = append(heard, err); return true }
		w.start("a")
		w.wantTopics("a")
		var de *wsshard.DialError
		if len(heard) != 1 || !errors.As(heard[0], &de) || !errors.Is(heard[0], reason) || de.URL != "ws://srv/…" || de.Attempt != 1 {
			t.Errorf("OnError heard %v", heard)
		}
		if m := w.m.Metrics(); m.Connections != 1 || m.Reconnections != 0 || m.Shards[0].Generation != 1 || m.Errors != 1 {
			t.Errorf("%+v", m)
		}
		w.wantCauses()
		if w.net.Open() != 1 {
			t.Errorf("%d sockets are open", w.net.Open())
		}
	})
}

// TestLoginIsTimed: with the rest of the attempt it has ConnectTimeout, whatever it waits for.
func TestLoginIsTimed(t *testing.T) {
	for name, login := range map[string]loginFunc{
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
			loginWorld(t, cfg, login, func(w *world) {
				w.srv.OnOpen(func(p *wstest.Peer) {
					if name == "a write" {
						p.Net().(*wstest.Conn).StallRead(true)
					}
				})
				heard := make(chan error, 9)
				w.app.onError = func(err error) bool { heard <- err; return false }
				w.m.Start(context.Background())
				after(3*time.Second - 1)
				if len(heard) != 0 || w.net.Open() != 1 {
					t.Errorf("too early: %d errors, %d sockets", len(heard), w.net.Open())
				}
				after(1)
				if err := <-heard; !errors.Is(err, context.DeadlineExceeded) || w.net.Open() != 0 {
					t.Errorf("%v, %d sockets", err, w.net.Open())
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
		loginWorld(t, cfg, login, func(w *world) {
			w.app.onError = func(err error) bool {
				if !errors.Is(err, enough) {
					t.Errorf("%s: OnError heard %v", name, err)
				}
				return false
			}
			w.m.Start(context.Background())
			after(2 * time.Second)
			if w.net.Open() != 0 {
				t.Errorf("%s: %d sockets are open", name, w.net.Open())
			}
		})
	}
}

// TestLoginThatCameTooLate: a Login that succeeded has opened the connection, so OnDisconnect follows, once, even where Stop came
// first or the time was up.
func TestLoginThatCameTooLate(t *testing.T) {
	for name, tc := range map[string]struct {
		late func(w *world, ctx context.Context)
		want error
	}{
		"Stop":           {func(w *world, _ context.Context) { w.m.Stop(context.Background()) }, wsshard.ErrStopped},
		"ConnectTimeout": {func(_ *world, ctx context.Context) { <-ctx.Done() }, context.DeadlineExceeded},
	} {
		var w *world
		login := func(ctx context.Context, _ wsshard.LoginConn, _ wsshard.ConnectionState) error {
			tc.late(w, ctx)
			return nil
		}
		loginWorld(t, wsshard.Config{}, login, func(made *world) {
			w = made
			w.app.onError = func(error) bool { return false }
			w.app.onConnect = func(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
				t.Errorf("%s: OnConnect was called", name)
				return nil, nil
			}
			w.m.Start(context.Background())
			after(time.Minute)
			w.wantCauses(tc.want)
			if n := w.m.Metrics().Connections; n != 1 || w.net.Open() != 0 {
				t.Errorf("%s: %d connections were opened, %d sockets are", name, n, w.net.Open())
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
		loginWorld(t, wsshard.Config{}, login, func(w *world) {
			w.app.onError = func(error) bool { return false }
			w.m.Start(context.Background())
			tc.end(w.srv.Conn(0))
			after(time.Second)
			if err := w.m.Metrics().Shards[0].LastError; !tc.want(heard) || !tc.want(err) {
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
	loginWorld(t, wsshard.Config{}, login, func(w *world) {
		w.app.onError = func(error) bool { return false }
		w.m.Start(context.Background())
		w.srv.Conn(0).Kill()
		after(time.Second)
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
	loginWorld(t, cfg, login, func(w *world) {
		begin := time.Now()
		w.start("a", "b")
		after(0)
		var at []time.Duration
		for _, f := range w.srv.Conn(0).FrameLog() {
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
	loginWorld(t, wsshard.Config{}, login, func(w *world) { w.start("a"); w.wantTopics("a") })
}

// TestLoginConnAfterLogin: it is not the connection any more, which has another reader and writer now.
func TestLoginConnAfterLogin(t *testing.T) {
	var kept wsshard.LoginConn
	login := func(_ context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
		kept = conn
		return nil
	}
	loginWorld(t, wsshard.Config{}, login, func(w *world) {
		w.start("a")
		w.wantTopics("a")
		if err := kept.Write(context.Background(), wsshard.Text("late")); err == nil {
			t.Error("Write after Login")
		}
		if _, err := kept.Read(context.Background()); err == nil {
			t.Error("Read after Login")
		}
		w.topics.Publish("a", "1")
		w.wantGot("a:1")
		if got := w.srv.Conn(0).Got(); !slices.Equal(got, []string{"+a"}) {
			t.Errorf("the server got %q", got)
		}
	})
}
