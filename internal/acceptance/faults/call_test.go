package faults

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/hook"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: what may an application do, and fail to do? Rows 32 to 35 and 37 to 41 of the matrix; row 36 is in
// stop_test.go.

// everything is a handler with every callback, each of which runs c.at first.
func everything(c *cell) wsshard.Handler[string] {
	c.keyless = true
	c.every.Heard = c.History
	return c.every.HandlerFor(c.callback)
}

// inEach returns a strike for every callback, in which do happens inside its first call from then on.
func inEach(name string, lowLatency bool, of []string, do func(c *cell, ctx context.Context), check func(c *cell)) (all []strike) {
	for _, callback := range of {
		all = append(all, strike{
			name: callback + " " + name, callback: callback, check: check,
			with: func(cfg *wsshard.Config) { cfg.Connection.LowLatencyMode = lowLatency },
			do: func(c *cell, _ target) {
				var called atomic.Bool
				c.every.Set(func(ctx context.Context, where string, _ wsshard.ConnectionState) {
					if where == callback && called.CompareAndSwap(false, true) {
						do(c, ctx)
					}
				})
				c.stir()
				if !called.Load() {
					c.T.Errorf("%s was not called", callback)
				}
			},
		})
	}
	return all
}

// perMessage are the callbacks of the read loop.
var perMessage = []string{
	"OnMessage", "IsHeartbeat", "IsDataMessage", "ValidateSequence", "ResetSequenceState", "Acknowledge", "IsReady", "Inspect",
}

// wantOnePanic checks that what a callback did is counted and logged, with a stack that leads to it.
func (c *cell) wantOnePanic() {
	if n := c.M.Metrics().HandlerPanics; n != 1 {
		c.T.Errorf("%d panics are counted", n)
	}
	c.Mu.Lock()
	defer c.Mu.Unlock()
	var told []string
	for line := range strings.SplitSeq(c.Log.String(), "\n") {
		if strings.Contains(line, `"msg":"panic in a callback"`) {
			told = append(told, line)
		}
	}
	if len(told) != 1 || !strings.Contains(told[0], `"level":"ERROR"`) || !strings.Contains(between(told[0], `"callback":"`, `"`), c.callback) ||
		!strings.Contains(told[0], "."+c.callback[strings.Index(c.callback, ".")+1:]) && !strings.Contains(told[0], "runtime.Goexit") {
		c.T.Errorf("it says %q", told)
	}
}

// between is what stands between two marks.
func between(text, from, to string) string {
	_, text, _ = strings.Cut(text, from)
	text, _, _ = strings.Cut(text, to)
	return text
}

// stir reaches every callback.
func (c *cell) stir() {
	time.Sleep(50 * time.Millisecond)
	if c.callback == "Subscriptions" {
		c.M.Stop(context.Background())
		begun := make(chan struct{})
		go func() { // the callback may take this goroutine along
			defer close(begun)
			c.restart()
		}()
		<-begun
		c.restart()
		return
	}
	c.M.Subscribe("c")
	time.Sleep(3 * time.Second) // the phase is over
	for end := time.Now().Add(time.Minute); c.M.Metrics().ActiveConnections == 0 && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(time.Second)
	c.M.Unsubscribe("b")
	time.Sleep(time.Second)
	c.M.Resubscribe("a")
	c.M.Subscribe("b")
	time.Sleep(25 * time.Second) // pings, heartbeats
	harness.BusyOnce(c.Srv)
	for _, p := range c.Srv.Live() {
		p.Kill()
	}
	time.Sleep(15 * time.Second)
	c.restart()
	c.M.Subscribe(wanted...)
	c.M.Resubscribe(c.want()...)
}

// turnAway notes that the application wants less from now on.
func (c *cell) turnAway() {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	c.turned = time.Now()
}

// restart starts a manager that was stopped, with its topics.
func (c *cell) restart() {
	if err := c.M.Start(context.Background()); err == nil {
		c.Mu.Lock()
		c.runs++
		c.Mu.Unlock()
	}
	c.M.Subscribe(wanted...)
}

