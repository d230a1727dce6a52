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

	"github.com/seed-829c304d/wsshard/internal/gate"
	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: which steps does one attempt to connect take?

// opening is one attempt: URL, the gate, headers, dial, login, OnConnect.
type opening[S comparable] struct {
	slot    *slot[S]
	keeper  keeper[S] // of the session that it opens
	core    *core[S]
	ticket  *gate.Ticket
	hooks   openingHooks
	relay   *relay[S]       // of a switchover; nil: there was no connection before
	lost    <-chan struct{} // closed when a switchover's shard has lost its connection; nil: it has none to lose
	hurried <-chan struct{} // has a token when a reconnect was asked for: this attempt goes first
	st      ConnectionState
	left    time.Duration // of ConnectTimeout: waiting at the gate does not count
	shown   string        // the URL, redacted
	door    gate.Key      // where it was dialled, or stood last
	turned  int           // how often it was turned away
	stay    *gate.Stay    // the connection, as its door sees it
	opened  bool          // the connection was open, be it for a moment
	waits   bool          // it failed, and the gate spaces what comes next
}

// openingHooks are what a switchover wants to hear of its attempt, on the attempt's goroutine. Each may be nil.
type openingHooks struct {
	begin func()           // the dial begins, after all waiting
	up    func(*gate.Stay) // the server has answered 101
}

type attemptResult[S comparable] struct {
	session *session[S]
	err     error
	door    gate.Key // where it was dialled, or stood last; the zero Key: nowhere
	turned  int      // how often a door was found shut
	opened  bool     // the connection was open, be it for a moment: its generation is taken
	waits   bool     // after err: the gate spaces what comes next
}

// take hands the session over: an attempt that is long over must not keep it from being collected.
func (r *attemptResult[S]) take() *session[S] {
	s := r.session
	r.session = nil
	return s
}

func newOpening[S comparable](sl *slot[S], k keeper[S], st ConnectionState) *opening[S] {
	return &opening[S]{slot: sl, keeper: k, core: sl.core, st: st, left: sl.core.cfg.Connection.ConnectTimeout}
}

// begin opens a session in a goroutine of its own, which ends with it: what the dial needed of stack is given back, and a
// callback that leaves by runtime.Goexit takes nobody along.
func (o *opening[S]) begin(ctx context.Context) <-chan attemptResult[S] {
	done := make(chan attemptResult[S], 1)
	o.slot.ticket.Store(o.ticket)
	go func() {
		o.core.label(ctx, "dial", o.st.ShardID)
		res := attemptResult[S]{err: &PanicError{Value: errGoexit}}
		defer func() {
			o.slot.ticket.Store(nil)
			res.door, res.turned, res.opened, res.waits = o.door, o.turned, o.opened, o.waits
			done <- res
		}()
		res.session, res.err = o.open(ctx)
	}()
	return done
}

// open takes the steps. A failure before the connection is open is a *DialError.
func (o *opening[S]) open(ctx context.Context) (*session[S], error) {
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
	return o.login(ctx, ws, tap)
}

// timed runs one step that counts against ConnectTimeout.
func (o *opening[S]) timed(ctx context.Context, step func(ctx context.Context) error) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, o.left, o.core.dialer.errConnectTimeout)
	defer cancel()
	err := step(ctx)
	o.left -= time.Since(begin)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

