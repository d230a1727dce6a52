package harness

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing/synctest"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what does an application hear?

// App is a handler for wstest.Topics, with what it heard.
type App struct {
	Addr    string
	Message func(ctx context.Context, msg wsshard.Message, st wsshard.ConnectionState)
	Judge   func(err error) bool
	Connect func(ctx context.Context, st wsshard.ConnectionState) ([]wsshard.Message, error)
	Encode  func(sign string, req wsshard.Request[string]) (wsshard.Message, error)

	Mu     sync.Mutex
	Got    []string
	Causes []error
	events []wsshard.Event[string]
}

func (a *App) URL(context.Context, wsshard.ConnectionState) (string, error) {
	if a.Addr == "" {
		return "ws://srv/", nil
	}
	return a.Addr, nil
}

// Request encodes a request as wstest.Topics reads it, behind a sign.
func (a *App) Request(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
	if a.Encode != nil {
		return a.Encode(sign, req)
	}
	return wsshard.Text(sign + strings.Join(req.Subs, ",")), nil
}

func (a *App) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return a.Request("+", req)
}

func (a *App) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return a.Request("-", req)
}

func (a *App) OnMessage(ctx context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	if a.Message != nil {
		a.Message(ctx, msg, st)
	}
	a.Mu.Lock()
	defer a.Mu.Unlock()
	a.Got = append(a.Got, msg.String())
}

func (a *App) OnConnect(ctx context.Context, st wsshard.ConnectionState) ([]wsshard.Message, error) {
	if a.Connect != nil {
		return a.Connect(ctx, st)
	}
	return nil, nil
}

func (a *App) OnDisconnect(_ context.Context, cause error, _ wsshard.ConnectionState) {
	a.Mu.Lock()
	defer a.Mu.Unlock()
	a.Causes = append(a.Causes, cause)
}

func (a *App) OnError(_ context.Context, err error, _ wsshard.ConnectionState) bool {
	return a.Judge == nil || a.Judge(err)
}

func (a *App) OnEvent(ev wsshard.Event[string]) {
	a.Mu.Lock()
	defer a.Mu.Unlock()
	a.events = append(a.events, ev)
}

// Take returns what was delivered since the last call.
func (a *App) Take() []string {
	synctest.Wait()
	a.Mu.Lock()
	defer a.Mu.Unlock()
	got := a.Got
	a.Got = nil
	return got
}

// TakeCauses returns what OnDisconnect heard since the last call.
func (a *App) TakeCauses() []error {
	synctest.Wait()
	a.Mu.Lock()
	defer a.Mu.Unlock()
	got := a.Causes
	a.Causes = nil
	return got
}

// TakeEvents returns the events of these kinds since the last call; the others are dropped.
func (a *App) TakeEvents(kinds ...wsshard.EventKind) (evs []wsshard.Event[string]) {
	synctest.Wait()
	a.Mu.Lock()
	defer a.Mu.Unlock()
	for _, ev := range a.events {
		if len(kinds) == 0 || slices.Contains(kinds, ev.Kind) {
			evs = append(evs, ev)
		}
	}
	a.events = nil
	return evs
}

var (
	_ wsshard.Handler[string]       = (*App)(nil)
	_ wsshard.Unsubscriber[string]  = (*App)(nil)
	_ wsshard.ConnectHandler        = (*App)(nil)
	_ wsshard.DisconnectHandler     = (*App)(nil)
	_ wsshard.ErrorHandler          = (*App)(nil)
	_ wsshard.EventObserver[string] = (*App)(nil)
)
