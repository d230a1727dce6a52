package main

import (
	"context"
	"sync"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/feed"
)

// This file answers: what does an application implement so that a switchover loses nothing and repeats nothing?

// app is the application's side of the feed's protocol. Answers prove that a new connection is subscribed, keys tell what
// both connections delivered.
type app struct {
	url    string
	shards []shard
}

// shard is what the handler saw of one shard. OnMessage is never concurrent for it.
type shard struct {
	tally feed.Tally

	mu         sync.Mutex // protects following
	last       time.Time  // when the last tick came; zero: none, or nobody looks yet
	longest    time.Duration
	generation uint64 // of the connection that delivered it

	_ [64]byte // the next shard is another goroutine's
}

var (
	_ wsshard.Handler[string]      = (*app)(nil)
	_ wsshard.Inspector[string]    = (*app)(nil)
	_ wsshard.Acknowledger[string] = (*app)(nil)
)

func (a *app) URL(context.Context, wsshard.ConnectionState) (string, error) { return a.url, nil }

func (a *app) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.JSON(feed.Request{Op: feed.Subscribe, ID: req.ID, Topics: req.Subs})
}

// Inspect gives each tick a key: it means the same on both connections, and comes once. Only while a switchover is under way
// does anybody look at it.
func (a *app) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	if tick, ok := feed.ParseTick(msg.Data); ok {
		v.Key, v.Value = string(msg.Data), tick
	}
	return v
}

// Acknowledge tells the library which request the server confirms: from then on its topics are live.
func (a *app) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (wsshard.Ack[string], bool) {
	if msg.Value != nil {
		return wsshard.Ack[string]{}, false
	}
	reply, ok := feed.ParseReply(msg.Data)
	return wsshard.Ack[string]{Request: reply.Ack}, ok && reply.Error == ""
}

func (a *app) OnMessage(_ context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	tick, ok := msg.Value.(feed.Tick)
	if !ok {
		return
	}
	now := time.Now()
	s := &a.shards[st.ShardID]
	s.tally.Seen(tick.Topic, tick.N)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.IsZero() {
		s.longest = max(s.longest, now.Sub(s.last))
	}
	s.last, s.generation = now, st.Generation
}

// silence returns how long the handler heard nothing at most since the last call, and begins anew.
func (s *shard) silence() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	longest := s.longest
	s.longest = 0
	return longest
}

// served is which connection delivered last.
func (s *shard) served() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation
}
