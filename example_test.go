package wsshard_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/feed"
)

// exampleFeed is the handler of the examples; the README calls it feed.
type exampleFeed struct {
	url  string
	seen chan string
}

func (f *exampleFeed) URL(context.Context, wsshard.ConnectionState) (string, error) {
	return f.url, nil
}

func (f *exampleFeed) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.JSON(map[string]any{"op": "subscribe", "id": req.ID, "topics": req.Subs})
}

func (f *exampleFeed) UnsubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.JSON(map[string]any{"op": "unsubscribe", "id": req.ID, "topics": req.Subs})
}

func (f *exampleFeed) OnMessage(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
	if strings.Contains(msg.String(), `"topic"`) {
		select {
		case f.seen <- msg.String():
		default:
		}
	}
}

var (
	_ wsshard.Handler[string]      = (*exampleFeed)(nil)
	_ wsshard.Unsubscriber[string] = (*exampleFeed)(nil)
)

func Example() {
	server, err := feed.Start(feed.Config{Rate: 1000})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	h := &exampleFeed{url: server.URL(), seen: make(chan string, 1)}
	m, err := wsshard.New(h, wsshard.Config{MaxSubscriptionsPerShard: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := m.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	defer m.Stop(ctx)

	m.Subscribe("BTC", "ETH", "SOL")
	if err := m.Sync(ctx); err != nil {
		fmt.Println(err)
		return
	}
	<-h.seen
	fmt.Println(m.TotalSubscriptions(), "topics on", m.ShardCount(), "shards")
	// Output: 3 topics on 2 shards
}

func ExampleNew_invalid() {
	_, err := wsshard.New[string](&exampleFeed{}, wsshard.Config{
		Connection: wsshard.ConnectionConfig{Proxy: "ftp://user:secret@proxy"},
		Backoff:    wsshard.BackoffConfig{Multiplier: 0.5},
	})
	fmt.Println(err)
	// Output:
	// wsshard: Config.Backoff.Multiplier: 0.5: must be a number of at least 1
	// wsshard: Config.Connection.Proxy: ftp://proxy/…: scheme must be socks5, socks5h, http or https
}
