package gaps

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/hook"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: which topics does a gap name, and when does each of them end?

// churn lets a new topic come each so often, and an old one go, until the test is over.
func churn(w *harness.World, every time.Duration) (stop func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-over:
				return
			case <-time.After(every):
			}
			w.M.Subscribe(fmt.Sprintf("x%d", i))
			w.M.Unsubscribe(fmt.Sprintf("x%d", i-5))
		}
	}()
	return func() { close(over); <-done }
}

// However steadily topics come and go, a gap ends with the last of its own, and not a moment later.
func TestGapUnderChurn(t *testing.T) {
	for name, tt := range map[string]struct {
		h    func(*harness.App) wsshard.Handler[string]
		ends time.Duration // after the request for its topics was written
	}{
		"answers": {harness.WithTagAcks, 60 * time.Millisecond},
		"data":    {harness.WithTags, time.Second}, // Settle: the topics that churn brings say nothing
		"nothing": {nil, time.Second},
	} {
		for _, every := range []time.Duration{20 * time.Millisecond, 300 * time.Millisecond, 900 * time.Millisecond} {
			t.Run(fmt.Sprint(name, every), func(t *testing.T) {
				harness.Bubble(t, harness.NoJitter(), tt.h, func(w *harness.World) {
					w.Topics.Ack(true)
					w.Net.SetLatency(30 * time.Millisecond)
					w.Start("a", "b")
					harness.After(3 * time.Second)
					defer churn(w, every)()
					harness.After(2 * time.Second)
					w.Srv.Conn(0).Kill()
					harness.After(100 * time.Millisecond)
					opened := time.Now().Add(30*time.Millisecond + 4*30*time.Millisecond) // the loss is noticed, dial, upgrade
					harness.After(3 * time.Second)
					evs := w.App.TakeEvents(wsshard.EventGap)
					for _, ev := range evs[:max(0, len(evs)-1)] { // of what was taken back while there was no connection
						if slices.Contains(ev.Subs, "a") || ev.To.After(opened) {
							t.Errorf("gap %+v", ev)
						}
					}
					if last := evs[max(0, len(evs)-1):]; len(last) != 1 || !slices.Contains(last[0].Subs, "a") || last[0].To.After(opened.Add(tt.ends)) {
						t.Errorf("gaps %+v, want one to %v at the latest", evs, opened.Add(tt.ends))
					}
				})
			})
		}
	}
}

// A topic is on from its request to the answer to its unsubscription; so it belongs to a gap that begins in between, and
// nobody waits for it there.
func TestGapOfTheUnsubscribed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(w *harness.World) // the connection is killed after it
		gap    bool
	}{
		{"while the connection was dead already", func(w *harness.World) {
			w.Net.Conns()[0].BlackHole(true)
			harness.After(time.Minute)
			w.M.Unsubscribe("b")
			harness.After(time.Hour)
		}, true},
		{"not answered", func(w *harness.World) {
			w.M.Unsubscribe("b")
			harness.After(time.Second)
			w.Answer("a:2")
		}, true},
		{"answered, and what came before may be late", func(w *harness.World) {
			w.M.Unsubscribe("b")
			synctest.Wait()
			w.Answer("ack 2")
			harness.After(harness.DefaultLinger)
			w.Answer("a:2")
		}, true},
		{"answered before that", func(w *harness.World) {
			w.M.Unsubscribe("b")
			synctest.Wait()
			w.Answer("ack 2")
			harness.After(harness.DefaultLinger + 1)
			w.Answer("a:2")
		}, false},
		{"overdue before that", func(w *harness.World) {
			w.M.Unsubscribe("b")
			harness.After(10*time.Second + harness.DefaultLinger + 1)
			w.Answer("a:2")
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := harness.NoJitter()
			cfg.Health.PingInterval = harness.Off
			harness.Bubble(t, cfg, harness.NewCourtier, func(w *harness.World) {
				w.Launch("a", "b")
				w.Answer("ack 1")
				harness.After(time.Second)
				tt.before(w)
				w.Srv.Conn(0).Kill()
				w.Net.Conns()[0].Close()
				harness.After(time.Second)
				w.Answer("ack 0 +a")
				want := []string{"a"}
				if tt.gap {
					want = append(want, "b")
				}
				evs := w.App.TakeEvents(wsshard.EventGap)
				if len(evs) != 1 || !slices.Equal(slices.Sorted(slices.Values(evs[0].Subs)), want) || !evs[0].To.Equal(time.Now()) {
					t.Errorf("gaps %+v, want one of %q", evs, want)
				}
			})
		})
	}
}

