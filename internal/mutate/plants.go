package main

// This file answers: which mistakes are planted by hand?

// plant is a mistake that somebody could make, as replacements in the library's source. Each old text must occur exactly once:
// a plant that does not apply any more is an error, and not a plant that was caught.
type plant struct {
	name  string
	tests string // that should notice, but for the soak; all are run if none of these does
	edits []replacement
}

type replacement struct{ file, old, new string }

var plants = []plant{
	{"close on open: the old connection goes as soon as the new one is open", "SubscribeWhileSwitching", []replacement{
		{"cutover.go", "case p.lost: // there is nothing", "case p.lost || !p.silent: // there is nothing"},
	}},
	{"no proof: the new connection counts as ready when it is open", "SubscribeWhileSwitching", []replacement{
		{"cutover.go", "if p.readyAt, p.ready = ch.ready(p.now); p.ready {", "if p.readyAt, p.ready = ch.opened, true; p.ready {"},
		{"cutover.go", "p.carries = p.frozen && ch.carriesAll(p.now)", "p.carries = p.frozen"},
	}},
	{"no overlap proof: nobody waits for the old connection to bring what the new one holds", "ValidatorSeesDuplicates", []replacement{
		{"cutover.go", "proven := lingered && p.met", "proven := lingered"},
	}},
	{"readiness closed once: what was ready is ready for good", "SubscribeWhileSwitching|Switchover", []replacement{
		{"cutover.go", "if p.readyAt, p.ready = ch.ready(p.now); p.ready {", "if p.readyAt, p.ready = ch.ready(p.now); !ch.readyAt.IsZero() {\n\t\tp.readyAt, p.ready = ch.readyAt, true\n\t}\n\tif p.ready {"},
		{"cutover.go", "p.carries = p.frozen && ch.carriesAll(p.now)", "p.carries = p.frozen"},
	}},
	{"no gap for a silent connection that was replaced", "Gap|Silent", []replacement{
		{"switchover.go", "case silent != nil:\n\t\ts.openGap(cur, cur.gapFrom(silent))", "case silent != nil:"},
	}},
	{"no gap at all", "Gap", []replacement{
		{"gap.go", "	if len(named) > 0 {\n", "	if len(named) < 0 {\n"},
	}},
	{"a gap begins when the loss is noticed, not with the last frame", "Gap", []replacement{
		{"gap.go", "last := c.lastFrame()", "last := time.Now()"},
		{"gap.go", "return c.conn.At(clocked(at))\n\t}\n\tif errors.Is(cause, ErrDataTimeout) {\n\t\treturn c.lastData()", "return time.Now()\n\t}\n\tif errors.Is(cause, ErrDataTimeout) {\n\t\treturn time.Now()"},
	}},
	{"replay of the unsubscribed: what is unsubscribed while no connection is live comes back", "Unsubscribe|Model|Reconnect", []replacement{
		{"internal/reconcile/desired.go", "\t\tdelete(d.want, s)\n\t\tdelete(d.again, s)\n\t\tif len(d.sessions) == 0 {\n", "\t\tif len(d.sessions) > 0 {\n\t\t\tdelete(d.want, s)\n\t\t}\n\t\tdelete(d.again, s)\n\t\tif len(d.sessions) == 0 {\n"},
	}},
	{"an unsubscription reaches the old connection only", "Unsubscribe|Switch", []replacement{
		{"internal/reconcile/desired.go", "\tfor _, a := range d.sessions {\n\t\ta.wakeLocked()\n\t}", "\tif len(d.sessions) > 0 {\n\t\td.sessions[0].wakeLocked()\n\t}"},
	}},
	{"backoff reset on connect", "Backoff|Attempts|Reconnect|Close", []replacement{
		{"backoff.go", "stable := uptime >= a.cfg.StableAfter", "stable := uptime >= 0"},
	}},
	{"breaker per shard", "Breaker", []replacement{
		{"attempt.go", "Host: strings.ToLower(hostPort(u)), Egress: o.sh.egress}", "Host: strings.ToLower(hostPort(u)), Egress: fmt.Sprint(o.sh.egress, o.sh.id)}"},
	}},
	{"budget with burst: a new window forgets all of the last one", "Limiter|Budget", []replacement{
		{"limiter.go", "for len(log.at) > 0 && now.Sub(log.at[0]) >= l.window {\n\t\tlog.at = log.at[1:]", "if len(log.at) > 0 && now.Sub(log.at[0]) >= l.window {\n\t\tlog.at = nil"},
	}},
	{"pong counted as data", "Health|Ping|DataTimeout|Quiet", []replacement{
		{"read.go", "\tif n := c.pingOpen.Load(); n != 0 && payload", "\tc.conn.Fresh()\n\tif n := c.pingOpen.Load(); n != 0 && payload"},
	}},
	{"ctx dropped in backoff", "Stop", []replacement{
		{"shard.go", "\t\tcase <-ctx.Done():\n\t\t\treturn\n\t\tcase <-s.wake:\n", "\t\tcase <-s.wake:\n"},
	}},
	{"double OnDisconnect after a switchover", "Disconnect|Switch", []replacement{
		{"session.go", "\tc.m.disconnected(c.sh.run, c.st, c.cause())\n\tclose(c.delivered)", "\tc.m.disconnected(c.sh.run, c.st, c.cause())\n\tif c.isRetired() {\n\t\tc.m.disconnected(c.sh.run, c.st, c.cause())\n\t}\n\tclose(c.delivered)"},
	}},
	{"held messages out of order", "Handover|Switch", []replacement{
		{"relay.go", "\th := r.first\n\tif h == nil {\n\t\tr.enterLocked(direct)", "\th := r.last\n\tif h == nil {\n\t\tr.enterLocked(direct)"},
	}},
	{"one held message lost", "Handover|Switch", []replacement{
		{"switchover.go", "\tgo next.flush()", "\tnext.relay.take()\n\tgo next.flush()"},
	}},
	{"close early: what the old connection still has in the pipe is not read", "Drain|Handover|Switch", []replacement{
		{"session.go", "\t\tc.drain(c.m.cfg.Switchover.DrainTimeout)\n", ""},
		{"session.go", "c.complete.Store(returned && closed && c.unread.Load() == 0)", "c.complete.Store(returned && closed && c.unread.Load() == 0 || c.isRetired())"},
	}},
	{"keys forgotten: the new connection repeats what the old one delivered", "Duplicate|Handover|Keys", []replacement{
		{"relay.go", "_, again = r.keys[key]; again {\n\t\t\tdelete(r.keys, key)", "_, again = r.keys[key]; again {\n\t\t\tagain = false\n\t\t\tdelete(r.keys, key)"},
		{"relay.go", "_, dup := r.keys[key]", "_, dup := r.keys[\"?\"+key]"},
	}},
	{"parked for good: nobody looks whether a reconnect was asked for", "Park", []replacement{
		{"shard.go", "for !s.takeReconnect() {\n\t\tselect {", "for {\n\t\tselect {"},
	}},
	{"two sessions deliver at once: the new one does not wait for the old", "Handover|Switch|Order", []replacement{
		{"read.go", "if !c.live && c.hold(msg, &v) {", "if !c.live && c.isRetired() {"},
	}},
	{"an answer to the last request counts for this one", "Ack", []replacement{
		{"answer.go", "answers := func(request uint64) bool { return a.Request == 0 || a.Request == request }", "answers := func(uint64) bool { return true }"},
	}},
	{"a slow handler is a dead peer", "Slow|Health", []replacement{
		{"health.go", "\tif !s.Waiting { // what has come since may bring what is missed here, and is not handled yet\n\t\tclock = s.Asked\n\t}\n", ""},
		{"health.go", "\tclock := s.Clock(now)\n\tif s.Reads > h.reads", "\tclock := now\n\tif s.Reads > h.reads"},
	}},
	{"a send that waits on a lost connection is never answered", "Send|Stop", []replacement{
		{"outbox.go", "\tfor _, s := range o.sends {\n\t\ts.done <- err\n\t}\n", ""},
	}},
	{"readiness is not asked again when the old connection has stopped writing", "ReadinessIsAskedAgain", []replacement{
		{"cutover.go", "p.carries = p.frozen && ch.carriesAll(p.now)", "p.carries = p.frozen"},
	}},
	{"what does not deliver yet ends a gap", "OnlyWhatDelivers", []replacement{
		{"gap.go", "if !c.proof.telling.Load() || s.live.Load() != c {", "if !c.proof.telling.Load() {"},
	}},
	{"a snapshot that the last connection owed is not asked for on the next one", "ANewConnectionOwes", []replacement{
		{"shard.go", "\ts.resubs.reset()\n", ""},
	}},
	{"places are not looked at when a connection takes over", "PlacesAreFree", []replacement{
		{"shard.go", "\ts.lingers.Store(true) // cur may carry less than the one before\n", ""},
	}},
	{"what a drain left unread is taken for read", "WhatADrainLeaves", []replacement{
		{"session.go", "c.complete.Store(returned && closed && c.unread.Load() == 0)", "c.complete.Store(returned && closed)"},
	}},
	{"what a Goexit left unread is taken for read", "WhatAGoexitLeaves", []replacement{
		{"session.go", "if !signs.Current || !returned {", "if !signs.Current && returned {"},
	}},
	{"a gap forgets what was let go of since the last frame", "Gap", []replacement{
		{"gap.go", "\t\tif !o.at.Before(g.from) || o.overdue", "\t\tif !o.at.Before(g.from) && len(named) < 0 || o.overdue"},
	}},
	{"a gap begins with the last frame, as if nothing lagged behind it", "Gap", []replacement{
		{"gap.go", "\tfrom = from.Add(-s.linger())\n\treturn &gap", "\treturn &gap"},
	}},
	{"Sure is From: the network held nothing back", "Gap|Sure", []replacement{
		{"gap.go", "sure: first(from, lost.sure().Add(-s.linger()))", "sure: from"},
	}},
	{"a connection that was lost itself ends the gap of its loss", "Gap", []replacement{
		{"gap.go", "\t\t\tif g.after < c.st.Generation && t.num", "\t\t\tif g.after <= c.st.Generation && t.num"},
	}},
	{"topics leave a shard that is down, and their gap stays behind", "Gap", []replacement{
		{"gap.go", "if down && len(gone) > 0 && len(g.open) > 0 {", "if !down && len(gone) > 0 && len(g.open) > 0 {"},
	}},
	{"a cutover without proof has no gap", "Hold|Timeout|Switchover", []replacement{
		{"switchover.go", "case ch.report.Proof == \"none\", !cur.complete.Load():", "case !cur.complete.Load():"},
	}},
	{"Timeout cuts over as if Linger had passed", "Timeout|Judge|Proof", []replacement{
		{"cutover.go", "return verdict{step: stepCut, proven: proven}", "return verdict{step: stepCut, proven: true}"},
	}},
	{"a silent connection is replaced without a look at what the new one brings", "Silent|Judge", []replacement{
		{"cutover.go", "case p.ready, !p.goalAt.IsZero(), p.full, brings:", "case p.ready, !p.goalAt.IsZero(), p.full && brings:"},
	}},
	{"a set that keeps changing is waited for without end", "Churn|Restless|Change", []replacement{
		{"cutover.go", "return p.stillAt.IsZero() && !p.goalAt.IsZero() && (late", "return p.stillAt.IsZero() && p.goalAt.IsZero() && (late"},
	}},
	{"the old connection goes on writing nothing after a switchover that failed", "Fail|Untouched|Switchover", []replacement{
		{"switchover.go", "\tch.thaw()\n\tif ch.next != nil {\n\t\tch.next.end(err)", "\tif ch.next != nil {\n\t\tch.next.end(err)"},
	}},
}
