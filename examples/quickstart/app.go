package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/feed"
)

// This file answers: what does an application implement?

// app is the application's side of the feed's protocol: three methods that are needed, and those that help.
type app struct {
	url    string
	began  time.Time
	tally  feed.Tally // safe for concurrent use: shards call OnMessage in parallel
	screen *screen

	mu     sync.Mutex // protects following
	gaps   []gap
	causes map[int]error // why the shard's connection was lost or replaced last
}

// gap is a time in which one shard may have missed something.
type gap struct {
	shard    int
	from, to time.Time
	topics   int
	cause    error
}

// A method with a wrong signature would not be called; these lines make the compiler say so.
var (
	_ wsshard.Handler[string]       = (*app)(nil)
	_ wsshard.Unsubscriber[string]  = (*app)(nil)
	_ wsshard.Acknowledger[string]  = (*app)(nil)
	_ wsshard.EventObserver[string] = (*app)(nil)
)

// URL is asked before every dial.
func (a *app) URL(context.Context, wsshard.ConnectionState) (string, error) { return a.url, nil }

// SubscriptionMessage serves the first subscription and every replay after a reconnect.
func (a *app) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.JSON(feed.Request{Op: feed.Subscribe, ID: req.ID, Topics: req.Subs})
}

func (a *app) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.JSON(feed.Request{Op: feed.Unsubscribe, ID: req.ID, Topics: req.Subs})
}

// Acknowledge makes Sync mean "the server confirmed it", not only "it is written".
func (a *app) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (wsshard.Ack[string], bool) {
	reply, ok := feed.ParseReply(msg.Data)
	if !ok || reply.Error != "" {
		return wsshard.Ack[string]{}, false
	}
	return wsshard.Ack[string]{Request: reply.Ack}, true
}

// OnMessage is the application's work. It is never concurrent for one shard and sees its messages in order.
func (a *app) OnMessage(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
	if tick, ok := feed.ParseTick(msg.Data); ok {
		a.tally.Seen(tick.Topic, tick.N)
	}
}

// OnEvent hears what happens to the connections; here it keeps the gaps for the summary.
func (a *app) OnEvent(ev wsshard.Event[string]) {
	a.screen.event(ev)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch ev.Kind {
	case wsshard.EventDisconnected:
		if !errors.Is(ev.Err, wsshard.ErrReplaced) {
			a.causes[ev.ShardID] = ev.Err
		}
	case wsshard.EventSwitchoverStarted:
		if ev.Switchover != nil {
			a.causes[ev.ShardID] = errors.New(ev.Switchover.Trigger)
		}
	case wsshard.EventGap:
		cause := ev.Err
		if cause == nil {
			cause = a.causes[ev.ShardID]
		}
		a.gaps = append(a.gaps, gap{ev.ShardID, ev.From, ev.To, len(ev.Subs), cause})
	}
}
