// Package wsshard keeps a changing set of subscriptions alive over as many WebSocket connections as they need.
//
// A feed that caps topics per connection, connections per address and messages per second, that drops every connection
// after a day and now and then goes silent while it still answers pings: this package stands between such a feed and an
// application that wants one thing, its topics, live. The application implements [Handler] and calls
// [ShardManager.Subscribe]; the manager opens shards, connects, subscribes, watches, reconnects and replaces connections.
//
// # The model: two sets and a loop
//
// A shard is a slot with an id and room for so many topics. It owns the desired set, each topic with the number of the
// request that wants it, and outlives connections. A session is one connection of a shard. It owns the applied set, what has
// been written on this connection, with the same numbers. The session's loop writes the next batch of the difference, waits
// its pace, and looks again. Subscribing while down, replaying after a reconnect, a fresh snapshot after a sequence gap, and a
// hot switchover (a second session, with nothing applied) are all this one loop. None of them can fail half-way, because
// applied dies with its socket.
//
// # What is promised
//
//   - What is subscribed is on exactly one shard, never more topics on a connection than its limit, and on the server as soon
//     as the pace allows; [ShardManager.Sync] waits for that.
//   - OnMessage of one shard is never concurrent, and in order: all of one connection, then all of the next.
//   - A hot switchover loses nothing when subscriptions are proven by acknowledgements ([Acknowledger]), or honoured within
//     Config.Switchover.Settle, and the server's connections run at most Linger apart. See [ShardManager.HotSwitchover].
//   - Where messages may have been missed, an [EventGap] says for which topics, from when to when.
//   - No panic of a callback, no peer and no configuration that New accepts ends a shard in silence: it is live, on its way,
//     or parked, and an event says so.
//   - Stop returns within its context, and then no socket is open. No credential is in any error, log record, event or metric.
//
// # Where things are
//
// Callbacks may block: that slows their shard down and nothing else, the peer feels it as back-pressure, and no deadline
// counts the time. Everything may be called from everywhere; Stop, Sync and HotSwitchover do not wait inside a callback.
//
// manager.go: how a manager begins and ends. subscribe.go: where a subscription goes. shard.go: how a shard keeps one session
// live. attempt.go and dialer.go: how a connection is opened. gate.go: when it may be. session.go, read.go, write.go, request.go:
// one connection. switchover.go, cutover.go, relay.go, proof.go: how it is replaced. health.go: when it is sick. gap.go: what was
// missed.
package wsshard