func (o *opening[S]) dial(ctx context.Context) (ws *websocket.Conn, tap *wsconn.Tap, err error) {
	u, err := o.admission(ctx)
	if err != nil {
		return nil, nil, err
	}
	host := gate.Unknown
	defer func() { // also when a callback left by runtime.Goexit
		o.stay, o.waits = o.slot.run.gate.Leave(o.ticket, dialResult(host, err))
		if o.stay != nil && o.hooks.up != nil {
			o.hooks.up(o.stay)
		}
	}()
	if o.hooks.begin != nil {
		o.hooks.begin()
	}
	err = o.timed(ctx, func(ctx context.Context) error {
		header, err := o.header(ctx)
		if err != nil {
			return err
		}
		panicked := o.core.guard("dial, NetDialContext or TLSConfig", o.st.ShardID, func() {
			ws, tap, err = o.core.dialer.dial(ctx, u, header, o.st.ShardID)
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

// url asks where to dial, and says which door of the gate that is.
func (o *opening[S]) url(ctx context.Context) (u *url.URL, k gate.Key, err error) {
	err = o.timed(ctx, func(ctx context.Context) (err error) {
		var raw string
		if panicked := o.core.apart("URL", o.st.ShardID, func() { raw, err = o.core.h.URL(ctx, o.st) }); panicked != nil {
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
		k = gate.Key{Host: strings.ToLower(hostPort(u)), Egress: o.slot.egress}
	}
	return u, k, err
}

func (o *opening[S]) header(ctx context.Context) (h http.Header, err error) {
	if p := o.core.caps.headers; p != nil {
		if panicked := o.core.apart("ConnectionHeaders", o.st.ShardID, func() { h, err = p.ConnectionHeaders(ctx, o.st) }); panicked != nil {
			return nil, panicked
		}
		if err != nil {
			return nil, err
		}
	}
	return o.core.dialer.header(h)
}

// login makes a session of the connection: it logs in, and then asks OnConnect what to send first.
func (o *opening[S]) login(ctx context.Context, ws *websocket.Conn, tap *wsconn.Tap) (*session[S], error) {
	cfg := &o.core.cfg.Connection
	c := newSession(o.slot, o.keeper, o.st)
	c.relay, c.stay = o.relay, o.stay
	c.ctx, c.cancel = context.WithCancelCause(o.slot.run.ctx)
	c.conn = wsconn.New(ws, tap, wsconn.Options{
		ReadLimit:    max(0, cfg.ReadLimit),
		ReadBuffer:   cfg.ReadBufferSize,
		Lend:         cfg.LowLatencyMode,
		Unfinished:   o.core.pending,
		WriteTimeout: cfg.WriteTimeout,
		CheckUTF8:    !cfg.LowLatencyMode,
		OnPing:       c.reader.onPing,
		OnPong:       c.reader.onPong,
	})
	o.slot.run.track(c.conn)
	abort := context.AfterFunc(ctx, func() { c.cancel(context.Cause(ctx)) }) // ctx is the dial's; the session outlives it
	opened := false
	defer func() {
		abort()
		if !opened {
			c.cancel(ErrNotConnected)
			c.conn.Kill()
			how := gate.Young
			if ctx.Err() != nil {
				how = gate.Ours
			}
			o.slot.run.gate.Ended(o.stay, how, 0)
			o.slot.run.untrack(c.conn)
		}
	}()
	p := &pen{conn: c.conn, out: &c.out, count: &o.core.count, pace: newPace(o.core.cfg.Subscribe)}
	agreed, err := o.logIn(c, p)
	if !agreed {
		return nil, err
	}
	c.writer.take(p)
	c.opened, o.opened = time.Now(), true
	o.core.count.connections.Add(1)
	if o.st.IsReconnect {
		o.core.count.reconnections.Add(1)
	}
	if err == nil {
		err = o.onConnect(c)
	}
	if err != nil {
		c.cancel(err)
		c.conn.SendClose(closeCode(err), closeGrace)
		c.conn.Kill()
		o.slot.run.disconnected(o.st, err)
		return nil, err
	}
	opened = true
	return c, nil
}

// logIn lets the application log in. It agreed when it returned without an error: then the connection is open, and its
// OnDisconnect follows even where err says that this came too late.
func (o *opening[S]) logIn(c *session[S], p *pen) (agreed bool, err error) {
	a := o.core.caps.authenticator
	if a == nil {
		return true, nil
	}
	err = o.timed(c.ctx, func(ctx context.Context) (err error) {
		lc := &loginConn{conn: c.conn, pen: p}
		c.reader.lend(p)
		defer context.AfterFunc(ctx, c.conn.Kill)()
		panicked := o.core.apart("Login", o.st.ShardID, func() { err = a.Login(ctx, lc, o.st) })
		c.reader.lend(nil)
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
	h := o.core.caps.connect
	if h == nil {
		return nil
	}
	var first []Message
	if panicked := o.core.apart("OnConnect", o.st.ShardID, func() { first, err = h.OnConnect(c.ctx, o.st) }); panicked != nil {
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
type loginConn struct {
	conn *wsconn.Conn
	pen  *pen
	over atomic.Bool // the connection has other users now
}

func (l *loginConn) Read(ctx context.Context) (Message, error) {
	if l.over.Load() {
		return Message{}, ErrNotConnected
	}
	defer context.AfterFunc(ctx, l.conn.Kill)()
	text, _, err := l.conn.Read()
	if err != nil {
		if ctx.Err() != nil {
			return Message{}, context.Cause(ctx)
		}
		err = readCause(err)
		if code := closeCode(err); code != websocket.CloseNormalClosure { // the attempt ends by this; the peer shall know why
			l.conn.SendClose(code, closeGrace)
		}
		return Message{}, err
	}
	if err := l.pen.pongNow(); err != nil {
		return Message{}, err
	}
	msg := Binary(l.conn.Detach())
	if text {
		msg.Type = TextMessage
	}
	return msg, nil
}

func (l *loginConn) Write(ctx context.Context, msg Message) error {
	if l.over.Load() {
		return ErrNotConnected
	}
	if err := checkMessage(msg); err != nil {
		return err
	}
	if err := sleep(ctx, l.pen.pace.wait(time.Now())); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, l.conn.Kill)()
	err := l.pen.write(msg)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
