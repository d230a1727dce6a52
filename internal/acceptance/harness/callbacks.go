package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what happens in every callback?

// Inside are all methods of a manager but Stop, and what they may return inside a callback.
var Inside = []struct {
	Name   string
	Call   func(ctx context.Context, m *wsshard.ShardManager[string]) error
	Errors []error
}{
	{"Start", func(ctx context.Context, m *wsshard.ShardManager[string]) error { return m.Start(ctx) }, []error{wsshard.ErrStarted}},
	{"Run", func(ctx context.Context, m *wsshard.ShardManager[string]) error { return m.Run(ctx) }, []error{wsshard.ErrStarted}},
	{"Sync", func(ctx context.Context, m *wsshard.ShardManager[string]) error { return m.Sync(ctx) }, []error{wsshard.ErrInCallback}},
	{"Sync of topics", func(ctx context.Context, m *wsshard.ShardManager[string]) error { return m.Sync(ctx, "a", "none") },
		[]error{wsshard.ErrInCallback}},
	{"HotSwitchover", func(ctx context.Context, m *wsshard.ShardManager[string]) error { return m.HotSwitchover(ctx, 0) },
		[]error{wsshard.ErrInCallback, wsshard.ErrNotConnected, wsshard.ErrUnknownShard}},
	{"Reconnect", func(_ context.Context, m *wsshard.ShardManager[string]) error { return m.Reconnect(0) },
		[]error{nil, wsshard.ErrUnknownShard}},
	{"Send", func(ctx context.Context, m *wsshard.ShardManager[string]) error {
		return m.Send(ctx, 0, wsshard.Text("sent"))
	},
		[]error{nil, wsshard.ErrInCallback, wsshard.ErrNotConnected, wsshard.ErrUnknownShard}},
	{"Subscribe", func(_ context.Context, m *wsshard.ShardManager[string]) error {
		_, err := m.Subscribe(Numbered(5)...)
		return err
	},
		[]error{nil}},
	{"Unsubscribe", func(_ context.Context, m *wsshard.ShardManager[string]) error { return m.Unsubscribe("a", "t0001") }, []error{nil}},
	{"Resubscribe", func(_ context.Context, m *wsshard.ShardManager[string]) error { return m.Resubscribe("a", "b") }, []error{nil}},
	{"questions", func(_ context.Context, m *wsshard.ShardManager[string]) error {
		m.IsRunning()
		m.Handler()
		m.ShardCount()
		m.TotalSubscriptions()
		m.ShardSubscriptions(0)
		m.SubscriptionShard("a")
		m.ShardFreshness(0)
		m.IsSubscriptionFresh("a", time.Second)
		m.Health(1)
		m.Metrics()
		return m.Dump(io.Discard)
	}, []error{nil}},
}

// Every is a handler with every capability but Inspector, for a wstest.Topics that acknowledges. All it does besides is to
// call at, if there is one, at the beginning of each callback, with the context that the callback was given.
type Every struct {
	At func(ctx context.Context, where string, st wsshard.ConnectionState)

	Heard *History // of a cell of the fault matrix; else nil

	Mu     sync.Mutex
	calls  map[string]int
	Got    []string
	causes []error
}

// Dials are the callbacks of every that are in Config.
type Dials struct {
	E    *Every
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (d *Dials) NetDialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	d.E.enter(ctx, "NetDialContext", noState)
	return d.Dial(ctx, network, addr)
}

func (d *Dials) Wait(ctx context.Context, _, _ string) error {
	d.E.enter(ctx, "ConnectLimiter.Wait", noState)
	return ctx.Err()
}

func (d *Dials) Block(_, _ string, _ time.Time) {
	d.E.enter(context.Background(), "ConnectLimiter.Block", noState)
}

// With adds them to a config.
func (d *Dials) With(cfg *wsshard.Config) {
	cfg.Connection.NetDialContext, cfg.Connection.Limiter = d.NetDialContext, d
}

// BusyOnce has a server refuse one handshake, and say when to come again.
func BusyOnce(srv *wstest.Server) {
	var once sync.Once
	srv.Reject(func(*http.Request) (status int, header http.Header, _ string) {
		once.Do(func() { status, header = 429, http.Header{"Retry-After": {"1"}} })
		return status, header, ""
	})
}

// Inspecting is Every with an Inspector.
type Inspecting struct{ *Every }

