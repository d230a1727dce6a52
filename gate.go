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
func (m *ShardManager[S]) newGate(r *run[S], last *run[S]) *gate.Gate {
	c := &m.cfg.Connection
	rules := gate.Rules{
		Width: c.MaxConcurrentDials, Threshold: c.CircuitBreakerThreshold, Reset: c.CircuitBreakerResetTimeout,
		StableAfter: m.cfg.Backoff.StableAfter, Interval: c.ProactiveReconnectInterval,
		Uniform: newUniform(m.seed, -1),
		Tell:    func(n gate.News) { m.doorNews(r, n) },
	}
	if c.Limiter != nil {
		rules.Limiter = guardedLimiter[S]{m, c.Limiter}
	}
	if own, ok := c.Limiter.(*slidingLimiter); ok {
		rules.Spare = own.spare
	}
	var single []gate.Key
	if last != nil {
		single = last.gate.Singles()
	}
	return gate.New(rules, single)
}

// doorNews tells the log, the metrics and the observer what happened at a door.
func (m *ShardManager[S]) doorNews(r *run[S], n gate.News) {
	ev := Event[S]{Kind: EventBreakerOpen, ShardID: -1, Err: n.Err, Delay: n.Delay, Door: doorReport(n.Report)}
	log := m.log.With("host", n.Report.Host, "egress", n.Report.Egress, "reason", n.Report.Reason)
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
			m.count.trips.Add(1)
		}
		what := "circuit breaker opened"
		if !n.Trip {
			what = "a shard is refused"
		}
		log.Warn(what, "why", doorWords(n), "probe_in", n.Delay, "err", n.Err)
	}
	m.emit(r, ev)
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

// doors are the reports of those that are shut or have a line.
func (m *ShardManager[S]) doors() (all []DoorReport) {
	m.mu.Lock()
	r := m.run
	m.mu.Unlock()
	if r == nil {
		return nil
	}
	for _, report := range r.gate.Doors() {
		all = append(all, *doorReport(report))
	}
	return all
}

// admission asks where to dial, and waits at that door until the dial may begin. A wait is no commitment: whoever is turned
// away, or may have to wait for long, asks URL again, and goes to another host's door at once. A Reconnect is heard, and the
// loss of a switchover's connection. The caller reports the dial's end to the gate, if err is nil.
func (o *opening[S]) admission(ctx context.Context) (u *url.URL, err error) {
	g, t := o.sh.run.gate, o.ticket
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
	asked, lost, hurried := time.Now(), o.lost, o.sh.hurried
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
		if s.Shut && (s.News || due) {
			o.turnedAway()
		}
		if s.News || hurry || due && s.Patient {
			next, door, err := o.askAgain(ctx)
			if err != nil {
				return nil, err
			}
			u, o.door, asked = next, door, time.Now()
			g.Join(ctx, t, door)
		}
		if s.News || hurry || due {
			again.Reset(o.untilNextAsk())
		}
	}
}

// current is u, or the newest word of the handler where u has waited: signatures and tokens in a URL do not last as long as a
// line there can be. One for another host would have a line of its own: then u, which is hardly older than a second, must do.
func (o *opening[S]) current(ctx context.Context, u *url.URL, asked time.Time) (*url.URL, error) {
	o.st.SubscriptionCount = o.sh.desired.Len()
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
	o.left = o.m.cfg.Connection.ConnectTimeout
	return o.url(ctx)
}

// failsAt notes where a dial failed, or a session was lost, since the last stable connection.
func (s *shard[S]) failsAt(door gate.Key) {
	if s.tries.failed == 0 || s.failedAt == nil || len(s.failedAt) >= 16 {
		s.failedAt = make(map[gate.Key]bool)
	}
	s.failedAt[door] = true
}

// askURL asks where the next attempt would dial, in a goroutine that ends with the answer; the zero Key where URL fails.
func (s *shard[S]) askURL(ctx context.Context) <-chan gate.Key {
	answer := make(chan gate.Key, 1)
	o := &opening[S]{sh: s, m: s.m, st: s.state()}
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
func (o *opening[S]) untilNextAsk() time.Duration { return askEvery(o.m) }

func askEvery[S comparable](m *ShardManager[S]) time.Duration {
	return time.Second/2 + time.Duration(m.asks.float()*float64(time.Second))
}

// turnedAway counts in ReconnectAttempt: a handler may go by it.
func (o *opening[S]) turnedAway() {
	o.st.ReconnectAttempt++
	o.turned++
	if o.lost == nil {
		o.sh.stats.set(func(st *shardStats) { st.failed = o.st.ReconnectAttempt })
	}
}

// dialResult is what the gate learns of a dial.
func dialResult(host gate.Verdict, err error) gate.Result {
	r := gate.Result{Verdict: host, Err: err}
	var he *HandshakeError
	var pe *ProxyError
	var told *toldError
	switch {
	case errors.As(err, &he):
		r.Status, r.RetryAfter = he.StatusCode, he.RetryAfter
	case errors.As(err, &pe):
		r.Status = pe.StatusCode
		if errors.As(err, &told) {
			r.RetryAfter = told.retryAfter
		}
	}
	return r
}

// endedAs says to the gate who ended a session.
func endedAs(cause error) (how gate.End, code int) {
	var ce *CloseError
	switch {
	case cause == nil, isAny(cause, ErrStopped, ErrReplaced, ErrReconnect, ErrMaxLifetime, ErrNotConnected):
		return gate.Ours, 0
	case errors.As(cause, &ce) && !ce.Local:
		return gate.Theirs, ce.Code
	case isBroken(cause) && !isAny(cause, ErrWriteTimeout):
		return gate.Theirs, 0
	}
	return gate.Young, 0
}
