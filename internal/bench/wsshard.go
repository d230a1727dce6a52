package main

import (
	"context"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: how do we run?

// handler keeps Subs topics on each shard.
type handler struct{ j *job }

var _ wsshard.Handler[string] = (*handler)(nil)

func (h *handler) URL(context.Context, wsshard.ConnectionState) (string, error) { return h.j.URL, nil }

func (h *handler) SubscriptionMessage(wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("sub"), nil
}

func (h *handler) OnMessage(_ context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	h.j.consumers[st.ShardID].message(msg.Data)
}

func newManager(j *job, lowLatency bool) (*wsshard.ShardManager[string], error) {
	cfg := wsshard.Config{
		MaxSubscriptionsPerShard: j.Subs,
		ShardSelection:           wsshard.Sequential,
		Connection: wsshard.ConnectionConfig{
			LowLatencyMode:     lowLatency,
			TLSConfig:          j.tls,
			ReadBufferSize:     j.Buffer,
			MaxConcurrentDials: maxDials,
		},
		Backoff: wsshard.BackoffConfig{InitialDelay: time.Millisecond},
	}
	if j.Mode == "idle" || j.Mode == "memory" {
		cfg.Health = wsshard.HealthConfig{PingInterval: -1, DataTimeout: -1}
	}
	if j.Mode != "memory" && j.Mode != "replay" {
		cfg.Subscribe.MaxPerMessage = 1 // as the others do
	}
	return wsshard.New(&handler{j}, cfg)
}

func runWsshard(j *job, lowLatency bool) error {
	m, err := newManager(j, lowLatency)
	if err != nil {
		return err
	}
	return keepUp(j, m)
}

// keepUp subscribes and connects.
func keepUp(j *job, m *wsshard.ShardManager[string]) error {
	if _, err := m.Subscribe(j.topics...); err != nil {
		return err
	}
	if err := m.Start(context.Background()); err != nil {
		return err
	}
	return m.Sync(context.Background())
}
