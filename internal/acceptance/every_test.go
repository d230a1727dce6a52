package acceptance

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// every is a handler with every capability but Inspector, for a wstest.Topics that acknowledges. All it does besides is to
// call at, if there is one, at the beginning of each callback, with the context that the callback was given.
type every struct {
	at func(ctx context.Context, where string, st wsshard.ConnectionState)

	heard *history // of a cell of the fault matrix; else nil

	mu     sync.Mutex
	calls  map[string]int
	got    []string
	causes []error
}

// dials are the callbacks of every that are in Config.
type dials struct {
	e    *every
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (d *dials) NetDialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	d.e.enter(ctx, "NetDialContext", noState)
	return d.dial(ctx, network, addr)
}

func (d *dials) Wait(ctx context.Context, _, _ string) error {
	d.e.enter(ctx, "ConnectLimiter.Wait", noState)
	return ctx.Err()
}

func (d *dials) Block(_, _ string, _ time.Time) {
	d.e.enter(context.Background(), "ConnectLimiter.Block", noState)
}

// with adds them to a config.
func (d *dials) with(cfg *wsshard.Config) {
	cfg.Connection.NetDialContext, cfg.Connection.Limiter = d.NetDialContext, d
}

// busyOnce has a server refuse one handshake, and say when to come again.
func busyOnce(srv *wstest.Server) {
	var once sync.Once
	srv.Reject(func(*http.Request) (status int, header http.Header, _ string) {
		once.Do(func() { status, header = 429, http.Header{"Retry-After": {"1"}} })
		return status, header, ""
	})
}

// inspecting is every with an Inspector.
type inspecting struct{ *every }

var (
	_ wsshard.Handler[string]           = (*every)(nil)
	_ wsshard.InitialSubscriber[string] = (*every)(nil)
	_ wsshard.ConnectHandler            = (*every)(nil)
	_ wsshard.Authenticator             = (*every)(nil)
	_ wsshard.DisconnectHandler         = (*every)(nil)
	_ wsshard.ErrorHandler              = (*every)(nil)
	_ wsshard.Unsubscriber[string]      = (*every)(nil)
	_ wsshard.Resubscriber[string]      = (*every)(nil)
	_ wsshard.SubscriptionLimiter       = (*every)(nil)
	_ wsshard.HeaderProvider            = (*every)(nil)
	_ wsshard.PingMessenger             = (*every)(nil)
	_ wsshard.HeartbeatDetector         = (*every)(nil)
	_ wsshard.DataDetector              = (*every)(nil)
	_ wsshard.SequenceValidator[string] = (*every)(nil)
	_ wsshard.Acknowledger[string]      = (*every)(nil)
	_ wsshard.ReadyDetector             = (*every)(nil)
	_ wsshard.EventObserver[string]     = (*every)(nil)
	_ wsshard.Inspector[string]         = inspecting{}
)

// callbacks are the callbacks that provoke reaches, in the order of the handler's documentation.
var callbacks = []string{
	"URL", "SubscriptionMessage", "OnMessage", "Subscriptions", "OnConnect", "Login", "OnDisconnect", "OnError",
	"UnsubscriptionMessage", "ResubscriptionMessage", "ConnectionHeaders", "PingMessage", "IsHeartbeat", "IsDataMessage",
	"ValidateSequence", "ResetSequenceState", "Acknowledge", "IsReady", "Inspect", "OnEvent",
	"NetDialContext", "ConnectLimiter.Wait", "ConnectLimiter.Block", // which Config has
}

// handlerFor returns e as the handler that has this callback: with an Inspector, or with what it replaces.
func (e *every) handlerFor(callback string) wsshard.Handler[string] {
	if callback == "Inspect" {
		return inspecting{e}
	}
	return e
}

func (e *every) enter(ctx context.Context, where string, st wsshard.ConnectionState) {
	e.mu.Lock()
	if e.calls == nil {
		e.calls = make(map[string]int)
	}
	e.calls[where]++
	at := e.at
	e.mu.Unlock()
	if at != nil {
		at(ctx, where, st)
	}
}

