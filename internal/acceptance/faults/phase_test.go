package faults

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: how is a shard brought into a phase, and a fault of each kind made to strike there?

// slowestStop is what Stop took at most at the end of a cell.
var slowestStop time.Duration

// kind says how a fault strikes in each phase, or why it cannot.
type kind struct {
	drives map[phase][]drive
	not    map[phase]string
}

// drive brings a shard into a phase, has the fault strike, and checks what must come of that at once.
type drive struct {
	name  string
	do    func(c *cell)
	with  func(cfg *wsshard.Config) // as a strike's
	setup func(c *cell)             // as a row's
}

func only(do func(c *cell)) []drive { return []drive{{do: do}} }

// target is what a fault may need to know of where it strikes.
type target struct {
	phase phase
	peer  *wstest.Peer // of a fault of a connection: the server's end of it
}

// launch starts the manager with its topics.
func (c *cell) launch() {
	c.T.Helper()
	c.Begin(wanted...)
	synctest.Wait()
}

// settle starts the manager and waits until it delivers.
func (c *cell) settle() {
	c.T.Helper()
	c.launch()
	c.until("delivering", func() bool {
		c.Mu.Lock()
		defer c.Mu.Unlock()
		return len(c.Got["a"]) > 2 && len(c.Got["b"]) > 2
	})
}

// fails waits until OnError has heard of two failures more, each of them as the fault has it.
func (c *cell) fails(known int) {
	c.T.Helper()
	c.until("failed twice", func() bool { return len(c.Failures()) >= known+2 })
	for _, f := range c.Failures()[known:] {
		if c.is == nil || !c.is(f.Err) {
			c.T.Errorf("OnError heard %v", f.Err)
		}
	}
	if c.check != nil {
		c.check(c)
	}
}

// switchover replaces the connection of shard 0 and says how that ended.
func (c *cell) switchover() error {
	err := c.M.HotSwitchover(context.Background(), 0)
	if err != nil {
		c.Say(err)
	}
	return err
}

// wantUntouched checks that a switchover that failed has not harmed the connection that was there.
func (c *cell) wantUntouchedBy(err error, old harness.Opened, gaps, failures int) {
	c.T.Helper()
	if err == nil || c.is == nil || !c.is(err) {
		c.T.Errorf("HotSwitchover: %v", err)
	}
	if cause := c.Cause(old); cause != nil {
		c.T.Errorf("the old connection ended with %v", cause)
	}
	c.Mu.Lock()
	before := len(c.Got["a"])
	c.Mu.Unlock()
	time.Sleep(time.Second)
	synctest.Wait()
	c.Mu.Lock()
	after := len(c.Got["a"])
	c.Mu.Unlock()
	if after-before < 9 {
		c.T.Errorf("the old connection delivered %d numbers in a second", after-before)
	}
	if c.Heard(wsshard.EventGap) != gaps || len(c.Failures()) != failures {
		c.T.Errorf("%d gaps, OnError heard %v", c.Heard(wsshard.EventGap), c.Failures())
	}
}

// dialFault strikes every attempt to connect.
var dialFault = &kind{
	drives: map[phase][]drive{
		connecting: only(func(c *cell) {
			c.do(c, target{phase: connecting})
			c.launch()
			c.fails(0)
		}),
		backoff: only(func(c *cell) {
			c.settle()
			c.do(c, target{phase: backoff})
			c.only().Kill()
			c.until("lost", func() bool { return len(c.Failures()) > 0 })
			c.fails(1)
		}),
		switching: only(func(c *cell) {
			c.settle()
			old := generation(c.only())
			c.do(c, target{phase: switching})
			c.wantUntouchedBy(c.switchover(), old, 0, 0)
			if c.check != nil {
				c.check(c)
			}
			c.heal()
			if err := c.switchover(); err != nil {
				c.T.Errorf("the next switchover: %v", err)
			}
			if cause := c.Cause(old); !errors.Is(cause, wsshard.ErrReplaced) {
				c.T.Errorf("the old connection ended with %v", cause)
			}
			if n := c.Heard(wsshard.EventGap); n != 0 {
				c.T.Errorf("%d gaps", n)
			}
		}),
	},
	not: map[phase]string{steady: "nothing is dialled"},
}

// linkFault strikes a connection that is open.
var linkFault = &kind{
	drives: map[phase][]drive{
		connecting: only(func(c *cell) {
			c.Srv.OnOpen(c.once(func(p *wstest.Peer) { c.do(c, target{connecting, p}) }))
			c.launch()
			c.over(c.Srv.Conn(0), false)
		}),
		steady: only(func(c *cell) {
			c.settle()
			p := c.only()
			c.do(c, target{steady, p})
			c.over(p, false)
		}),
		switching: {
			{name: "old", do: func(c *cell) {
				c.settle()
				old := c.only()
				c.Srv.OnOpen(c.once(func(*wstest.Peer) { c.do(c, target{switching, old}) }))
				if err := c.switchover(); err != nil {
					c.T.Errorf("HotSwitchover: %v", err)
				}
				c.over(old, true)
			}},
			{name: "next", do: func(c *cell) {
				c.settle()
				old := generation(c.only())
				c.Srv.OnOpen(c.once(func(p *wstest.Peer) { c.do(c, target{switching, p}) }))
				err := c.switchover()
				next := c.Srv.Conn(1)
				switch {
				case c.mild:
					if err != nil {
						c.T.Errorf("HotSwitchover: %v", err)
					}
					c.over(next, false)
				case c.mute:
					c.is = harness.Is(wsshard.ErrSwitchoverTimeout)
					fallthrough
				default:
					c.wantUntouchedBy(err, old, 0, 0)
					if cause := c.Cause(generation(next)); cause == nil || !c.is(cause) {
						c.T.Errorf("the new connection ended with %v", cause)
					}
				}
			}},
		},
	},
	not: map[phase]string{backoff: "there is no connection that it could strike"},
}