// Callbacks are the callbacks that provoke reaches, in the order of the handler's documentation.
var Callbacks = []string{
	"URL", "SubscriptionMessage", "OnMessage", "Subscriptions", "OnConnect", "Login", "OnDisconnect", "OnError",
	"UnsubscriptionMessage", "ResubscriptionMessage", "ConnectionHeaders", "PingMessage", "IsHeartbeat", "IsDataMessage",
	"ValidateSequence", "ResetSequenceState", "Acknowledge", "IsReady", "Inspect", "OnEvent",
	"NetDialContext", "ConnectLimiter.Wait", "ConnectLimiter.Block", // which Config has
}

// HandlerFor returns e as the handler that has this callback: with an Inspector, or with what it replaces.
func (e *Every) HandlerFor(callback string) wsshard.Handler[string] {
	if callback == "Inspect" {
		return Inspecting{e}
	}
	return e
}

func (e *Every) enter(ctx context.Context, where string, st wsshard.ConnectionState) {
	e.Mu.Lock()
	if e.calls == nil {
		e.calls = make(map[string]int)
	}
	e.calls[where]++
	at := e.At
	e.Mu.Unlock()
	if at != nil {
		at(ctx, where, st)
	}
}

// Set changes at while callbacks may be running.
func (e *Every) Set(at func(ctx context.Context, where string, st wsshard.ConnectionState)) {
	e.Mu.Lock()
	defer e.Mu.Unlock()
	e.At = at
}

// Called is how often a callback was called so far.
func (e *Every) Called(where string) int {
	e.Mu.Lock()
	defer e.Mu.Unlock()
	return e.calls[where]
}

var noState wsshard.ConnectionState

func (e *Every) URL(ctx context.Context, st wsshard.ConnectionState) (string, error) {
	e.enter(ctx, "URL", st)
	return fmt.Sprintf("ws://srv/%s/%d/%d", Canary, st.ShardID, st.Generation), nil
}

func (e *Every) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	e.enter(context.Background(), "SubscriptionMessage", req.State)
	return wsshard.Text("+" + strings.Join(req.Subs, ",")), nil
}

func (e *Every) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	e.enter(context.Background(), "UnsubscriptionMessage", req.State)
	return wsshard.Text("-" + strings.Join(req.Subs, ",")), nil
}

func (e *Every) ResubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	e.enter(context.Background(), "ResubscriptionMessage", req.State)
	return wsshard.Text("=" + strings.Join(req.Subs, ",")), nil
}

func (e *Every) OnMessage(ctx context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	if e.Heard != nil {
		e.Heard.Message(msg)
	}
	e.enter(ctx, "OnMessage", st)
	e.Mu.Lock()
	defer e.Mu.Unlock()
	e.Got = append(e.Got, msg.String())
}

func (e *Every) Subscriptions() []string {
	e.enter(context.Background(), "Subscriptions", noState)
	return []string{"a", "b"}
}

func (e *Every) OnConnect(ctx context.Context, st wsshard.ConnectionState) ([]wsshard.Message, error) {
	e.enter(ctx, "OnConnect", st)
	return []wsshard.Message{wsshard.Text("hello")}, nil
}

func (e *Every) Login(ctx context.Context, conn wsshard.LoginConn, st wsshard.ConnectionState) error {
	e.enter(ctx, "Login", st)
	return conn.Write(ctx, wsshard.Text("login"))
}

func (e *Every) OnDisconnect(ctx context.Context, cause error, st wsshard.ConnectionState) {
	if e.Heard != nil {
		e.Heard.Disconnected(cause, st)
	}
	e.enter(ctx, "OnDisconnect", st)
	e.Mu.Lock()
	defer e.Mu.Unlock()
	e.causes = append(e.causes, cause)
}

func (e *Every) OnError(ctx context.Context, err error, st wsshard.ConnectionState) bool {
	if e.Heard != nil {
		e.Heard.Failed(err, st)
	}
	e.enter(ctx, "OnError", st)
	return true
}

func (e *Every) MaxSubscriptionsPerShard() int {
	e.enter(context.Background(), "MaxSubscriptionsPerShard", noState)
	return 3
}

func (e *Every) ConnectionHeaders(ctx context.Context, st wsshard.ConnectionState) (http.Header, error) {
	e.enter(ctx, "ConnectionHeaders", st)
	return http.Header{"X-A": {"1"}}, nil
}

