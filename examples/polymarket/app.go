package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what does an application implement?

// app is the application's side of the market channel. A subscription is an asset id.
type app struct {
	url   string
	board board

	mu    sync.Mutex // protects following, and the order of what is printed
	out   io.Writer
	began time.Time
	seen  counts // as of the last line
	last  error  // why some shard is not connected
}

func newApp(url string, out io.Writer) *app {
	return &app{url: url, out: out, began: time.Now(), board: board{assets: make(map[string]*quote)}}
}

// A method with a wrong signature would not be called; these lines make the compiler say so.
var (
	_ wsshard.Handler[string]       = (*app)(nil)
	_ wsshard.Unsubscriber[string]  = (*app)(nil)
	_ wsshard.Inspector[string]     = (*app)(nil)
	_ wsshard.EventObserver[string] = (*app)(nil)
)

// URL is asked before every dial.
func (a *app) URL(context.Context, wsshard.ConnectionState) (string, error) { return a.url, nil }

// SubscriptionMessage serves the first subscription and every replay after a reconnect. The venue wants the first request of
// a connection to look different.
func (a *app) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	if req.First {
		return wsshard.JSON(request{Assets: req.Subs, Type: "market"})
	}
	return wsshard.JSON(request{Assets: req.Subs, Operation: "subscribe"})
}

func (a *app) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.JSON(request{Assets: req.Subs, Operation: "unsubscribe"})
}

// Inspect parses each message, once. Naming the assets makes their first book the proof that they are subscribed, and lets
// IsSubscriptionFresh answer for each.
//
// No message gets a Key. Books and price changes mean nothing without each other, and nothing in a trade is its own: one
// transaction settles many, two of which may look the same. So a trade that both connections of a switchover bring is
// counted twice; a Key that is not unique would lose one instead.
func (a *app) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) wsshard.Verdict[string] {
	evs, err := parseEvents(msg.Data)
	if err != nil || len(evs) == 0 { // "INVALID OPERATION", or []: no sign that data flows
		return wsshard.Verdict[string]{NoData: true, Value: evs}
	}
	return wsshard.Verdict[string]{Subs: assets(evs), Value: evs}
}

// OnMessage is the application's work. Inspect has left what it parsed.
func (a *app) OnMessage(_ context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	evs := msg.Value.([]event)
	if evs == nil {
		a.say("shard %d: not understood: %.80q", st.ShardID, msg.Data)
	}
	a.board.take(evs)
}

// OnEvent hears what happens to the connections.
func (a *app) OnEvent(ev wsshard.Event[string]) {
	switch ev.Kind {
	case wsshard.EventConnected:
		a.say("shard %d: connected (connection %d)", ev.ShardID, ev.Generation)
	case wsshard.EventDisconnected:
		if !errors.Is(ev.Err, wsshard.ErrStopped) {
			a.say("shard %d: lost: %v", ev.ShardID, ev.Err)
		}
	case wsshard.EventBreakerOpen:
		a.say("the server does not answer: next attempt in %v", ev.Delay)
	case wsshard.EventBackoff:
		a.mu.Lock()
		a.last = ev.Err
		a.mu.Unlock()
		a.say("shard %d: again in %v: %v", ev.ShardID, ev.Delay.Round(time.Millisecond), ev.Err)
	case wsshard.EventSwitchoverStarted:
		a.say("shard %d: moves to a new connection (%s)", ev.ShardID, ev.Switchover.Trigger)
	case wsshard.EventSwitchoverFailed:
		a.say("shard %d: stays where it is: %v", ev.ShardID, ev.Err)
	case wsshard.EventGap:
		a.say("shard %d: may have missed %v of %d assets", ev.ShardID, ev.To.Sub(ev.From).Round(time.Millisecond), len(ev.Subs))
	}
}

// trouble is why a shard was not connected last; nil: none ever was.
func (a *app) trouble() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

func (a *app) say(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.printLocked(format, args...)
}

func (a *app) printLocked(format string, args ...any) {
	fmt.Fprintf(a.out, "%8.3fs  %s\n", time.Since(a.began).Seconds(), fmt.Sprintf(format, args...))
}

// line prints what happened since the last one.
func (a *app) line(m wsshard.Metrics, every time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.board.counts()
	a.printLocked("%d of %d connected, %d of %d assets with a book, %.0f events/s, %d trades",
		m.ActiveConnections, len(m.Shards), now.books, m.TotalSubscriptions,
		float64(now.events-a.seen.events)/every.Seconds(), now.trades)
	a.seen = now
}

// summary prints the busiest assets.
func (a *app) summary(m wsshard.Metrics) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	for i, row := range a.board.busiest(12) {
		if i == 0 {
			fmt.Fprintln(w, "\nasset\tbid\task\tlast\ttick\tevents\t")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t\n", short(row.asset), row.bid, row.ask, row.last, row.tick, row.events)
	}
	_ = w.Flush()
	n := a.board.counts()
	fmt.Fprintf(a.out, "%s\n%d events, %d of them trades, of %d assets; %d connections, %d reconnects, %d hot switchovers, %d gaps.\n",
		b.String(), n.events, n.trades, n.assets, m.ActiveConnections, m.Reconnections, m.HotSwitchovers, m.Gaps)
}

// short leaves enough of an asset id's 77 digits to know it again.
func short(asset string) string {
	if len(asset) <= 14 {
		return asset
	}
	return asset[:6] + "…" + asset[len(asset)-6:]
}