// set changes at while callbacks may be running.
func (e *every) set(at func(ctx context.Context, where string, st wsshard.ConnectionState)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.at = at
}

// called is how often a callback was called so far.
func (e *every) called(where string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.calls[where]
}

var noState wsshard.ConnectionState

func (e *every) URL(ctx context.Context, st wsshard.ConnectionState) (string, error) {
	e.enter(ctx, "URL", st)
	return fmt.Sprintf("ws://srv/%s/%d/%d", canary, st.ShardID, st.Generation), nil
}

func (e *every) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	e.enter(context.Background(), "SubscriptionMessage", req.State)
	return wsshard.Text("+" + strings.Join(req.Subs, ",")), nil
}

func (e *every) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	e.enter(context.Background(), "UnsubscriptionMessage", req.State)
	return wsshard.Text("-" + strings.Join(req.Subs, ",")), nil
}

func (e *every) ResubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	e.enter(context.Background(), "ResubscriptionMessage", req.State)
	return wsshard.Text("=" + strings.Join(req.Subs, ",")), nil
}

func (e *every) OnMessage(ctx context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	if e.heard != nil {
		e.heard.message(msg)
	}
	e.enter(ctx, "OnMessage", st)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.got = append(e.got, msg.String())
}

func (e *every) Subscriptions() []string {
	e.enter(context.Background(), "Subscriptions", noState)
	return []string{"a", "b"}
}

func (e *every) OnConnect(ctx context.Context, st wsshard.ConnectionState) ([]wsshard.Message, error) {
	e.enter(ctx, "OnConnect", st)
	return []wsshard.Message{wsshard.Text("hello")}, nil
}

func (e *every) Login(ctx context.Context, conn wsshard.LoginConn, st wsshard.ConnectionState) error {
	e.enter(ctx, "Login", st)
	return conn.Write(ctx, wsshard.Text("login"))
}

func (e *every) OnDisconnect(ctx context.Context, cause error, st wsshard.ConnectionState) {
	if e.heard != nil {
		e.heard.disconnected(cause, st)
	}
	e.enter(ctx, "OnDisconnect", st)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.causes = append(e.causes, cause)
}

func (e *every) OnError(ctx context.Context, err error, st wsshard.ConnectionState) bool {
	if e.heard != nil {
		e.heard.failed(err, st)
	}
	e.enter(ctx, "OnError", st)
	return true
}

func (e *every) MaxSubscriptionsPerShard() int {
	e.enter(context.Background(), "MaxSubscriptionsPerShard", noState)
	return 3
}

func (e *every) ConnectionHeaders(ctx context.Context, st wsshard.ConnectionState) (http.Header, error) {
	e.enter(ctx, "ConnectionHeaders", st)
	return http.Header{"X-A": {"1"}}, nil
}

func (e *every) PingMessage(st wsshard.ConnectionState) wsshard.Message {
	e.enter(context.Background(), "PingMessage", st)
	return wsshard.Text("ping")
}

func (e *every) IsHeartbeat(msg wsshard.Message) bool {
	e.enter(context.Background(), "IsHeartbeat", noState)
	return msg.String() == "hb"
}

func (e *every) IsDataMessage(msg wsshard.Message) bool {
	e.enter(context.Background(), "IsDataMessage", noState)
	return true
}

func (e *every) ValidateSequence(_ wsshard.Message, st wsshard.ConnectionState) (v wsshard.SequenceValidation[string]) {
	e.enter(context.Background(), "ValidateSequence", st)
	return v
}

func (e *every) ResetSequenceState(st wsshard.ConnectionState) {
	e.enter(context.Background(), "ResetSequenceState", st)
}

func (e *every) Acknowledge(msg wsshard.Message, st wsshard.ConnectionState) (ack wsshard.Ack[string], ok bool) {
	e.enter(context.Background(), "Acknowledge", st)
	if topics, ok := strings.CutPrefix(msg.String(), "ack:"); ok {
		ack.Confirmed = strings.Split(topics[1:], ",")
		return ack, topics[0] != '-'
	}
	return ack, false
}

