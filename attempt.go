package wsshard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: which steps does one attempt to connect take?

// opening is one attempt: URL, the gate, headers, dial, login, OnConnect.
type opening[S comparable] struct {
	sh    *shard[S]
	m     *ShardManager[S]
	haste *haste
	lost  <-chan struct{} // closed when a switchover's shard has lost its connection; nil: it has none to lose
	st    ConnectionState
	left  time.Duration // of ConnectTimeout: waiting at the gate does not count
	shown string        // the URL, redacted
}

// attempt opens a session in a goroutine of its own, which ends with it: what the dial needed of stack is given back, and a
// callback that leaves by runtime.Goexit takes nobody along. r is the relay of a switchover, else nil.
func (s *shard[S]) attempt(ctx context.Context, h *haste, r *relay[S]) (*session[S], error) {
	res := <-s.attemptAsync(ctx, s.state(), h, r)
	return res.session, res.err
}

type attemptResult[S comparable] struct {
	session *session[S]
	err     error
}

func (s *shard[S]) attemptAsync(ctx context.Context, st ConnectionState, h *haste, r *relay[S]) <-chan attemptResult[S] {
	done := make(chan attemptResult[S], 1)
	o := &opening[S]{sh: s, m: s.m, haste: h, st: st, left: s.m.cfg.Connection.ConnectTimeout}
	if cur := s.live.Load(); r != nil && cur != nil {
		o.lost = cur.ctx.Done()
	}
	go func() {
		res := attemptResult[S]{err: &PanicError{Value: errGoexit}}
		defer func() { done <- res }()
		res.session, res.err = o.open(ctx, r)
	}()
	return done
}

// open takes the steps. A failure before the connection is open is a *DialError.
func (o *opening[S]) open(ctx context.Context, r *relay[S]) (*session[S], error) {
	ws, tap, err := o.dial(ctx)
	if keepsWindow(err) { // it is remembered: this time there is no offer
		ws, tap, err = o.dial(ctx)
	}
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, context.DeadlineExceeded) {
			err = context.Cause(ctx)
		}
		return nil, &DialError{URL: o.shown, ShardID: o.st.ShardID, Attempt: o.st.ReconnectAttempt + 1, Err: err}
	}
	return o.login(ctx, ws, tap, r)
}

// timed runs one step that counts against ConnectTimeout.
func (o *opening[S]) timed(ctx context.Context, step func(ctx context.Context) error) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, o.left, o.m.dialer.late)
	defer cancel()
	err := step(ctx)
	o.left -= time.Since(begin)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

func (o *opening[S]) dial(ctx context.Context) (ws *websocket.Conn, tap *wsconn.Tap, err error) {
	u, k, err := o.url(ctx)
	if err != nil {
		return nil, nil, err
	}
	asked := time.Now()
	v, err := o.haste.enter(ctx, o.sh.run.gate, k, o.lost)
	if err != nil {
		return nil, nil, err
	}
	if o.haste.begin != nil {
		o.haste.begin()
	}
	host := hostUnknown
	defer func() { // also when a callback left by runtime.Goexit
		var he *HandshakeError
		var retryAfter time.Duration
		if errors.As(err, &he) {
			retryAfter = he.RetryAfter
		}
		o.sh.run.gate.leave(k, v, host, err, retryAfter)
	}()
	if time.Since(asked) >= urlLife {
		o.left = o.m.cfg.Connection.ConnectTimeout // what came before is for nothing
		shown := o.shown
		again, door, err := o.url(ctx)
		switch {
		case err != nil:
			return nil, nil, err
		case door == k:
			u = again
		default: // it has a gate of its own, with a line of its own
			o.shown = shown
		}
	}
	err = o.timed(ctx, func(ctx context.Context) error {
		header, err := o.header(ctx)
		if err != nil {
			return err
		}
		panicked := o.m.guard("dial, NetDialContext or TLSConfig", func() {
			ws, tap, err = o.m.dialer.dial(ctx, u, header, o.st.ShardID)
			host = judgeHost(err)
		}, nil)
		if panicked != nil {
			return panicked
		}
		return err
	})
	if err != nil && ws != nil {
		wsconn.Kill(tap.Conn)
		ws, tap = nil, nil
	}
	return ws, tap, err
}

// urlLife is how long a URL may wait at the gate. Signatures and tokens in one do not last as long as a line there can be.
const urlLife = time.Second

// url asks where to dial, and says which door of the gate that is.
func (o *opening[S]) url(ctx context.Context) (u *url.URL, k doorKey, err error) {
	err = o.timed(ctx, func(ctx context.Context) (err error) {
		var raw string
		if panicked := o.m.apart("URL", func() { raw, err = o.m.h.URL(ctx, o.st) }); panicked != nil {
			return panicked
		}
		if err != nil {
			return err
		}
		o.shown = redactURL(raw)
		u, err = parseURL(raw)
		return err
	})
	if err == nil {
		k = doorKey{strings.ToLower(hostPort(u)), o.sh.egress}
	}
	return u, k, err
}

func (o *opening[S]) header(ctx context.Context) (h http.Header, err error) {
	if p := o.m.caps.headers; p != nil {
		if panicked := o.m.apart("ConnectionHeaders", func() { h, err = p.ConnectionHeaders(ctx, o.st) }); panicked != nil {
			return nil, panicked
		}
		if err != nil {
			return nil, err
		}
	}
	return o.m.dialer.header(h)
}