var callFaults = []*row{
	{no: 32, name: "panics", kind: callFault, handler: everything, beats: true, strikes: func() (all []strike) {
		for _, kind := range harness.WaysOut {
			once := func(*cell, context.Context) { kind.Leave() }
			all = append(all, inEach(kind.Name, false, harness.Callbacks, once, (*cell).wantOnePanic)...)
			if kind.Name == "value" || kind.Name == "Goexit" { // where messages have no guard of their own
				all = append(all, inEach(kind.Name+", low latency", true, perMessage, once, (*cell).wantOnePanic)...)
			}
		}
		return all
	}()},
	{no: 33, name: "handler_blocks", kind: callFault, strikes: []strike{{do: func(c *cell, at target) {
		release := make(chan struct{})
		c.set(func(h *hooks) { h.message = func(context.Context, wsshard.Message) { <-release } })
		time.Sleep(100 * time.Second) // longer than any deadline
		if at.phase == steady && c.Cause(harness.Opened{Shard: 0, Gen: 1}) != nil {
			c.T.Errorf("a healthy connection ended with %v", c.Cause(harness.Opened{Shard: 0, Gen: 1}))
		}
		close(release)
	}}}},
	{no: 34, name: "slow_consumer", kind: callFault, strikes: []strike{{do: func(c *cell, at target) {
		c.set(func(h *hooks) {
			h.message = func(context.Context, wsshard.Message) { time.Sleep(100 * time.Millisecond) }
		})
		time.Sleep(time.Minute) // half of it is read by then
		if at.phase == steady && c.Cause(harness.Opened{Shard: 0, Gen: 1}) != nil {
			c.T.Errorf("a healthy connection ended with %v", c.Cause(harness.Opened{Shard: 0, Gen: 1}))
		}
		c.set(func(h *hooks) { h.message = nil })
	}}}},
	{no: 35, name: "reentrancy", kind: callFault, handler: everything, beats: true, setup: publishesWithAnswers, strikes: append(
		inEach("all methods", false, harness.Callbacks, func(c *cell, ctx context.Context) {
			c.turnAway()
			for _, method := range harness.Inside {
				err := method.Call(ctx, c.M)
				c.Say(err)
				if !slices.ContainsFunc(method.Errors, func(want error) bool { return errors.Is(err, want) }) && !errors.Is(err, wsshard.ErrReconnect) && c.callback != "Subscriptions" {
					c.T.Errorf("%s returned %v", method.Name, err)
				}
			}
			c.M.Unsubscribe(harness.Numbered(5)...)
		}, nil),
		inEach("Stop", false, harness.Callbacks, func(c *cell, ctx context.Context) {
			c.turnAway()
			if err := c.M.Stop(ctx); err != wsshard.ErrInCallback && c.callback != "Subscriptions" {
				c.T.Errorf("Stop returned %v", err)
			}
		}, nil)...)},
	{no: 37, name: "start_stop", kind: callFault, strikes: []strike{{do: func(c *cell, _ target) {
		time.Sleep(50 * time.Millisecond)
		if err := c.M.Start(context.Background()); err != wsshard.ErrStarted {
			c.T.Errorf("a second Start: %v", err)
		}
		var stops sync.WaitGroup
		for range 100 {
			stops.Go(func() {
				if err := c.M.Stop(context.Background()); err != nil {
					c.T.Errorf("Stop: %v", err)
				}
			})
		}
		stops.Wait()
		if n := c.Net.Open(); n != 0 || c.M.IsRunning() {
			c.T.Errorf("%d sockets are open; it runs: %v", n, c.M.IsRunning())
		}
		if _, err := c.M.Subscribe("a"); err != wsshard.ErrStopped {
			c.T.Errorf("Subscribe: %v", err)
		}
		c.restart()
	}}}},
	{no: 38, name: "churn", kind: callFault, strikes: []strike{{do: func(c *cell, _ target) {
		rnd := rand.New(rand.NewPCG(38, uint64(c.at)))
		want := map[string]bool{"a": true, "b": true}
		defer func() { c.final = slices.Collect(maps.Keys(want)) }()
		for range 300 {
			topic := harness.Numbered(20)[rnd.IntN(20)]
			switch rnd.IntN(5) {
			case 0, 1:
				c.M.Subscribe(topic, "a")
				want[topic] = true
			case 2, 3:
				c.M.Unsubscribe(topic)
				delete(want, topic)
			default:
				c.M.Resubscribe(topic)
			}
			if rnd.IntN(3) == 0 {
				time.Sleep(time.Duration(rnd.IntN(40)) * time.Millisecond)
			}
		}
	}, check: func(c *cell) {
		c.until("in step", func() bool { return len(c.Topics.Errors()) > 0 || c.right() })
		if errs := c.Topics.Errors(); len(errs) > 0 {
			c.T.Errorf("asked twice: %q", errs)
		}
	}}}},
	{no: 39, name: "unsubscribed_in_replay", kind: replay, with: func(cfg *wsshard.Config) {
		cfg.Subscribe.MaxPerMessage, cfg.Subscribe.MessagesPerWindow = 1, 3
	}, strikes: []strike{{do: func(c *cell, _ target) {
		time.Sleep(1500 * time.Millisecond)
		c.M.Unsubscribe("a", "t0007") // the first, and one of the last
		c.M.Subscribe("late")
		time.Sleep(1500 * time.Millisecond)
		c.M.Unsubscribe("t0006")
		c.M.Subscribe("a")
		c.final = []string{"a", "b", "late", "t0000", "t0001", "t0002", "t0003", "t0004", "t0005", "t0008", "t0009"}
	}}}},
	{no: 40, name: "next_fails", own: map[phase][]drive{switching: dialFault.drives[switching]}, not: onlyIn(switching), strikes: []strike{
		dialFails("refused", syscall.ECONNREFUSED), dialHangs("hangs"), rejected(503, nil, nil),
		{name: "login", is: harness.Is(harness.ErrTest), do: func(c *cell, _ target) {
			c.set(func(h *hooks) { h.login = func(context.Context, wsshard.LoginConn) error { return harness.ErrTest } })
		}},
		{name: "OnConnect", is: harness.Is(harness.ErrTest), do: func(c *cell, _ target) {
			c.set(func(h *hooks) {
				h.connect = func(context.Context) ([]wsshard.Message, error) { return nil, harness.ErrTest }
			})
		}},
		{name: "headers", is: harness.Is(harness.ErrTest), do: func(c *cell, _ target) {
			c.set(func(h *hooks) { h.header = func(context.Context) (http.Header, error) { return nil, harness.ErrTest } })
		}},
		{name: "reset before data", is: harness.Is(syscall.ECONNRESET), do: func(c *cell, _ target) { c.Srv.OnOpen(func(p *wstest.Peer) { p.Reset() }) }},
		{name: "closed before data", is: closedWith(1013, false), do: func(c *cell, _ target) { c.Srv.OnOpen(func(p *wstest.Peer) { p.Close(1013, "") }) }},
	}},
	{no: 41, name: "odd_switchovers", kind: callFault, strikes: []strike{{do: func(c *cell, at target) {
		if err := c.M.HotSwitchover(context.Background(), 7); !errors.Is(err, wsshard.ErrUnknownShard) {
			c.T.Errorf("of an unknown shard: %v", err)
		}
		want := map[phase]error{connecting: wsshard.ErrNotConnected, backoff: wsshard.ErrNotConnected}[at.phase]
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if err := c.switchover(); !errors.Is(err, want) {
					c.T.Errorf("HotSwitchover: %v, want %v", err, want)
				}
			})
		}
		both.Wait()
		if want == nil && c.M.Metrics().HotSwitchovers != 1 {
			c.T.Errorf("%d switchovers", c.M.Metrics().HotSwitchovers)
		}
	}}}},
}

