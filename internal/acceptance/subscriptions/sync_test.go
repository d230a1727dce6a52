package subscriptions

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
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what does Sync wait for?

// slowly is a configuration in which one topic is written every 1.1 s, and nothing else happens.
func slowly() wsshard.Config {
	return wsshard.Config{
		Subscribe:  wsshard.SubscribeConfig{MaxPerMessage: 1, MessagesPerWindow: 1},
		Health:     wsshard.HealthConfig{PingInterval: -1, DataTimeout: -1},
		Connection: wsshard.ConnectionConfig{ProactiveReconnectInterval: -1},
	}
}

// waitFor runs Sync in the background and returns what gives its result.
func waitFor(w *harness.World, ctx context.Context, subs ...string) (result func() error, returned func() bool) {
	done := make(chan error, 1)
	go func() { done <- w.M.Sync(ctx, subs...) }()
	return func() error { return <-done }, func() bool { synctest.Wait(); return len(done) > 0 }
}

// Sync waits for what it names, all of it and no more.
func TestSyncWaitsForWhatItNames(t *testing.T) {
	harness.Bubble(t, slowly(), nil, func(w *harness.World) {
		w.Subscribe("a", "b", "c", "d")
		begin := time.Now()
		w.M.Start(context.Background())
		took := func(want time.Duration, subs ...string) {
			t.Helper()
			w.Sync(subs...)
			if d := time.Since(begin); d != want {
				t.Errorf("Sync(%q) returned after %v, want %v", subs, d, want)
			}
		}
		const beat = 1100 * time.Millisecond
		took(0, "a")
		took(beat, "a", "b", "b", "a")
		took(3*beat, "d")
		took(3 * beat)
		w.M.Resubscribe("a") // is taken back and asked for anew
		took(5*beat, "a")
		w.M.Unsubscribe("b")
		w.Subscribe("e")
		took(7*beat, "e")
		w.WantTopics("a", "c", "d", "e")
	})
}

func TestSyncWithNothingToWaitFor(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		if err := w.M.Sync(context.Background()); err != nil {
			t.Errorf("nothing wanted, not started: %v", err)
		}
		w.Start()
		w.Sync()
	})
}

func TestSyncBeforeStart(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Subscribe("a")
		result, returned := waitFor(w, context.Background())
		harness.After(time.Hour)
		if returned() {
			t.Fatal("Sync did not wait for Start")
		}
		w.M.Start(context.Background())
		if err := result(); err != nil {
			t.Error(err)
		}
		w.WantTopics("a")
	})
}

// Whenever Stop comes, a Sync that waits says so, and not that its shard is parked.
func TestSyncStopped(t *testing.T) {
	for name, begin := range map[string]func(w *harness.World){
		"before Start": func(w *harness.World) {},
		"connecting": func(w *harness.World) {
			w.Net.OnDial(func(ctx context.Context, _ int, _ string) error { <-ctx.Done(); return ctx.Err() })
			w.M.Start(context.Background())
		},
		"backoff": func(w *harness.World) {
			w.Srv.Down()
			w.M.Start(context.Background())
			harness.After(time.Minute)
		},
		"connected": func(w *harness.World) {
			w.M.Start(context.Background())
			harness.After(time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, slowly(), nil, func(w *harness.World) {
				w.Subscribe(harness.Numbered(600)...) // on two shards, for longer than anybody waits
				begin(w)
				all, _ := waitFor(w, context.Background())
				one, _ := waitFor(w, context.Background(), "t0599")
				synctest.Wait()
				w.M.Stop(context.Background())
				for what, err := range map[string]error{"Sync": all(), "Sync of one": one(), "Sync afterwards": w.M.Sync(context.Background())} {
					if !errors.Is(err, wsshard.ErrStopped) || errors.Is(err, wsshard.ErrShardParked) {
						t.Errorf("%s: %v", what, err)
					}
				}
			})
		})
	}
}

func TestSyncCancelled(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.Subscribe("a")
		why := errors.New("no longer interested")
		ctx, cancel := context.WithCancelCause(context.Background())
		result, _ := waitFor(w, ctx)
		cancel(why)
		if err := result(); err != why {
			t.Errorf("Sync: %v, want the cause", err)
		}
		limited, cancel2 := context.WithTimeout(context.Background(), time.Second)
		defer cancel2()
		begin := time.Now()
		if err := w.M.Sync(limited); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("Sync: %v after %v", err, time.Since(begin))
		}
		w.M.Start(context.Background())
		w.Sync()
	})
}

// What was written on a connection that is lost must be written again.
func TestSyncOverReconnects(t *testing.T) {
	harness.Bubble(t, slowly(), nil, func(w *harness.World) {
		w.Subscribe("a", "b", "c")
		w.M.Start(context.Background())
		all, returned := waitFor(w, context.Background())
		first, _ := waitFor(w, context.Background(), "a")
		harness.After(1200 * time.Millisecond) // two are written
		if err := first(); err != nil || returned() {
			t.Fatalf("after two of three: %v, all done %v", err, returned())
		}
		w.Srv.Down()
		harness.After(time.Minute)
		if returned() {
			t.Fatal("Sync returned while nothing is connected")
		}
		w.Srv.Restart()
		if err := all(); err != nil {
			t.Error(err)
		}
		w.WantTopics("a", "b", "c")

		w.Srv.Down() // what was synced once is not for ever
		harness.After(time.Second)
		again, returned := waitFor(w, context.Background(), "a")
		if returned() {
			t.Error("Sync returned while nothing is connected")
		}
		w.Srv.Restart()
		if err := again(); err != nil {
			t.Error(err)
		}
	})
}