// login makes a session of the connection: it logs in, and then asks OnConnect what to send first.
func (o *opening[S]) login(ctx context.Context, ws *websocket.Conn, tap *wsconn.Tap, r *relay[S]) (*session[S], error) {
	cfg := &o.m.cfg.Connection
	c := newSession(o.sh, o.st)
	c.relay = r
	c.ctx, c.cancel = context.WithCancelCause(o.sh.run.ctx)
	c.conn = wsconn.New(ws, tap, wsconn.Options{
		ReadLimit:    max(0, cfg.ReadLimit),
		ReadBuffer:   cfg.ReadBufferSize,
		Lend:         cfg.LowLatencyMode,
		Unfinished:   o.m.pending,
		WriteTimeout: cfg.WriteTimeout,
		CheckUTF8:    !cfg.LowLatencyMode,
		OnPing:       c.onPing,
		OnPong:       c.onPong,
	})
	o.m.track(o.sh.run, c.conn)
	abort := context.AfterFunc(ctx, func() { c.cancel(context.Cause(ctx)) }) // ctx is the dial's; the session outlives it
	opened := false
	defer func() {
		abort()
		if !opened {
			c.cancel(ErrNotConnected)
			c.conn.Kill()
			o.m.untrack(o.sh.run, c.conn)
		}
	}()
	agreed, err := o.logIn(c)
	if !agreed {
		return nil, err
	}
	c.opened = time.Now()
	o.sh.gen++ // the loop that owns it waits for us
	o.m.count.connections.Add(1)
	if o.st.IsReconnect {
		o.m.count.reconnections.Add(1)
	}
	if err == nil {
		err = o.onConnect(c)
	}
	if err != nil {
		c.cancel(err)
		c.conn.SendClose(closeCode(err), closeGrace)
		c.conn.Kill()
		o.m.disconnected(o.sh.run, o.st, err)
		return nil, err
	}
	opened = true
	return c, nil
}

// logIn lets the application log in. It agreed when it returned without an error: then the connection is open, and its
// OnDisconnect follows even where err says that this came too late.
func (o *opening[S]) logIn(c *session[S]) (agreed bool, err error) {
	a := o.m.caps.authenticator
	if a == nil {
		return true, nil
	}
	err = o.timed(c.ctx, func(ctx context.Context) (err error) {
		lc := &loginConn[S]{c: c}
		c.login = lc
		defer context.AfterFunc(ctx, c.conn.Kill)()
		panicked := o.m.apart("Login", func() { err = a.Login(ctx, lc, o.st) })
		c.login = nil
		lc.over.Store(true)
		agreed = panicked == nil && err == nil
		switch {
		case panicked != nil:
			return panicked
		case ctx.Err() != nil:
			return context.Cause(ctx) // and not what that looked like to a
		}
		return err
	})
	if !agreed {
		err = &DialError{URL: o.shown, ShardID: o.st.ShardID, Attempt: o.st.ReconnectAttempt + 1, Err: fmt.Errorf("login: %w", err)}
	}
	return agreed, err
}

// onConnect asks the application what to send first.
func (o *opening[S]) onConnect(c *session[S]) (err error) {
	h := o.m.caps.connect
	if h == nil {
		return nil
	}
	var first []Message
	if panicked := o.m.apart("OnConnect", func() { first, err = h.OnConnect(c.ctx, o.st) }); panicked != nil {
		return panicked
	}
	for i, msg := range first {
		if err == nil && msg.Data != nil {
			if err = checkMessage(msg); err != nil {
				err = fmt.Errorf("OnConnect, message %d: %w", i, err)
			}
			c.out.first = append(c.out.first, msg)
		}
	}
	if c.ctx.Err() != nil {
		err = context.Cause(c.ctx) // and not how h said that its ctx had ended
	}
	return err
}

// loginConn is the connection as Login sees it. The goroutine that reads answers pings too.
type loginConn[S comparable] struct {
	c    *session[S]
	over atomic.Bool // the connection has other users now
}

func (l *loginConn[S]) Read(ctx context.Context) (Message, error) {
	if l.over.Load() {
		return Message{}, ErrNotConnected
	}
	defer context.AfterFunc(ctx, l.c.conn.Kill)()
	text, data, err := l.c.conn.Read()
	if err != nil {
		if ctx.Err() != nil {
			return Message{}, context.Cause(ctx)
		}
		err = readCause(err)
		if code := closeCode(err); code != websocket.CloseNormalClosure { // the attempt ends by this; the peer shall know why
			l.c.conn.SendClose(code, closeGrace)
		}
		return Message{}, err
	}
	if err := l.pong(); err != nil {
		return Message{}, err
	}
	msg := Binary(append([]byte(nil), data...))
	if text {
		msg.Type = TextMessage
	}
	return msg, nil
}

// pong answers the ping that has waited longest, unless it is too early for that: then it is answered later.
func (l *loginConn[S]) pong() error {
	now, c := time.Now(), l.c
	pinged, _ := c.pongWait(now)
	if !pinged || max(c.pace.waitControl(now), pongSpacing-now.Sub(c.pongAt)) > 0 {
		return nil
	}
	return c.pong(now, c.pace.chargeControl)
}

func (l *loginConn[S]) Write(ctx context.Context, msg Message) error {
	if l.over.Load() {
		return ErrNotConnected
	}
	if err := checkMessage(msg); err != nil {
		return err
	}
	if err := sleep(ctx, l.c.pace.wait(time.Now())); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, l.c.conn.Kill)()
	err := l.c.writeMessage(msg)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