func (e *every) IsReady(_ wsshard.Message, st wsshard.ConnectionState) bool {
	e.enter(context.Background(), "IsReady", st)
	return false
}

func (e *every) OnEvent(ev wsshard.Event[string]) {
	if e.heard != nil {
		e.heard.event(ev)
	}
	e.enter(context.Background(), "OnEvent", wsshard.ConnectionState{ShardID: ev.ShardID, Generation: ev.Generation})
}

func (i inspecting) Inspect(msg wsshard.Message, st wsshard.ConnectionState) wsshard.Verdict[string] {
	i.enter(context.Background(), "Inspect", st)
	return wsshard.Verdict[string]{Heartbeat: msg.String() == "hb"}
}

// everyWorld is a world whose handler is an every. Its one shard holds three topics.
type everyWorld struct {
	*world
	e *every
}

// everywhere runs a script in a bubble, as bubble does.
func everywhere(t *testing.T, callback string, cfg wsshard.Config, script func(w everyWorld)) {
	t.Helper()
	e := &every{}
	d := &dials{e: e}
	d.with(&cfg)
	bubble(t, cfg, func(*app) wsshard.Handler[string] { return e.handlerFor(callback) }, func(w *world) {
		d.dial = w.net.DialContext
		w.topics.Ack(true)
		script(everyWorld{w, e})
	})
}

// provoke starts the manager and reaches every callback at least once, as long as none of them keeps it from doing so. It
// takes a minute.
func (w everyWorld) provoke() {
	started := make(chan struct{})
	go func() { // a callback of Start may take this goroutine along
		defer close(started)
		w.m.Start(context.Background())
	}()
	<-started
	after(10 * time.Second)
	w.m.Subscribe("b") // where this is not the first time
	after(time.Second)
	w.m.Subscribe("c")
	w.m.Unsubscribe("b")
	after(time.Second)
	w.m.Resubscribe("a")
	after(time.Second)
	w.say("hb")
	w.topics.Publish("a", "provoked")
	after(30 * time.Second) // a ping
	busyOnce(w.srv)
	for _, p := range w.srv.Live() {
		p.Kill()
	}
	after(20 * time.Second)
}

// say sends a message on all live connections.
func (w everyWorld) say(text string) {
	for _, p := range w.srv.Live() {
		p.Send(text)
	}
	synctest.Wait()
}

// wantWell starts the manager if it is not running, and checks that the server has its topics and that it delivers. What was
// asked for twice is not its business: where an answer was lost that is right.
func (w everyWorld) wantWell() {
	w.t.Helper()
	if err := w.m.Start(context.Background()); err != nil && err != wsshard.ErrStarted {
		w.t.Fatalf("Start: %v", err)
	}
	w.m.Subscribe("a", "c")
	w.m.Unsubscribe("b")
	after(2 * time.Minute)
	if all := w.topics.All(); !maps.Equal(all, map[string]int{"a": 1, "c": 1}) {
		w.t.Errorf("the server has %v, want a and c once", all)
	}
	w.take()
	if n := w.topics.Publish("c", "well"); n != 1 {
		w.t.Errorf("c is on %d connections", n)
	}
	if got := w.take(); !slices.Equal(got, []string{"c:well"}) {
		w.t.Errorf("delivered %q", got)
	}
}

func (w everyWorld) take() []string {
	synctest.Wait()
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	got := w.e.got
	w.e.got = nil
	return got
}

// TestProvoke: the tests that go through callbacks do reach each of them.
func TestProvoke(t *testing.T) {
	for _, callback := range callbacks {
		everywhere(t, callback, wsshard.Config{}, func(w everyWorld) {
			w.provoke()
			if w.e.called(callback) == 0 {
				t.Errorf("%s was not called", callback)
			}
			w.wantWell()
		})
	}
}
