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
//   - Callbacks may block: that slows their shard down and nothing else, the peer feels it as back-pressure, and no deadline
//     counts the time. Everything may be called from everywhere; Stop, Sync and HotSwitchover do not wait inside a callback.
//   - What a peer can make the process hold is bounded: one message, all unfinished ones together, what a switchover holds. Dials
//     to a host keep to a budget and to one gate.
//
// docs/promises.md names the test of each promise.
//
// # Where things are
//
// The contract: handler.go (what the application implements), config.go (what can be set; validate.go: what New refuses),
// errors.go (and how an address is shown), events.go, metrics.go, marshal.go (how all that looks in JSON and in a log), inspect.go (what can be asked).
//
// The manager: manager.go (how it begins and ends), core.go (what all its parts share), run.go (what lives from a Start to the end of
// its Stop), subscribe.go (where a subscription goes), sync.go (when it is true on the server), send.go (how the application's own
// message gets out), capabilities.go (which optional interfaces the handler has), guard.go (how it is called), panics.go (how that is
// logged).
//
// A shard: shard.go (how it keeps one session live), slot.go (what its sessions share), backoff.go (when it tries again; a budget for dials), gap.go (what
// was missed), told.go (what it hears of a connection's topics), freshness.go (which topics have data), resubscribing.go (which wait for a fresh snapshot).
//
// Opening a connection: attempt.go (the steps), dialer.go and proxy.go (the way), gate.go and internal/gate (when it may begin), judge.go (what a
// failure says of the host).
//
// A connection: session.go (how it lives and ends; the flow of a message in each direction), its three parts read.go (a message that
// comes), write.go (what is written, and when) and board.go (what they tell others), request.go (the next request), outbox.go (what
// else waits to be written), pen.go (how a frame leaves), pace.go (may it leave), health.go (is it sick; which ping
// is answered), claims.go and answer.go (which topics are proven).
//
// Replacing one: switchover.go (who asks, who joins), change.go (the steps), cutover.go (when), relay.go (what is held), handover.go
// (how delivery is handed over).
//
// Small things: util.go; hook.go (what only tests may do).
//
// Inside: internal/reconcile (wanted and written), internal/placement (which shard), internal/lean (maps that give back what they no longer
// need), internal/wsconn (one socket). For tests and
// programs: internal/acceptance/ (every promise seen from outside, a suite for each: lifecycle, delivery, subscriptions, switchover,
// gaps, health, egress, gate, faults, chaos; harness is what they are written with) and internal/hook (their only back door), internal/wstest
// (a scripted net for bubbles), internal/feed (a numbered feed on loopback), internal/house (the rules of this tree), and modules of their own:
// internal/bench, internal/mutate, internal/realworld/proxies and internal/realworld/servers (those that people run), internal/realworld/program
// (starts them).
//
// In docs: architecture, promises, debugging at night, decisions.
package wsshard
