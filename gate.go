package wsshard

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/seed-829c304d/wsshard/internal/gate"
)

// This file answers: how does a manager use its gate? internal/gate says when a dial may begin.

// newGate makes the gate of a run. What the last run's has learned of venues that allow one connection for a key is kept.
func newGate[S comparable](r *run[S], last *gate.Gate) *gate.Gate {
	core := r.core
	c := &core.cfg.Connection
	rules := gate.Rules{
		Width: c.MaxConcurrentDials, Threshold: c.CircuitBreakerThreshold, Reset: c.CircuitBreakerResetTimeout,
		StableAfter: core.cfg.Backoff.StableAfter, Interval: c.ProactiveReconnectInterval,
		Uniform: newUniform(core.seed, -1),
		Tell:    r.doorNews,
	}
	if c.Limiter != nil {
		rules.Limiter = guardedLimiter[S]{core, c.Limiter}
	}
	if own, ok := c.Limiter.(*slidingLimiter); ok {
		rules.Spare = own.spare
	}
	var single []gate.Key
	if last != nil {
		single = last.Singles()
	}
	return gate.New(rules, single)
}

// doorNews tells the log, the metrics and the observer what happened at a door.
func (r *run[S]) doorNews(n gate.News) {
	ev := Event[S]{Kind: EventBreakerOpen, ShardID: -1, Err: n.Err, Delay: n.Delay, Door: doorReport(n.Report)}
	log := r.core.log.With("host", n.Report.Host, "egress", n.Report.Egress, "reason", n.Report.Reason)
	switch n.Kind {
	case gate.Opened:
		ev.Kind, ev.Err = EventBreakerClosed, nil
		log.Info("circuit breaker closed", "lasted", n.Report.Lasted)
	case gate.SingleConnection:
		ev.Kind = EventSingleConnection
		log.Warn(singleWords[n.Report.Reason])
	case gate.Still:
		log.Debug("circuit breaker is open", "why", doorWords(n), "lasts", n.Report.Lasted)
	default:
		if n.Trip {
			r.core.count.trips.Add(1)
		}
		what := "circuit breaker opened"
		if !n.Trip {
			what = "a shard is refused"
		}
		log.Warn(what, "why", doorWords(n), "probe_in", n.Delay, "err", n.Err)
	}
	r.emit(ev)
}

// singleWords say to whom each reason of EventSingleConnection matters.
var singleWords = map[string]string{
	"single-connection": "the host ends a connection when the next one logs in: switchovers close first from now on, and routine ones stop",
	"connections":       "the host refuses a second connection while the first one lives: routine switchovers wait",
	"displacing":        "two shards end each other's connections: they seem to use one key, and only the application can give them two",
}

// doorWords is one sentence for whoever looks at the log at night.
func doorWords(n gate.News) string {
	r, what := n.Report, "is down"
	switch {
	case r.Reason == "bench":
		what = fmt.Sprintf("refuses %d shards with %d", r.Benched, r.Status)
	case r.Status != 0:
		what = fmt.Sprintf("answers %d", r.Status)
	}
	s := fmt.Sprintf("%s %s: %d connected, %d wait, next try in %v", r.Host, what, r.Connected, r.Waiting, n.Delay.Round(time.Millisecond))
	if r.Reason == "toomany" {
		s += "; set Connection.Limiter"
	}
	return s
}

func doorReport(r gate.Report) *DoorReport {
	return &DoorReport{
		Host: r.Host, Egress: r.Egress, Reason: r.Reason, Status: r.Status, Failed: r.Failed, Until: r.Until,
		Waiting: r.Waiting, Benched: r.Benched, Width: r.Width, Lasted: r.Lasted,
	}
}

