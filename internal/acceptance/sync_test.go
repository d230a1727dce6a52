package acceptance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// slowly is a configuration in which one topic is written every 1.1 s, and nothing else happens.
func slowly() wsshard.Config {
	return wsshard.Config{
		Subscribe:  wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 1},
		Health:     wsshard.HealthConfig{PingInterval: -1, DataTimeout: -1},
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: -1},
	}
}

// waitFor runs Sync in the background and returns what gives its result.
func (w *world) waitFor(ctx context.Context, subs ...string) (result func() error, returned func() bool) {
	done := make(chan error, 1)
	go func() { done <- w.m.Sync(ctx, subs...) }()
	return func() error { return <-done }, func() bool { synctest.Wait(); return len(done) > 0 }
}

// Sync waits for what it names, all of it and no more.
func TestSyncWaitsForWhatItNames(t *testing.T) {
	bubble(t, slowly(), nil, func(w *world) {
		w.subscribe("a", "b", "c", "d")
		begin := time.Now()
		w.m.Start(context.Background())
		took := func(want time.Duration, subs ...string) {
			t.Helper()
			w.sync(subs...)
			if d := time.Since(begin); d != want {
				t.Errorf("Sync(%q) returned after %v, want %v", subs, d, want)
			}
		}
		const beat = 1100 * time.Millisecond
		took(0, "a")
		took(beat, "a", "b", "b", "a")
		took(3*beat, "d")
		took(3 * beat)
		w.m.Resubscribe("a") // is taken back and asked for anew
		took(5*beat, "a")
		w.m.Unsubscribe("b")
		w.subscribe("e")
		took(7*beat, "e")
		w.wantTopics("a", "c", "d", "e")
	})
}

func TestSyncWithNothingToWaitFor(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		if err := w.m.Sync(context.Background()); err != nil {
			t.Errorf("nothing wanted, not started: %v", err)
		}
		w.start()
		w.sync()
	})
}

func TestSyncBeforeStart(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.subscribe("a")
		result, returned := w.waitFor(context.Background())
		after(time.Hour)
		if returned() {
			t.Fatal("Sync did not wait for Start")
		}
		w.m.Start(context.Background())
		if err := result(); err != nil {
			t.Error(err)
		}
		w.wantTopics("a")
	})
}

// Whenever Stop comes, a Sync that waits says so, and not that its shard is parked.
func TestSyncStopped(t *testing.T) {
	for name, begin := range map[string]func(w *world){
		"before Start": func(w *world) {},
		"connecting": func(w *world) {
			w.net.OnDial(func(ctx context.Context, _ int, _ string) error { <-ctx.Done(); return ctx.Err() })
			w.m.Start(context.Background())
		},
		"backoff": func(w *world) {
			w.srv.Down()
			w.m.Start(context.Background())
			after(time.Minute)
		},
		"connected": func(w *world) {
			w.m.Start(context.Background())
			after(time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, slowly(), nil, func(w *world) {
				w.subscribe(numbered(600)...) // on two shards, for longer than anybody waits
				begin(w)
				all, _ := w.waitFor(context.Background())
				one, _ := w.waitFor(context.Background(), "t0599")
				synctest.Wait()
				w.m.Stop(context.Background())
				for what, err := range map[string]error{"Sync": all(), "Sync of one": one(), "Sync afterwards": w.m.Sync(context.Background())} {
					if !errors.Is(err, wsshard.ErrStopped) || errors.Is(err, wsshard.ErrShardParked) {
						t.Errorf("%s: %v", what, err)
					}
				}
			})
		})
	}
}

func TestSyncCancelled(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		w.subscribe("a")
		why := errors.New("no longer interested")
		ctx, cancel := context.WithCancelCause(context.Background())
		result, _ := w.waitFor(ctx)
		cancel(why)
		if err := result(); err != why {
			t.Errorf("Sync: %v, want the cause", err)
		}
		limited, cancel2 := context.WithTimeout(context.Background(), time.Second)
		defer cancel2()
		begin := time.Now()
		if err := w.m.Sync(limited); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("Sync: %v after %v", err, time.Since(begin))
		}
		w.m.Start(context.Background())
		w.sync()
	})
}