// publishesWithAnswers has each answer of the server followed by a number of every topic, before the client can have done
// anything about the answer: what a callback turns away in that instant was already sent.
func publishesWithAnswers(c *cell) {
	c.Topics.Honoured(func(*wstest.Peer, string) { c.publish() })
}

// replay is a shard whose many topics are being asked for, one by one.
var replay = &kind{
	drives: map[phase][]drive{
		connecting: only(func(c *cell) {
			c.Begin(append(harness.Numbered(10), wanted...)...)
			c.do(c, target{})
		}),
		switching: only(func(c *cell) {
			c.Begin(append(harness.Numbered(10), wanted...)...)
			c.until("delivering", func() bool { return c.M.Sync(context.Background()) == nil })
			var moved sync.WaitGroup
			moved.Go(func() {
				if err := c.switchover(); err != nil {
					c.T.Errorf("HotSwitchover: %v", err)
				}
			})
			synctest.Wait()
			c.do(c, target{})
			moved.Wait()
		}),
	},
	not: map[phase]string{steady: "nothing is replayed", backoff: "nothing is replayed yet: row 38"},
}

var shardFaults = []*row{
	{no: 13, name: "all_at_once", kind: crowd, restless: true, with: func(cfg *wsshard.Config) {
		cfg.MaxSubscriptionsPerShard = 1
		cfg.Backoff.InitialDelay = 2 * time.Second
		cfg.Health.DataTimeout = -1
		cfg.Connection.Limiter = wsshard.NewConnectLimiter(20, time.Second)
	}},
	{no: 44, name: "process_stopped", real: "internal/realworld/servers: TestFourSecondsFrozenDropNothing", own: map[phase][]drive{
		steady: only(func(c *cell) {
			c.settle()
			c.stopProcess(c.only())
			if cause := c.Cause(harness.Opened{Shard: 0, Gen: 1}); cause != nil || c.Heard(wsshard.EventGap) > 0 {
				c.T.Errorf("a healthy connection ended with %v", cause)
			}
		}),
		switching: only(func(c *cell) {
			c.settle()
			old, release := c.only(), c.holdDials()
			var moved sync.WaitGroup
			moved.Go(func() {
				if err := c.switchover(); err != nil {
					c.T.Errorf("HotSwitchover: %v", err)
				}
			})
			synctest.Wait()
			c.stopProcess(old)
			release()
			moved.Wait()
			if c.Heard(wsshard.EventGap) > 0 {
				c.T.Error("a gap was reported")
			}
		}),
	}, not: map[phase]string{connecting: "an attempt that was stopped fails and is made again: row 2", backoff: "there is no connection to be judged"},
		with: func(cfg *wsshard.Config) {
			cfg.Health.PingInterval, cfg.Health.PongTimeout, cfg.Health.FailureThreshold = 4*time.Second, 4*time.Second, 1
			cfg.Connection.ConnectTimeout = time.Minute
		}},
	{no: 45, name: "growth", own: map[phase][]drive{steady: only(func(c *cell) { // with real sockets: TestReconnectsLeaveNothing
		c.settle()
		for i := range 300 {
			p := c.only()
			if i%2 == 0 {
				p.Kill()
			} else {
				c.M.Reconnect(0)
			}
			<-p.Gone()
			c.until("back", func() bool { return c.M.Metrics().ActiveConnections == 1 && len(c.Srv.Live()) == 1 })
			if i == 0 {
				continue
			}
			if n := c.Net.Open(); n != 1 {
				c.T.Fatalf("%d sockets are open after %d reconnects", n, i)
			}
		}
		harness.WantLoops(c.T, "after 300 reconnects", 1, harness.ReconnectLoop, harness.ReadLoop, harness.WriteLoop, harness.ObserverLoop)
	})}, not: onlyIn(steady), restless: true, with: func(cfg *wsshard.Config) { cfg.Backoff.MaxDelay = 100 * time.Millisecond }},
}