// A topic that is taken back while Sync waits is waited for no more, and is no error.
func TestSyncWhileUnsubscribing(t *testing.T) {
	harness.Bubble(t, slowly(), nil, func(w *harness.World) {
		w.Start("a")
		w.Subscribe("b", "c", "d")
		all, _ := waitFor(w, context.Background())
		one, _ := waitFor(w, context.Background(), "d")
		both, _ := waitFor(w, context.Background(), "b", "d")
		synctest.Wait()
		begin := time.Now()
		w.M.Unsubscribe("c", "d")
		if err := one(); err != nil || time.Since(begin) > 0 {
			t.Errorf("Sync of what is not wanted any more: %v after %v", err, time.Since(begin))
		}
		for _, result := range []func() error{both, all} {
			if err := result(); err != nil {
				t.Error(err)
			}
		}
		w.WantTopics("a", "b")
	})
}

func TestSyncUnknown(t *testing.T) {
	harness.Bubble(t, slowly(), nil, func(w *harness.World) {
		w.Start("a")
		w.Subscribe("b")
		begin := time.Now()
		err := w.M.Sync(context.Background(), "x", "b", "y", "a")
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
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.App.Encode = func(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
			if req.Subs[0] == "bad" {
				return wsshard.Message{}, errBadTopic
			}
			return harness.AsTopics(sign, req)
		}
		w.Start("a", "b", "c", "d")
		synctest.Wait()
		park(w, "a")
		w.M.Unsubscribe("d")
		w.Subscribe("bad", "e") // on shards 1 and 2
		err := w.M.Sync(context.Background())
		var se *wsshard.SubscriptionError[string]
		if !errors.Is(err, wsshard.ErrShardParked) || !errors.As(err, &se) || se.Sub != "bad" || se.Err != errBadTopic {
			t.Errorf("Sync: %v", err)
		}
		if !strings.Contains(fmt.Sprint(err), "shard 0") {
			t.Errorf("%q does not say which shard", err)
		}
		w.WantTopics("c", "e")
		w.Sync("c", "e") // the others are none of their business
		if err := w.M.Sync(context.Background(), "b"); !errors.Is(err, wsshard.ErrShardParked) {
			t.Errorf("Sync of a parked one: %v", err)
		}
	})
}

// Parking ends the Syncs that wait already.
func TestSyncWhileParking(t *testing.T) {
	cfg := slowly()
	cfg.Connection.MaxConnectAttempts = 3
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Srv.Down()
		w.Subscribe("a")
		result, _ := waitFor(w, context.Background())
		w.M.Start(context.Background())
		if err := result(); !errors.Is(err, wsshard.ErrShardParked) {
			t.Errorf("Sync: %v", err)
		}
	})
}

// Many Syncs of many topics in the middle of everything: each returns once its own topics are there.
func TestSyncManyAtOnce(t *testing.T) {
	cfg := slowly()
	cfg.MaxSubscriptionsPerShard, cfg.Subscribe.MaxPerMessage = 50, 5
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		topics := harness.Numbered(500)
		w.Subscribe(topics...)
		var waits sync.WaitGroup
		for i := range 500 {
			waits.Go(func() {
				ctx := context.Background()
				if i%5 == 4 {
					short, cancel := context.WithTimeout(ctx, time.Duration(i)*10*time.Millisecond)
					defer cancel()
					ctx = short
				}
				err := w.M.Sync(ctx, topics[i])
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Sync %d: %v", i, err)
				}
				time.Sleep(time.Millisecond) // written is not yet received
				if err == nil && w.Topics.All()[topics[i]] == 0 {
					t.Errorf("Sync %d returned without %q", i, topics[i])
				}
				if err := w.M.Sync(context.Background(), topics[(i*7)%500], topics[(i*31)%500]); err != nil {
					t.Errorf("Sync of two: %v", err)
				}
			})
		}
		w.M.Start(context.Background())
		waits.Go(func() {
			for i := range 5 {
				time.Sleep(2 * time.Second)
				w.Srv.Conn(i).Kill()
			}
		})
		waits.Wait()
		w.Sync()
		w.WantTopics(topics...)
	})
}

// acker is an app whose server confirms each request.
type acker struct{ *harness.App }

func (acker) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (ack wsshard.Ack[string], ok bool) {
	request, ok := strings.CutPrefix(msg.String(), "ack:")
	if ok && request[0] != '-' {
		ack.Confirmed = strings.Split(request[1:], ",")
	}
	return ack, ok
}

// With an Acknowledger, written is not enough.
func TestSyncWaitsForAcks(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, func(a *harness.App) wsshard.Handler[string] { return acker{a} }, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Net.SetLatency(50 * time.Millisecond)
		begin := time.Now()
		w.Start("a", "b")
		if took := time.Since(begin); took != 200*time.Millisecond {
			t.Errorf("Sync took %v, want the handshake's and the request's round trip", took)
		}
	})
}

func TestSyncInsideCallback(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		var err error
		w.App.Message = func(ctx context.Context, _ wsshard.Message, _ wsshard.ConnectionState) {
			w.M.Subscribe("b")
			err = w.M.Sync(ctx, "b")
		}
		w.Start("a")
		synctest.Wait()
		w.Topics.Publish("a", "1")
		synctest.Wait()
		if !errors.Is(err, wsshard.ErrInCallback) {
			t.Errorf("Sync: %v", err)
		}
		w.Sync()
		w.WantTopics("a", "b")
	})
}
