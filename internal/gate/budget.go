package gate

import (
	"context"
	"errors"
)

// This file answers: how is a budget spent that may make a dial wait?

// errGone is what a Limiter that took the goroutine away has answered.
var errGone = errors.New("gate: the limiter did not return")

// spendLocked lets t, which may begin, wait for the budget: one at a time at a door, in a goroutine of its own, which ends when
// the Limiter returns. Meanwhile t's holder hears all there is to hear. t holds neither a place nor a turn.
func (g *Gate) spendLocked(d *door, t *Ticket) {
	ctx, cancel := context.WithCancel(t.ctx)
	t.state, t.recall, t.spent = spending, cancel, make(chan struct{})
	d.budget = t
	go g.spend(ctx, d, t, t.spent)
}

func (g *Gate) spend(ctx context.Context, d *door, t *Ticket, spent chan<- struct{}) {
	err := errGone
	defer func() { // also when the limiter, which is the application's, took the goroutine away
		g.mu.Lock()
		recalled := ctx.Err() != nil
		t.recall()
		d.budget = nil
		close(spent)
		if t.benched {
			t.benched, d.bench.out = false, nil
		}
		switch {
		case t.state != spending: // it has given up
		case err == nil, recalled && t.ctx.Err() == nil: // let in, or something comes first: then it is the first of its line again
			t.granted, t.state = err == nil, waiting
			if s := d.bench.seats[t.shard]; s != nil && t.class == Down {
				d.bench.sit(s, t)
			} else {
				d.lines[t.class].push(t)
			}
		default:
			t.state, t.err = refused, err
			t.poke()
		}
		g.unlock(d)
	}()
	err = g.rules.Limiter.Wait(ctx, d.key.Host, d.key.Egress)
}