// once has a hook of the server see the first connection only.
func (c *cell) once(f func(p *wstest.Peer)) func(p *wstest.Peer) {
	var first sync.Once
	return func(p *wstest.Peer) { first.Do(func() { f(p) }) }
}

// over waits until the fault has done its work on a connection, and checks why that ended; replaced: it was to be replaced
// anyway, so that is a good reason too.
func (c *cell) over(p *wstest.Peer, replaced bool) {
	c.T.Helper()
	k := generation(p)
	if c.mild {
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if cause := c.Cause(k); cause != nil && !(replaced && errors.Is(cause, wsshard.ErrReplaced)) {
			c.T.Errorf("it ended with %v", cause)
		}
		if !replaced && c.Heard(wsshard.EventGap) != 0 {
			c.T.Error("a gap was reported")
		}
	} else {
		c.until("lost", func() bool { return c.Cause(k) != nil })
		cause := c.Cause(k)
		switch good := errors.Is(cause, wsshard.ErrReplaced); {
		case c.mute && good, replaced && good:
		case c.is == nil || !c.is(cause):
			c.T.Errorf("it ended with %v", cause)
		}
	}
	if c.check != nil {
		c.check(c)
	}
}

// callFault is something that the application does, or fails to do, which may happen at any time. Its strike does all of it,
// in a goroutine of its own, and returns when the fault is over.
var callFault = &kind{
	drives: map[phase][]drive{
		connecting: only(func(c *cell) {
			release := c.holdDials()
			c.launch()
			c.during(connecting, release)
		}),
		steady: only(func(c *cell) {
			c.settle()
			c.during(steady, func() {})
		}),
		backoff: only(func(c *cell) {
			c.settle()
			c.Net.OnDial(refuseDial)
			c.only().Kill()
			c.until("backing off", func() bool {
				return c.M.Metrics().Shards[0].State == wsshard.ShardBackoff && c.M.Metrics().Shards[0].ReconnectAttempt > 2
			})
			c.during(backoff, func() { c.Net.OnDial(nil) })
		}),
		switching: only(func(c *cell) {
			c.settle()
			release := c.holdDials()
			var moved sync.WaitGroup
			moved.Go(func() {
				if err := c.switchover(); err != nil && !isAnyOf(err, context.Canceled, wsshard.ErrReconnect, wsshard.ErrStopped, wsshard.ErrNotConnected) && !isPanic(err) {
					c.T.Errorf("HotSwitchover: %v", err)
				}
			})
			synctest.Wait()
			c.during(switching, release)
			moved.Wait()
		}),
	},
}

func refuseDial(context.Context, int, string) error { return syscall.ECONNREFUSED }

func isAnyOf(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

func isPanic(err error) bool {
	var pe *wsshard.PanicError
	return errors.As(err, &pe)
}

// holdDials keeps dials from beginning until release.
func (c *cell) holdDials() (release func()) {
	held := make(chan struct{})
	c.Net.OnDial(func(ctx context.Context, _ int, _ string) error {
		select {
		case <-held:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return sync.OnceFunc(func() { close(held) })
}

// during has the fault strike, and ends the phase after two seconds.
func (c *cell) during(p phase, end func()) {
	c.T.Helper()
	var struck sync.WaitGroup
	struck.Go(func() { c.do(c, target{phase: p}) })
	time.Sleep(2 * time.Second)
	end()
	struck.Wait()
	synctest.Wait()
	if c.check != nil {
		c.check(c)
	}
}

// state is what the shard is doing.
func (c *cell) state() wsshard.ShardState { return c.M.Metrics().Shards[0].State }

// environment has variables that name a proxy, which nobody asked for: nothing happens.
var environment = &kind{
	drives: map[phase][]drive{
		connecting: {
			{name: "ws", do: func(c *cell) { c.inEnvironment(c.settle, "srv:80") }},
			{name: "wss", do: func(c *cell) {
				c.set(func(h *hooks) { h.url = func(context.Context) (string, error) { return "wss://srv/", nil } })
				c.inEnvironment(func() { c.launch(); c.until("dialled", func() bool { return len(c.dialTimes()) > 1 }) }, "srv:443")
			}},
		},
		backoff: only(func(c *cell) {
			c.settle()
			c.inEnvironment(func() {
				k := generation(c.only())
				c.only().Kill()
				c.until("connected again", func() bool { return c.Cause(k) != nil && c.M.Metrics().ActiveConnections == 1 })
			}, "srv:80")
		}),
		switching: only(func(c *cell) {
			c.settle()
			c.inEnvironment(func() {
				if err := c.switchover(); err != nil {
					c.T.Errorf("HotSwitchover: %v", err)
				}
			}, "srv:80")
		}),
	},
	not: map[phase]string{steady: "nothing is dialled"},
}

func (c *cell) inEnvironment(do func(), dials string) {
	for _, name := range []string{"http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"} {
		if old, had := os.LookupEnv(name); had {
			defer os.Setenv(name, old)
		} else {
			defer os.Unsetenv(name)
		}
		os.Setenv(name, "http://"+harness.Canary+":"+harness.Canary+"@elsewhere:3128")
	}
	do()
	c.wantDialled(dials)
}

// nap lets time pass in the bubble, also for those who run beside the script: unlike harness.After, which one at a time may call.
func nap(d time.Duration) { time.Sleep(d) }
