package faults

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: how is Stop tried where a manager waits? Row 36 of the matrix; stop_points_test.go lists the places, and
// waits_test.go compares the list with the program.

// stopPoint is somewhere that a manager may be waiting when Stop comes.
type stopPoint struct {
	name   string
	phase  phase
	with   func(cfg *wsshard.Config)
	setup  func(c *cell)
	reach  func(c *cell)
	waits  []string      // functions in which some goroutine waits then
	during []string      // the same, once Stop has begun
	takes  time.Duration // by Stop
	// heedless: a callback waits that ignores its context, or has one that ends only when Stop gives up
	heedless bool
}

const stopLimit = 7 * time.Second

// stops are the cells of row 36 in one phase: each point with a Stop that waits, and with one whose ctx has ended.
func stops(p phase) (all []drive) {
	for _, sp := range stopPoints {
		if sp.phase == p {
			all = append(all, drive{name: sp.name, with: sp.with, setup: sp.setup, do: func(c *cell) { sp.stop(c, false) }},
				drive{name: sp.name + ", given up", with: sp.with, setup: sp.setup, do: func(c *cell) { sp.stop(c, true) }})
		}
	}
	return all
}

func (sp stopPoint) stop(c *cell, ended bool) {
	c.T.Helper()
	released := make(chan struct{})
	c.released = released
	sp.reach(c)
	synctest.Wait()
	c.wantWaits(sp.waits)
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	want, takes := error(nil), sp.takes
	if sp.heedless {
		want, takes = context.DeadlineExceeded, stopLimit
	}
	if ended {
		cancel()
		takes = 0
	}
	peers := c.Srv.Live()
	begin := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- c.M.Stop(ctx) }()
	synctest.Wait()
	if !ended {
		c.wantWaits(sp.during)
	}
	err := <-stopped
	took := time.Since(begin)
	if !sp.heedless {
		slowestStop = max(slowestStop, took)
	}
	if took != takes || err != want && !(ended && err == context.Canceled) {
		c.T.Errorf("Stop: %v after %v, want %v after %v", err, took, want, takes)
	}
	synctest.Wait()
	if n := c.Net.Open(); n != 0 && c.agents == nil {
		c.T.Errorf("%d sockets are open", n)
	}
	if left := harness.Ours(); len(left) > 0 && !sp.heedless {
		c.T.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
	}
	for _, p := range peers { // those that can hear it are told goodbye
		cause := c.Cause(generation(p))
		if !sp.heedless && sp.takes == 0 && !ended && errors.Is(cause, wsshard.ErrStopped) && p.CloseCode() != 1000 {
			c.T.Errorf("the server heard close %d of a connection that Stop closed", p.CloseCode())
		}
	}
	close(released)
	c.heal()
	harness.WantLoops(c.T, "released", 0)
	if err := c.M.Stop(context.Background()); err != nil {
		c.T.Errorf("the next Stop: %v", err)
	}
	c.Mu.Lock()
	last := wsshard.Event[string]{}
	if len(c.Events) > 0 {
		last = c.Events[len(c.Events)-1]
	}
	c.Mu.Unlock()
	if last.Kind != wsshard.EventStopped {
		c.T.Errorf("the last event is %v", last.Kind)
	}
	time.Sleep(time.Second) // what the point began beside the manager
	c.Mu.Lock()
	clear(c.Got) // what Stop forgot is nobody's loss
	clear(c.ticks)
	c.turned = time.Now() // also of the number that comes in this instant, before there is a connection again
	c.Mu.Unlock()
	c.restart()
}

// wantWaits checks that the library does wait in these functions.
func (c *cell) wantWaits(functions []string) {
	c.T.Helper()
	if len(functions) == 0 {
		return
	}
	stacks := strings.ReplaceAll(strings.Join(harness.Ours(), "\n"), "[...]", "")
	for _, f := range functions {
		frame := "wsshard." + f
		if strings.HasPrefix(f, "wsconn.") {
			frame = "internal/" + f
		}
		if !strings.Contains(stacks, frame+"(") && !strings.Contains(stacks, frame+".func") {
			c.T.Errorf("nobody waits in %s, but in %q", f, harness.Loops())
		}
	}
}

// waitFor is a callback that heeds its context.
func waitFor(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// stuck has the peer of the live connection read nothing more, and somebody write to it.
func stuck(c *cell) {
	c.settle()
	c.only().Net().(*wstest.Conn).StallRead(true)
	c.send(10000)
}

// send has somebody send a message of so many bytes.
func (c *cell) send(n int) {
	c.joined.Go(func() { c.M.Send(context.Background(), 0, wsshard.Text(strings.Repeat("x", n))) })
	time.Sleep(100 * time.Millisecond)
}

func small(c *cell) { c.Net.SetBuffer(4000) }

// silentProxy has the cell go through a proxy that says this and nothing more.
func silentProxy(text string) func(c *cell) {
	return func(c *cell) {
		c.bribe(func(nc net.Conn) { io.WriteString(nc, text); io.Copy(io.Discard, nc) })
		c.launch()
	}
}

// moving asks for a switchover and lets so much time pass.
func (c *cell) moving(d time.Duration) {
	c.joined.Go(func() { c.switchover() })
	time.Sleep(d)
}

// heldBack has the first message of the next connection keep the handler, as long as it may.
func (c *cell) heldBack() {
	c.settle()
	c.Srv.OnOpen(func(p *wstest.Peer) { p.Send("held") })
	c.set(func(h *hooks) {
		h.message = func(ctx context.Context, msg wsshard.Message) {
			if msg.String() == "held" {
				waitFor(ctx)
			}
		}
	})
}

// patiently makes a config with limits that no test reaches.
func patiently(change func(cfg *wsshard.Config)) func(cfg *wsshard.Config) {
	return func(cfg *wsshard.Config) {
		cfg.Health.PingInterval, cfg.Health.DataTimeout = -1, -1
		if change != nil {
			change(cfg)
		}
	}
}

// lose has the shard lose its connection, and find nobody there.
func lose(c *cell) {
	c.settle()
	if c.expensive {
		c.only().Kill()
		time.Sleep(time.Second)
		synctest.Wait()
	} else {
		c.Net.OnDial(refuseDial)
	}
	for _, p := range c.Srv.Live() {
		p.Kill()
	}
	time.Sleep(time.Minute)
}

// firstLimiter has the first dial wait until its ctx ends.
type firstLimiter struct{ once sync.Once }

func (l *firstLimiter) Wait(ctx context.Context, _, _ string) (err error) {
	l.once.Do(func() { err = waitFor(ctx) })
	return err
}

func (*firstLimiter) Block(string, string, time.Time) {}

var stopFaults = []*row{{no: 36, name: "stop", kind: &kind{drives: map[phase][]drive{
	connecting: stops(connecting), steady: stops(steady), backoff: stops(backoff), switching: stops(switching),
}}}}
