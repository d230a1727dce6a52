package faults

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: who is the handler in a cell of the fault matrix, and what does it remember?

// hooks replace what the handler does; nil: what is right.
type hooks struct {
	url     func(ctx context.Context) (string, error)
	header  func(ctx context.Context) (http.Header, error)
	login   func(ctx context.Context, conn wsshard.LoginConn) error
	connect func(ctx context.Context) ([]wsshard.Message, error)
	message func(ctx context.Context, msg wsshard.Message)
	encode  func(sign string, req wsshard.Request[string]) (wsshard.Message, error)
	onError func(err error) bool
	// these only wait
	judge      func(ctx context.Context) // in OnError
	disconnect func()
	event      func()
}

// patient is a cell's handler, for a wstest.Topics that acknowledges: with keys, and with a secret wherever one can be.
type patient struct{ c *cell }

func (p *patient) URL(ctx context.Context, st wsshard.ConnectionState) (string, error) {
	if h := p.c.hook().url; h != nil {
		return h(ctx)
	}
	scheme := p.c.row.scheme
	if scheme == "" {
		scheme = "ws"
	}
	return fmt.Sprintf("%s://srv/%s/%d/%d?token=%s", scheme, harness.Canary, st.ShardID, st.Generation, harness.Canary), nil
}

func (p *patient) ConnectionHeaders(ctx context.Context, _ wsshard.ConnectionState) (http.Header, error) {
	if h := p.c.hook().header; h != nil {
		return h(ctx)
	}
	return http.Header{"Cookie": {"session=" + harness.Canary}, "X-Key": {harness.Canary}}, nil
}

func (p *patient) Login(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
	if h := p.c.hook().login; h != nil {
		return h(ctx, conn)
	}
	return nil
}

func (p *patient) OnConnect(ctx context.Context, _ wsshard.ConnectionState) ([]wsshard.Message, error) {
	if h := p.c.hook().connect; h != nil {
		return h(ctx)
	}
	return []wsshard.Message{wsshard.Text("key " + harness.Canary)}, nil
}

func (p *patient) request(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
	if h := p.c.hook().encode; h != nil {
		return h(sign, req)
	}
	return wsshard.Text(sign + strings.Join(req.Subs, ",")), nil
}

func (p *patient) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return p.request("+", req)
}

func (p *patient) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return p.request("-", req)
}

func (p *patient) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	topic, number, ok := strings.Cut(msg.String(), ":")
	if _, err := strconv.Atoi(number); ok && err == nil {
		v.Key, v.Subs = msg.String(), []string{topic}
	}
	v.Heartbeat = msg.String() == "hb"
	return v
}

func (p *patient) Acknowledge(msg wsshard.Message, st wsshard.ConnectionState) (wsshard.Ack[string], bool) {
	return harness.AcksOfTopics(msg, st)
}

func (p *patient) OnMessage(ctx context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
	p.c.Message(msg)
	if h := p.c.hook().message; h != nil {
		h(ctx, msg)
	}
}

func (p *patient) OnDisconnect(_ context.Context, cause error, st wsshard.ConnectionState) {
	p.c.Disconnected(cause, st)
	if h := p.c.hook().disconnect; h != nil {
		h()
	}
}

func (p *patient) OnError(ctx context.Context, err error, st wsshard.ConnectionState) bool {
	p.c.Failed(err, st)
	h := p.c.hook()
	if h.judge != nil {
		h.judge(ctx)
	}
	return h.onError == nil || h.onError(err)
}

func (p *patient) OnEvent(ev wsshard.Event[string]) {
	p.c.Event(ev)
	if h := p.c.hook().event; h != nil {
		h()
	}
}

var (
	_ wsshard.Handler[string]       = (*patient)(nil)
	_ wsshard.Unsubscriber[string]  = (*patient)(nil)
	_ wsshard.ConnectHandler        = (*patient)(nil)
	_ wsshard.Authenticator         = (*patient)(nil)
	_ wsshard.DisconnectHandler     = (*patient)(nil)
	_ wsshard.ErrorHandler          = (*patient)(nil)
	_ wsshard.HeaderProvider        = (*patient)(nil)
	_ wsshard.Inspector[string]     = (*patient)(nil)
	_ wsshard.Acknowledger[string]  = (*patient)(nil)
	_ wsshard.EventObserver[string] = (*patient)(nil)
)
