package harness

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what became of a switchover?

// call is a HotSwitchover under way.
type SwCall struct {
	Began  time.Time
	Done   chan struct{}
	Err    error
	Ended  time.Time
	Cancel context.CancelFunc
}

// Hot asks for a switchover of a shard and lets everything happen that takes no time.
func (w *World) Hot(shard int) *SwCall {
	ctx, cancel := context.WithCancel(context.Background())
	c := &SwCall{Began: time.Now(), Done: make(chan struct{}), Cancel: cancel}
	go func() {
		defer cancel()
		c.Err = w.M.HotSwitchover(ctx, shard)
		c.Ended = time.Now()
		close(c.Done)
	}()
	After(0)
	return c
}

// Over reports whether the call has returned.
func (c *SwCall) Over() bool {
	select {
	case <-c.Done:
		return true
	default:
		return false
	}
}

// Want waits for the end, which must come with err after exactly so long.
func (c *SwCall) Want(t *testing.T, err error, took time.Duration) {
	t.Helper()
	<-c.Done
	if !errors.Is(c.Err, err) {
		t.Errorf("HotSwitchover: %v, want %v", c.Err, err)
	}
	if d := c.Ended.Sub(c.Began); d != took {
		t.Errorf("HotSwitchover took %v, want %v", d, took)
	}
	After(0)
}

// SlowClose has a connection answer the close frame late, after saying more. It notes when that came in at.
func SlowClose(p *wstest.Peer, at *time.Time, late time.Duration, more ...string) (handler func(int, string) error) {
	handler = func(code int, _ string) error {
		*at = time.Now()
		for _, text := range more {
			p.Send(text)
		}
		time.Sleep(late)
		p.Conn().WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
		return nil
	}
	p.Conn().SetCloseHandler(handler)
	return handler
}