// stopProcess is a pause of the process: the peer's answers lie unread past every deadline, and the first timer that fires
// afterwards is late.
func (c *cell) stopProcess(p *wstest.Peer) {
	unread := p.Net().(*wstest.Conn)
	unread.StallWrite(true)
	time.Sleep(6900 * time.Millisecond) // of a ping in the meantime, the answer is due within four seconds
	hook.NoteLate(c.M)
	time.Sleep(3 * time.Second)
	unread.StallWrite(false)
	time.Sleep(10 * time.Second)
	synctest.Wait()
}

func crowdSize() int { return harness.Fewer(200, 40) }

// crowd is so many shards to which the same happens at the same instant.
var crowd = &kind{drives: map[phase][]drive{
	connecting: only(func(c *cell) {
		c.Begin(harness.Numbered(crowdSize())...)
		c.wantCrowd()
	}),
	steady: only(func(c *cell) {
		c.Begin(harness.Numbered(crowdSize())...)
		c.wantCrowd()
		c.down()
		c.Srv.Restart()
		c.wantCrowd()
	}),
	backoff: only(func(c *cell) {
		c.Begin(harness.Numbered(crowdSize())...)
		c.wantCrowd()
		c.down()
		time.Sleep(20 * time.Second)
		c.Srv.Restart()
		c.wantCrowd()
	}),
	switching: only(func(c *cell) {
		c.Begin(harness.Numbered(crowdSize())...)
		c.wantCrowd()
		var all sync.WaitGroup
		for id := range crowdSize() {
			all.Go(func() {
				if err := c.M.HotSwitchover(context.Background(), id); err != nil {
					c.T.Errorf("HotSwitchover of %d: %v", id, err)
				}
			})
		}
		all.Wait()
		c.wantCrowd()
	}),
}}

// wantCrowd waits until all are connected, and checks that dials kept to the budget.
func (c *cell) wantCrowd() {
	c.T.Helper()
	c.isDown = false
	c.until("all connected", func() bool { return c.M.Metrics().ActiveConnections == crowdSize() })
	harness.WantAtMost(c.T, c.dialTimes(), 20, time.Second)
}