// A topic that the library takes off to ask for it again is missed in between, also when its connection dies just then.
func TestGapOfTheResubscribed(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MessagesPerWindow: 3, Window: 2 * time.Second}
	harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a", "b")
		harness.After(10 * time.Second)
		w.Topics.Publish("a", "1")
		w.Topics.Publish("b", "1")
		harness.After(time.Second)
		off := time.Now()
		w.M.Resubscribe("a")
		harness.After(5 * time.Second)
		w.WantGap(off, off, "a") // a server that answers at once

		if err := w.M.Send(context.Background(), 0, wsshard.Text("x")); err != nil { // one frame less for what follows
			t.Fatal(err)
		}
		off = time.Now()
		w.M.Resubscribe("a")
		harness.After(10 * time.Millisecond) // "-a" is written, "+a" has to wait
		w.Srv.Down()
		harness.After(time.Hour)
		w.Srv.Restart()
		w.M.Reconnect(0)
		w.Sync()
		live := time.Now()
		harness.After(time.Second)
		for _, ev := range w.App.TakeEvents(wsshard.EventGap) {
			switch {
			case slices.Equal(ev.Subs, []string{"a"}) && ev.From.Equal(off.Add(-harness.DefaultLinger)) && ev.To.Equal(live):
			case slices.Equal(ev.Subs, []string{"b"}) && ev.To.Equal(live):
			default:
				t.Errorf("gap %+v, want one of a from %v and one of b to %v", ev, off.Add(-harness.DefaultLinger), live)
			}
		}
		if n := w.M.Metrics().Gaps; n != 3 {
			t.Errorf("%d gaps", n)
		}
	})
}

// What the application took back and wants anew was promised nothing in between.
func TestNoGapOfTakenBack(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MessagesPerWindow: 2, Window: 2 * time.Second}
	harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a")
		w.M.Unsubscribe("a") // the pace keeps it from being written
		w.Subscribe("a")
		w.Sync()
		harness.After(time.Minute)
		w.WantNoGap()
		if got := w.Srv.Conn(0).Got(); !slices.Equal(got, []string{"+a", "-a", "+a"}) {
			t.Errorf("wire %q", got)
		}
	})
}

// A parked shard will not prove anything: a topic that leaves it takes its part of the gap along.
func TestGapOfTopicsThatLeaveAParkedShard(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.MaxSubscriptionsPerShard = 3
	cfg.Connection.MaxConnectAttempts = 1
	harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		w.Start("a", "b", "c")
		harness.After(time.Second)
		last := time.Now()
		w.Topics.Publish("a", "1")
		w.Srv.Down()
		harness.After(time.Minute)
		w.WantState(0, wsshard.ShardParked)
		w.Srv.Restart()
		w.WantNoGap()
		for _, tt := range []struct{ leave, want []string }{
			{[]string{"a"}, []string{"a"}},
			{[]string{"b", "c"}, []string{"b", "c"}},
			{[]string{"b"}, nil},
		} {
			w.M.Unsubscribe(tt.leave...)
			evs := w.App.TakeEvents(wsshard.EventGap)
			if tt.want == nil {
				if len(evs) > 0 {
					t.Errorf("gaps %+v", evs)
				}
				continue
			}
			if len(evs) != 1 || !evs[0].From.Equal(last.Add(-harness.DefaultLinger)) || !evs[0].To.Equal(time.Now()) ||
				!slices.Equal(slices.Sorted(slices.Values(evs[0].Subs)), tt.want) {
				t.Errorf("%q left: gaps %+v", tt.leave, evs)
			}
		}
	})
}