// admission asks where to dial, and waits at that door until the dial may begin. A wait is no commitment: whoever is turned
// away, or may have to wait for long, asks URL again, and goes to another host's door at once. A Reconnect is heard, and the
// loss of a switchover's connection. The caller reports the dial's end to the gate, if err is nil.
func (o *opening[S]) admission(ctx context.Context) (u *url.URL, err error) {
	g, t := o.slot.run.gate, o.ticket
	if u, o.door, err = o.url(ctx); err != nil {
		return nil, err
	}
	admitted := false
	defer func() {
		if !admitted {
			g.Quit(t)
		}
	}()
	g.Join(ctx, t, o.door)
	asked, lost, hurried := time.Now(), o.lost, o.hurried
	if lost != nil {
		hurried = nil // a reconnect ends the switchover
	}
	again := time.NewTimer(o.untilNextAsk())
	defer again.Stop()
	for {
		// 1st: wait until something happens.
		due, hurry := false, false
		select {
		case <-t.Changed():
		case <-again.C:
			due = true
		case <-hurried:
			hurry = true
			g.Hurry(t)
		case <-lost:
			lost = nil
			g.Raise(t, gate.Down)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}

		// 2nd: is it over?
		s := g.Look(t)
		switch {
		case errors.Is(s.Err, gate.ErrOpen):
			return nil, ErrCircuitOpen
		case s.Err != nil:
			return nil, s.Err
		case s.Admitted:
			admitted = true
			return o.current(ctx, u, asked)
		}

		// 3rd: has the handler thought better of it?
		elsewhere, err := o.rethink(ctx, s, hurry, due)
		if err != nil {
			return nil, err
		}
		if elsewhere != nil {
			u, asked = elsewhere, time.Now()
		}
		if s.News || hurry || due {
			again.Reset(o.untilNextAsk())
		}
	}
}

// rethink asks URL again where that may help, and lines up at the door that it names; nil: it was not asked. hurry says that a
// Reconnect was heard, due that the last answer is a second old.
func (o *opening[S]) rethink(ctx context.Context, s gate.State, hurry, due bool) (*url.URL, error) {
	if s.Shut && (s.News || due) {
		o.turnedAway()
	}
	if !s.News && !hurry && !(due && s.Patient) {
		return nil, nil
	}
	u, door, err := o.askAgain(ctx)
	if err != nil {
		return nil, err
	}
	o.door = door
	o.slot.run.gate.Join(ctx, o.ticket, door)
	return u, nil
}

// current is u, or the newest word of the handler where u has waited: signatures and tokens in a URL do not last as long as a
// line there can be. One for another host would have a line of its own: then u, which is hardly older than a second, must do.
func (o *opening[S]) current(ctx context.Context, u *url.URL, asked time.Time) (*url.URL, error) {
	o.st.SubscriptionCount = o.slot.desired.Len()
	if time.Since(asked) < urlLife {
		return u, nil
	}
	shown := o.shown
	again, door, err := o.askAgain(ctx)
	switch {
	case err != nil:
		return nil, err
	case door == o.door:
		return again, nil
	}
	o.shown = shown
	return u, nil
}

// urlLife is how old a URL may be when it is dialled.
const urlLife = time.Second

// askAgain asks URL with a whole ConnectTimeout: what came before is for nothing.
func (o *opening[S]) askAgain(ctx context.Context) (*url.URL, gate.Key, error) {
	o.left = o.core.cfg.Connection.ConnectTimeout
	return o.url(ctx)
}

// askURL asks where the next attempt would dial, in a goroutine that ends with the answer; the zero Key where URL fails.
func (o *opening[S]) askURL(ctx context.Context) <-chan gate.Key {
	answer := make(chan gate.Key, 1)
	go func() {
		_, door, _ := o.askAgain(ctx)
		answer <- door
	}()
	return answer
}

// stoppedTimer is a timer that Reset starts.
func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// untilNextAsk is a second, give or take a half: shards that began to wait together do not ask together.
func (o *opening[S]) untilNextAsk() time.Duration { return askEvery(o.core) }

func askEvery[S comparable](c *core[S]) time.Duration {
	return time.Second/2 + time.Duration(c.asks.float()*float64(time.Second))
}

// turnedAway counts in ReconnectAttempt: a handler may go by it.
func (o *opening[S]) turnedAway() {
	o.st.ReconnectAttempt++
	o.turned++
	if o.lost == nil {
		o.slot.stats.set(func(st *shardStats) { st.failed = o.st.ReconnectAttempt })
	}
}