// What was written on a connection that is lost must be written again.
func TestSyncOverReconnects(t *testing.T) {
	bubble(t, slowly(), nil, func(w *world) {
		w.subscribe("a", "b", "c")
		w.m.Start(context.Background())
		all, returned := w.waitFor(context.Background())
		first, _ := w.waitFor(context.Background(), "a")
		after(1200 * time.Millisecond) // two are written
		if err := first(); err != nil || returned() {
			t.Fatalf("after two of three: %v, all done %v", err, returned())
		}
		w.srv.Down()
		after(time.Minute)
		if returned() {
			t.Fatal("Sync returned while nothing is connected")
		}
		w.srv.Restart()
		if err := all(); err != nil {
			t.Error(err)
		}
		w.wantTopics("a", "b", "c")

		w.srv.Down() // what was synced once is not for ever
		after(time.Second)
		again, returned := w.waitFor(context.Background(), "a")
		if returned() {
			t.Error("Sync returned while nothing is connected")
		}
		w.srv.Restart()
		if err := again(); err != nil {
			t.Error(err)
		}
	})
}

// A topic that is taken back while Sync waits is waited for no more, and is no error.
func TestSyncWhileUnsubscribing(t *testing.T) {
	bubble(t, slowly(), nil, func(w *world) {
		w.start("a")
		w.subscribe("b", "c", "d")
		all, _ := w.waitFor(context.Background())
		one, _ := w.waitFor(context.Background(), "d")
		both, _ := w.waitFor(context.Background(), "b", "d")
		synctest.Wait()
		begin := time.Now()
		w.m.Unsubscribe("c", "d")
		if err := one(); err != nil || time.Since(begin) > 0 {
			t.Errorf("Sync of what is not wanted any more: %v after %v", err, time.Since(begin))
		}
		for _, result := range []func() error{both, all} {
			if err := result(); err != nil {
				t.Error(err)
			}
		}
		w.wantTopics("a", "b")
	})
}

func TestSyncUnknown(t *testing.T) {
	bubble(t, slowly(), nil, func(w *world) {
		w.start("a")
		w.subscribe("b")
		begin := time.Now()
		err := w.m.Sync(context.Background(), "x", "b", "y", "a")
		if time.Since(begin) != 1100*time.Millisecond {
			t.Errorf("Sync did not wait for the known one: %v", time.Since(begin))
		}
		var unknown []string
		for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
			var se *wsshard.SubscriptionError[string]
			if !errors.As(err, &se) || !errors.Is(err, wsshard.ErrNotSubscribed) {
				t.Errorf("%v", err)
				continue
			}
			unknown = append(unknown, se.Sub)
		}
		if got := strings.Join(unknown, ","); got != "x,y" {
			t.Errorf("unknown: %q", got)
		}
	})
}

// Parked shards are named, topics that fail are too, and the rest is waited for.
func TestSyncJoinsAll(t *testing.T) {
	cfg := slowly()
	cfg.MaxSubscriptionsPerShard, cfg.ShardSelection = 2, wsshard.Sequential
	bubble(t, cfg, nil, func(w *world) {
		w.app.encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if req.Subs[0] == "bad" {
				return wsshard.Message{}, errBadTopic
			}
			return asTopics(sign, req)
		}
		w.start("a", "b", "c", "d")
		synctest.Wait()
		w.park("a")
		w.m.Unsubscribe("d")
		w.subscribe("bad", "e") // on shards 1 and 2
		err := w.m.Sync(context.Background())
		var se *wsshard.SubscriptionError[string]
		if !errors.Is(err, wsshard.ErrShardParked) || !errors.As(err, &se) || se.Sub != "bad" || se.Err != errBadTopic {
			t.Errorf("Sync: %v", err)
		}
		if !strings.Contains(fmt.Sprint(err), "shard 0") {
			t.Errorf("%q does not say which shard", err)
		}
		w.wantTopics("c", "e")
		w.sync("c", "e") // the others are none of their business
		if err := w.m.Sync(context.Background(), "b"); !errors.Is(err, wsshard.ErrShardParked) {
			t.Errorf("Sync of a parked one: %v", err)
		}
	})
}