// Sure is the writing of the last ping that was answered, less Linger: the network may hold back what was sent before From.
func TestGapIsSure(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Health = wsshard.HealthConfig{DataTimeout: harness.Off, PingInterval: 20 * time.Second, PongTimeout: 10 * time.Second}
	for name, tt := range map[string]struct {
		after time.Duration // from the connection's beginning to its end
		sure  time.Duration
	}{
		"no ping":            {10 * time.Second, 0},
		"a ping":             {30 * time.Second, 20 * time.Second},
		"two":                {50 * time.Second, 40 * time.Second},
		"one is on its way":  {40*time.Second + 100*time.Millisecond, 20 * time.Second},
		"it is just written": {40 * time.Second, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Start("a")
				begin := time.Now()
				harness.After(time.Second)
				w.Net.SetLatency(0)
				harness.After(tt.after - time.Second - 200*time.Millisecond)
				w.Net.Conns()[0].StallWrite(true) // what we write is under way for long
				harness.After(200 * time.Millisecond)
				w.Topics.Publish("a", "1")
				w.Srv.Conn(0).Kill()
				harness.After(time.Minute)
				evs := w.App.TakeEvents(wsshard.EventGap)
				if len(evs) != 1 || !evs[0].Sure.Equal(begin.Add(tt.sure-harness.DefaultLinger)) || evs[0].Sure.After(evs[0].From) {
					t.Errorf("gaps %+v, want one that is sure of %v", evs, begin.Add(tt.sure-harness.DefaultLinger))
				}
			})
		})
	}
}

// A callback that takes the reader away leaves unread what had come behind its message.
func TestGapOfAReaderThatIsBehind(t *testing.T) {
	for name, leave := range map[string]func(){"panic": func() { panic("x") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.NoJitter()
			cfg.Connection.LowLatencyMode = true
			harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Start("a")
				w.App.Message = func(_ context.Context, m wsshard.Message, _ wsshard.ConnectionState) {
					switch m.String() {
					case "a:1":
						time.Sleep(10 * time.Second)
					case "a:2":
						leave()
					}
				}
				harness.After(time.Second)
				w.Topics.Publish("a", "1")
				read := time.Now()
				harness.After(100 * time.Millisecond)
				for n := 2; n < 90; n++ {
					w.Topics.Publish("a", fmt.Sprint(n))
					harness.After(100 * time.Millisecond)
				}
				harness.After(20 * time.Second)
				w.App.Message = nil
				evs := w.App.TakeEvents(wsshard.EventGap)
				if len(evs) != 1 || evs[0].From.After(read.Add(100*time.Millisecond-harness.DefaultLinger)) {
					t.Errorf("gaps %+v, want one from %v on", evs, read.Add(100*time.Millisecond-harness.DefaultLinger))
				}
			})
		})
	}
}

// Late data of the time before proves nothing for a topic that is asked for again.
func TestLateDataProvesNothing(t *testing.T) {
	cfg := harness.NoJitter()
	harness.Bubble(t, cfg, harness.WithTags, func(w *harness.World) {
		w.Start("a")
		harness.After(time.Minute)
		off := time.Now()
		w.M.Resubscribe("a")
		harness.After(10 * time.Millisecond)
		w.Srv.Conn(0).Send("a:1") // had been under way
		harness.After(500 * time.Millisecond)
		w.WantNoGap()
		harness.After(time.Second)
		w.WantGap(off, off.Add(time.Second), "a") // Settle
	})
}

// A storm of resubscriptions turns one batch off at a time.
func TestResubscribeStorm(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Subscribe = wsshard.SubscribeConfig{MaxPerMessage: 10, MessagesPerWindow: 3, Window: time.Second}
	harness.Bubble(t, cfg, harness.WithTagAcks, func(w *harness.World) {
		w.Topics.Ack(true)
		subs := harness.Numbered(100)
		w.Start(subs...)
		harness.After(30 * time.Second)
		w.M.Resubscribe(subs...)
		w.Sync()
		harness.After(time.Minute)
		for _, s := range subs {
			var off time.Time
			for _, ch := range w.Topics.Changes(s) {
				if !ch.On {
					off = ch.At
				} else if d := ch.At.Sub(off); !off.IsZero() && d > 1200*time.Millisecond {
					t.Errorf("%s was off for %v", s, d)
				}
			}
		}
		w.WantTopics(subs...)
	})
}