func (e *Every) PingMessage(st wsshard.ConnectionState) wsshard.Message {
	e.enter(context.Background(), "PingMessage", st)
	return wsshard.Text("ping")
}

func (e *Every) IsHeartbeat(msg wsshard.Message) bool {
	e.enter(context.Background(), "IsHeartbeat", noState)
	return msg.String() == "hb"
}

func (e *Every) IsDataMessage(msg wsshard.Message) bool {
	e.enter(context.Background(), "IsDataMessage", noState)
	return true
}

func (e *Every) ValidateSequence(_ wsshard.Message, st wsshard.ConnectionState) (v wsshard.SequenceValidation[string]) {
	e.enter(context.Background(), "ValidateSequence", st)
	return v
}

func (e *Every) ResetSequenceState(st wsshard.ConnectionState) {
	e.enter(context.Background(), "ResetSequenceState", st)
}

func (e *Every) Acknowledge(msg wsshard.Message, st wsshard.ConnectionState) (ack wsshard.Ack[string], ok bool) {
	e.enter(context.Background(), "Acknowledge", st)
	if topics, ok := strings.CutPrefix(msg.String(), "ack:"); ok {
		ack.Confirmed = strings.Split(topics[1:], ",")
		return ack, topics[0] != '-'
	}
	return ack, false
}

func (e *Every) IsReady(_ wsshard.Message, st wsshard.ConnectionState) bool {
	e.enter(context.Background(), "IsReady", st)
	return false
}

func (e *Every) OnEvent(ev wsshard.Event[string]) {
	if e.Heard != nil {
		e.Heard.Event(ev)
	}
	e.enter(context.Background(), "OnEvent", wsshard.ConnectionState{ShardID: ev.ShardID, Generation: ev.Generation})
}

func (i Inspecting) Inspect(msg wsshard.Message, st wsshard.ConnectionState) wsshard.Verdict[string] {
	i.enter(context.Background(), "Inspect", st)
	return wsshard.Verdict[string]{Heartbeat: msg.String() == "hb"}
}

// ErrPanic is what a callback may panic with.
var ErrPanic = errors.New("thrown by a test")

// wayOut is a way in which a callback may leave without returning.
type wayOut struct {
	Name  string
	Leave func()
	Is    func(value any) bool // the PanicError's value
}

// WaysOut are the ways in which a callback may leave without returning.
var WaysOut = []wayOut{
	{"value", func() { panic("boom") }, func(v any) bool { return v == "boom" }},
	{"error", func() { panic(ErrPanic) }, func(v any) bool { return v == ErrPanic }},
	{"nil map", func() {
		var m map[string]int
		m["x"] = 1 //lint:ignore SA5000 the panic is the point
	}, func(v any) bool { _, ok := v.(runtime.Error); return ok }},
	{"nil", func() { panic(nil) }, func(v any) bool { _, ok := v.(*runtime.PanicNilError); return ok }},
	{"Goexit", runtime.Goexit, func(v any) bool { return v == "runtime.Goexit" }},
}

var (
	_ wsshard.Handler[string]           = (*Every)(nil)
	_ wsshard.InitialSubscriber[string] = (*Every)(nil)
	_ wsshard.ConnectHandler            = (*Every)(nil)
	_ wsshard.Authenticator             = (*Every)(nil)
	_ wsshard.DisconnectHandler         = (*Every)(nil)
	_ wsshard.ErrorHandler              = (*Every)(nil)
	_ wsshard.Unsubscriber[string]      = (*Every)(nil)
	_ wsshard.Resubscriber[string]      = (*Every)(nil)
	_ wsshard.SubscriptionLimiter       = (*Every)(nil)
	_ wsshard.HeaderProvider            = (*Every)(nil)
	_ wsshard.PingMessenger             = (*Every)(nil)
	_ wsshard.HeartbeatDetector         = (*Every)(nil)
	_ wsshard.DataDetector              = (*Every)(nil)
	_ wsshard.SequenceValidator[string] = (*Every)(nil)
	_ wsshard.Acknowledger[string]      = (*Every)(nil)
	_ wsshard.ReadyDetector             = (*Every)(nil)
	_ wsshard.EventObserver[string]     = (*Every)(nil)
	_ wsshard.Inspector[string]         = Inspecting{}
)
