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
	if err := m.Start(context.Background()); err != nil { // its ctx is the manager's life: no timeout here
		fmt.Println(err)
		return
	}
	defer stop(m)

	m.Subscribe("BTC", "ETH", "SOL")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := m.Sync(ctx); err != nil {
		fmt.Println(err)
		return
	}
	<-h.seen
	fmt.Println(m.TotalSubscriptions(), "topics on", m.ShardCount(), "shards")
	// Output: 3 topics on 2 shards
}

// stop gives the connections a few seconds to say goodbye.
func stop(m *wsshard.ShardManager[string]) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		fmt.Println(err)
	}
}

var _ wsshard.Handler[string] = (*exampleQueue)(nil)

// exampleQueue is a handler whose work is done by another goroutine.
type exampleQueue struct {
	exampleFeed
	ch chan wsshard.Message
}

// OnMessage hands a message on. Where nobody takes it the connection is not read, and the peer feels that; ctx ends when the
// connection has delivered its last or Stop gives up, so that nothing waits for ever.
func (q *exampleQueue) OnMessage(ctx context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
	select {
	case q.ch <- msg:
	case <-ctx.Done():
	}
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