// A server that takes its time for an unsubscription still counts the topic: what is new waits for its place.
func TestTheLimitOnTheWire(t *testing.T) {
	for name, h := range map[string]func(*harness.App) wsshard.Handler[string]{"answers": harness.WithTagAcks, "none": harness.WithTags} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.NoJitter()
			cfg.MaxSubscriptionsPerShard, cfg.MaxShards = 5, 1
			cfg.Subscribe = wsshard.SubscribeConfig{MaxPerMessage: 2}
			harness.Bubble(t, cfg, h, func(w *harness.World) {
				w.Topics.Ack(true)
				w.Topics.Lag(800*time.Millisecond, nil)
				most := 0
				watch := func() { most = max(most, len(w.Topics.On(w.Srv.Conn(0)))) }
				w.Start(harness.Numbered(5)...)
				for i := range 40 {
					w.M.Unsubscribe(fmt.Sprintf("t%04d", i))
					w.Subscribe(fmt.Sprintf("t%04d", i+5))
					for range 13 {
						harness.After(10 * time.Millisecond)
						watch()
					}
				}
				for range 1000 {
					harness.After(10 * time.Millisecond)
					watch()
				}
				w.WantTopics("t0040", "t0041", "t0042", "t0043", "t0044")
				if most != 5 {
					t.Errorf("the server had %d topics at once, the limit is 5", most)
				}
			})
		})
	}
}

// What hooks name need not be equal to itself.
func TestNaNTopics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := wstest.NewNet()
		srv := wstest.NewServer(t, net, "srv:80")
		h := &nanFeed{url: "ws://srv/"}
		m, err := wsshard.New(h, wsshard.Config{Connection: wsshard.ConnectionConfig{NetDialContext: net.DialContext}})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Stop(context.Background())
		if _, err := m.Subscribe(1.5); err != nil {
			t.Fatal(err)
		}
		if err := m.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		harness.After(time.Second)
		for range 200 {
			srv.Conn(0).Send(strings.Repeat("x", 100))
			harness.After(time.Millisecond)
		}
		if h.heard != 200 || !m.IsSubscriptionFresh(1.5, time.Minute) || m.Metrics().HandlerPanics > 0 {
			t.Errorf("%d of 200 messages: %+v", h.heard, m.Metrics())
		}
		if n := hook.NamedTopics(m, 0); n != 1 {
			t.Errorf("%d topics are remembered", n)
		}
	})
}

type nanFeed struct {
	url   string
	heard int
}

func (f *nanFeed) URL(context.Context, wsshard.ConnectionState) (string, error) { return f.url, nil }
func (f *nanFeed) SubscriptionMessage(wsshard.Request[float64]) (wsshard.Message, error) {
	return wsshard.Text("+"), nil
}
func (f *nanFeed) OnMessage(context.Context, wsshard.Message, wsshard.ConnectionState) { f.heard++ }
func (f *nanFeed) Inspect(wsshard.Message, wsshard.ConnectionState) wsshard.Verdict[float64] {
	return wsshard.Verdict[float64]{Subs: []float64{math.NaN(), 1.5, math.NaN()}}
}
func (f *nanFeed) Acknowledge(wsshard.Message, wsshard.ConnectionState) (wsshard.Ack[float64], bool) {
	return wsshard.Ack[float64]{Confirmed: []float64{math.NaN()}, Rejected: []float64{math.NaN()}}, f.heard%2 == 0
}
func (f *nanFeed) ValidateSequence(wsshard.Message, wsshard.ConnectionState) wsshard.SequenceValidation[float64] {
	return wsshard.SequenceValidation[float64]{Resubscribe: []float64{math.NaN()}}
}
func (f *nanFeed) ResetSequenceState(wsshard.ConnectionState) {}