// Parking ends the Syncs that wait already.
func TestSyncWhileParking(t *testing.T) {
	cfg := slowly()
	cfg.Connection.MaxConnectAttempts = 3
	bubble(t, cfg, nil, func(w *world) {
		w.srv.Down()
		w.subscribe("a")
		result, _ := w.waitFor(context.Background())
		w.m.Start(context.Background())
		if err := result(); !errors.Is(err, wsshard.ErrShardParked) {
			t.Errorf("Sync: %v", err)
		}
	})
}

// Many Syncs of many topics in the middle of everything: each returns once its own topics are there.
func TestSyncManyAtOnce(t *testing.T) {
	cfg := slowly()
	cfg.MaxSubscriptionsPerShard, cfg.Subscribe.MaxPerMessage = 50, 5
	bubble(t, cfg, nil, func(w *world) {
		topics := numbered(500)
		w.subscribe(topics...)
		var waits sync.WaitGroup
		for i := range 500 {
			waits.Go(func() {
				ctx := context.Background()
				if i%5 == 4 {
					short, cancel := context.WithTimeout(ctx, time.Duration(i)*10*time.Millisecond)
					defer cancel()
					ctx = short
				}
				err := w.m.Sync(ctx, topics[i])
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Sync %d: %v", i, err)
				}
				time.Sleep(time.Millisecond) // written is not yet received
				if err == nil && w.topics.All()[topics[i]] == 0 {
					t.Errorf("Sync %d returned without %q", i, topics[i])
				}
				if err := w.m.Sync(context.Background(), topics[(i*7)%500], topics[(i*31)%500]); err != nil {
					t.Errorf("Sync of two: %v", err)
				}
			})
		}
		w.m.Start(context.Background())
		waits.Go(func() {
			for i := range 5 {
				time.Sleep(2 * time.Second)
				w.srv.Conn(i).Kill()
			}
		})
		waits.Wait()
		w.sync()
		w.wantTopics(topics...)
	})
}

// acker is an app whose server confirms each request.
type acker struct{ *app }

func (acker) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (ack wsshard.Ack[string], ok bool) {
	request, ok := strings.CutPrefix(msg.String(), "ack:")
	if ok && request[0] != '-' {
		ack.Confirmed = strings.Split(request[1:], ",")
	}
	return ack, ok
}

// With an Acknowledger, written is not enough.
func TestSyncWaitsForAcks(t *testing.T) {
	bubble(t, wsshard.Config{}, func(a *app) wsshard.Handler[string] { return acker{a} }, func(w *world) {
		w.topics.Ack(true)
		w.net.SetLatency(50 * time.Millisecond)
		begin := time.Now()
		w.start("a", "b")
		if took := time.Since(begin); took != 200*time.Millisecond {
			t.Errorf("Sync took %v, want the handshake's and the request's round trip", took)
		}
	})
}

func TestSyncInsideCallback(t *testing.T) {
	bubble(t, wsshard.Config{}, nil, func(w *world) {
		var err error
		w.app.message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) {
			w.m.Subscribe("b")
			err = w.m.Sync(ctx, "b")
		}
		w.start("a")
		synctest.Wait()
		w.topics.Publish("a", "1")
		synctest.Wait()
		if !errors.Is(err, wsshard.ErrInCallback) {
			t.Errorf("Sync: %v", err)
		}
		w.sync()
		w.wantTopics("a", "b")
	})
}
