package acceptance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// fewer is how often something is done: all times, or short times with -short.
func fewer(all, short int) int {
	if testing.Short() {
		return min(all, short)
	}
	return all
}

// app is a handler for wstest.Topics, with what it heard.
type app struct {
	url       string
	message   func(ctx context.Context, msg wsshard.Message, st wsshard.ConnectionState)
	onError   func(err error) bool
	onConnect func(ctx context.Context, st wsshard.ConnectionState) ([]wsshard.Message, error)
	encode    func(sign string, req wsshard.Request[string]) (wsshard.Message, error)

	mu     sync.Mutex
	got    []string
	causes []error
	events []wsshard.Event[string]
}

func (a *app) URL(context.Context, wsshard.ConnectionState) (string, error) {
	if a.url == "" {
		return "ws://srv/", nil
	}
	return a.url, nil
}

func (a *app) request(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
	if a.encode != nil {
		return a.encode(sign, req)
	}
	return wsshard.Text(sign + strings.Join(req.Subs, ",")), nil
}

func (a *app) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return a.request("+", req)
}

func (a *app) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return a.request("-", req)
}

func (a *app) OnMessage(ctx context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	if a.message != nil {
		a.message(ctx, msg, st)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, msg.String())
}

func (a *app) OnConnect(ctx context.Context, st wsshard.ConnectionState) ([]wsshard.Message, error) {
	if a.onConnect != nil {
		return a.onConnect(ctx, st)
	}
	return nil, nil
}

func (a *app) OnDisconnect(_ context.Context, cause error, _ wsshard.ConnectionState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.causes = append(a.causes, cause)
}

func (a *app) OnError(_ context.Context, err error, _ wsshard.ConnectionState) bool {
	return a.onError == nil || a.onError(err)
}

func (a *app) OnEvent(ev wsshard.Event[string]) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, ev)
}

// take returns what was delivered since the last call.
func (a *app) take() []string {
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	got := a.got
	a.got = nil
	return got
}

// takeCauses returns what OnDisconnect heard since the last call.
func (a *app) takeCauses() []error {
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	got := a.causes
	a.causes = nil
	return got
}

// takeEvents returns the events of these kinds since the last call; the others are dropped.
func (a *app) takeEvents(kinds ...wsshard.EventKind) (evs []wsshard.Event[string]) {
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ev := range a.events {
		if len(kinds) == 0 || slices.Contains(kinds, ev.Kind) {
			evs = append(evs, ev)
		}
	}
	a.events = nil
	return evs
}

var (
	_ wsshard.Handler[string]       = (*app)(nil)
	_ wsshard.Unsubscriber[string]  = (*app)(nil)
	_ wsshard.ConnectHandler        = (*app)(nil)
	_ wsshard.DisconnectHandler     = (*app)(nil)
	_ wsshard.ErrorHandler          = (*app)(nil)
	_ wsshard.EventObserver[string] = (*app)(nil)
)

// world is a bubble with a network, a server of topics and a manager.
type world struct {
	t      *testing.T
	net    *wstest.Net
	srv    *wstest.Server
	topics *wstest.Topics
	app    *app
	m      *wsshard.ShardManager[string]
	seen   int // dials that were looked at
}

// bubble runs a script against a manager that is not started yet; at the end it is stopped and nothing may be left. h, when
// not nil, wraps the app into the handler to test.
func bubble(t *testing.T, cfg wsshard.Config, h func(*app) wsshard.Handler[string], script func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: wstest.NewNet(), app: &app{}}
		w.srv = wstest.NewServer(t, w.net, "srv:80")
		w.topics = wstest.NewTopics(w.srv)
		if cfg.Connection.NetDialContext == nil {
			cfg.Connection.NetDialContext = w.net.DialContext
		}
		var handler wsshard.Handler[string] = w.app
		if h != nil {
			handler = h(w.app)
		}
		m, err := wsshard.New(handler, cfg)
		if err != nil {
			t.Fatal(err)
		}
		w.m = m
		defer func() { // also after t.Fatal in the script
			if err := m.Stop(context.Background()); err != nil {
				t.Errorf("Stop: %v", err)
			}
			synctest.Wait()
			if n := w.net.Open(); n != 0 {
				t.Errorf("%d sockets are open after Stop", n)
			}
		}()
		script(w)
	})
}

func (w *world) start(subs ...string) {
	w.t.Helper()
	w.subscribe(subs...)
	if err := w.m.Start(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.sync()
}

func (w *world) subscribe(subs ...string) {
	w.t.Helper()
	if _, err := w.m.Subscribe(subs...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) sync(subs ...string) {
	w.t.Helper()
	if err := w.m.Sync(context.Background(), subs...); err != nil {
		w.t.Fatalf("Sync: %v", err)
	}
	synctest.Wait() // written is not read yet
}

// wantGot checks what was delivered since the last look.
func (w *world) wantGot(want ...string) {
	w.t.Helper()
	if got := w.app.take(); !slices.Equal(got, want) {
		w.t.Errorf("delivered %q, want %q", got, want)
	}
}

// wantTopics checks the server's own table: each topic on one live connection, and nothing else.
func (w *world) wantTopics(want ...string) {
	w.t.Helper()
	synctest.Wait()
	got := []string{}
	for topic, n := range w.topics.All() {
		if n != 1 {
			w.t.Errorf("%q is on %d connections", topic, n)
		}
		got = append(got, topic)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.t.Errorf("server has %q, want %q", got, want)
	}
	if errs := w.topics.Errors(); len(errs) > 0 {
		w.t.Errorf("protocol errors: %q", errs)
	}
}

// wantCauses checks what OnDisconnect heard since the last look.
func (w *world) wantCauses(want ...error) {
	w.t.Helper()
	got := w.app.takeCauses()
	if len(got) != len(want) {
		w.t.Errorf("disconnected with %q, want %q", got, want)
		return
	}
	for i := range got {
		if !errors.Is(got[i], want[i]) {
			w.t.Errorf("disconnected with %q, want %q", got[i], want[i])
		}
	}
}

// peerWith is the live connection that has topic: shards dial in any order.
func (w *world) peerWith(topic string) *wstest.Peer {
	w.t.Helper()
	synctest.Wait()
	for _, p := range w.srv.Live() {
		if slices.Contains(w.topics.On(p), topic) {
			return p
		}
	}
	w.t.Fatalf("%q is on no connection", topic)
	return nil
}

func numbered(n int) []string {
	subs := make([]string, n)
	for i := range subs {
		subs[i] = fmt.Sprintf("t%04d", i)
	}
	return subs
}

// after lets time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
