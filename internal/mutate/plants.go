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
		{"change.go", "case silent != nil:\n\t\ts.openGap(cur.loss(cur.gapFrom(silent)))", "case silent != nil:"},
	}},
	{"no gap at all", "Gap", []replacement{
		{"slot.go", "if subs := l.names(s.linger()); len(subs) > 0 {", "if subs := l.names(s.linger()); len(subs) < 0 {"},
	}},
	{"a gap begins when the loss is noticed, not with the last frame", "Gap", []replacement{
		{"board.go", "last := b.lastFrame()", "last := time.Now()"},
		{"board.go", "return b.conn.At(clocked(at))\n\t}\n\tif errors.Is(cause, ErrDataTimeout) {\n\t\treturn b.lastData()", "return time.Now()\n\t}\n\tif errors.Is(cause, ErrDataTimeout) {\n\t\treturn time.Now()"},
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
		{"attempt.go", "Host: strings.ToLower(hostPort(u)), Egress: o.slot.egress}", "Host: strings.ToLower(hostPort(u)), Egress: fmt.Sprint(o.slot.egress, o.slot.id)}"},
	}},
	{"budget with burst: a new window forgets all of the last one", "Limiter|Budget", []replacement{
		{"backoff.go", "for len(log.at) > 0 && now.Sub(log.at[0]) >= l.window {\n\t\tlog.at = log.at[1:]", "if len(log.at) > 0 && now.Sub(log.at[0]) >= l.window {\n\t\tlog.at = nil"},
	}},
	{"pong counted as data", "Health|Ping|DataTimeout|Quiet", []replacement{
		{"read.go", "\tif sent, ok := r.pinged.byFrame(payload)", "\tr.conn.Fresh()\n\tif sent, ok := r.pinged.byFrame(payload)"},
	}},
	{"ctx dropped in backoff", "Stop", []replacement{
		{"shard.go", "\t\tcase <-ctx.Done():\n\t\t\treturn\n\t\tcase <-s.wake:\n", "\t\tcase <-s.wake:\n"},
	}},
	{"double OnDisconnect after a switchover", "Disconnect|Switch", []replacement{
		{"read.go", "\tr.slot.run.disconnected(r.st, r.cause())\n\tclose(r.delivered)", "\tr.slot.run.disconnected(r.st, r.cause())\n\tif r.isRetired() {\n\t\tr.slot.run.disconnected(r.st, r.cause())\n\t}\n\tclose(r.delivered)"},
	}},
	{"held messages out of order", "Handover|Switch", []replacement{
		{"relay.go", "\th := r.first\n\tif h == nil {\n\t\tr.enterLocked(direct)", "\th := r.last\n\tif h == nil {\n\t\tr.enterLocked(direct)"},
	}},
	{"one held message lost", "Handover|Switch", []replacement{
		{"change.go", "\tgo next.flush()", "\tnext.relay.take()\n\tgo next.flush()"},
	}},
	{"close early: what the old connection still has in the pipe is not read", "Drain|Handover|Switch", []replacement{
		{"write.go", "\t\tw.drain(w.core.cfg.Switchover.DrainTimeout)\n", ""},
		{"read.go", "r.readToEnd.Store(returned && closed && r.unread.Load() == 0)", "r.readToEnd.Store(returned && closed && r.unread.Load() == 0 || r.isRetired())"},
	}},
	{"keys forgotten: the new connection repeats what the old one delivered", "Duplicate|Handover|Keys", []replacement{
		{"handover.go", "_, again = r.keys[key]; again {\n\t\t\tdelete(r.keys, key)", "_, again = r.keys[key]; again {\n\t\t\tagain = false\n\t\t\tdelete(r.keys, key)"},
		{"relay.go", "_, dup := r.keys[key]", "_, dup := r.keys[\"?\"+key]"},
	}},
	{"parked for good: nobody looks whether a reconnect was asked for", "Park", []replacement{
		{"shard.go", "for !s.takeReconnect() {\n\t\tselect {", "for {\n\t\tselect {"},
	}},
	{"two sessions deliver at once: the new one does not wait for the old", "Handover|Switch|Order", []replacement{
		{"read.go", "if !r.live && r.hold(msg, &v) {", "if !r.live && r.isRetired() {"},
	}},
	{"an answer to the last request counts for this one", "Ack", []replacement{
		{"answer.go", "return h.ack.Request == 0 || h.ack.Request == request", "return true"},
	}},
	{"a slow handler is a dead peer", "Slow|Health", []replacement{
		{"health.go", "\tif !s.Waiting { // the read loop is in a callback: frames that came since are not handled yet, and may be the ones that are missed\n\t\tclock = s.Asked\n\t}\n", ""},
		{"health.go", "\tclock := s.Clock(now)\n\tif s.Reads > h.reads", "\tclock := now\n\tif s.Reads > h.reads"},
	}},
	{"a send that waits on a lost connection is never answered", "Send|Stop", []replacement{
		{"outbox.go", "\tfor _, s := range o.sends {\n\t\ts.done <- err\n\t}\n", ""},
	}},
	{"readiness is not asked again when the old connection has stopped writing", "ReadinessIsAskedAgain", []replacement{
		{"cutover.go", "p.carries = p.frozen && ch.carriesAll(p.now)", "p.carries = p.frozen"},
	}},
	{"what does not deliver yet ends a gap", "OnlyWhatDelivers", []replacement{
		{"session.go", "if !c.claims.telling.Load() || !c.keeper.delivers(c) {", "if !c.claims.telling.Load() {"},
	}},
	{"a snapshot that the last connection owed is not asked for on the next one", "ANewConnectionOwes", []replacement{
		{"shard.go", "\ts.resubs.reset()\n", ""},
	}},
	{"places are not looked at when a connection takes over", "PlacesAreFree", []replacement{
		{"shard.go", "\ts.lingers.Store(true) // cur may carry less than the one before\n", ""},
	}},
	{"what a drain left unread is taken for read", "WhatADrainLeaves", []replacement{
		{"read.go", "r.readToEnd.Store(returned && closed && r.unread.Load() == 0)", "r.readToEnd.Store(returned && closed)"},
	}},
	{"what a Goexit left unread is taken for read", "WhatAGoexitLeaves", []replacement{
		{"read.go", "if !signs.Current || !returned {", "if !signs.Current && returned {"},
	}},
	{"a gap forgets what was let go of since the last frame", "GapOfTheUnsubscribed", []replacement{
		{"gap.go", "\t\tif !o.at.Before(from) || o.overdue", "\t\tif !o.at.Before(from) && len(named) < 0 || o.overdue"},
	}},
	{"a gap begins with the last frame, as if nothing lagged behind it", "GapEndsWithAcks|LateData", []replacement{
		{"gap.go", "\tfrom := l.from.Add(-linger)\n", "\tfrom := l.from\n"},
	}},
	{"Sure is From: the network held nothing back", "GapIsSure", []replacement{
		{"gap.go", "sure: first(from, l.sure.Add(-linger))", "sure: from"},
	}},
	{"a connection that was lost itself ends the gap of its loss", "LostConnection", []replacement{
		{"gap.go", "\t\t\tif g.after < gen && t.num", "\t\t\tif g.after <= gen && t.num"},
	}},
	{"topics leave a shard that is down, and their gap stays behind", "LeaveAParkedShard", []replacement{
		{"gap.go", "if down && len(gone) > 0 && len(g.open) > 0 {", "if !down && len(gone) > 0 && len(g.open) > 0 {"},
	}},
	{"a cutover without proof has no gap", "GapOfSwitchover", []replacement{
		{"change.go", "case ch.report.Proof == \"none\", !cur.readToEnd.Load():", "case !cur.readToEnd.Load():"},
	}},
	{"Timeout cuts over as if Linger had passed", "Timeout|Judge|Proof", []replacement{
		{"cutover.go", "return verdict{step: stepCut, proven: proven}", "return verdict{step: stepCut, proven: true}"},
	}},
	{"a silent connection is replaced without a look at what the new one brings", "Silent|Judge", []replacement{
		{"cutover.go", "case p.ready, !p.goalAt.IsZero(), p.full, brings:", "case p.ready, !p.goalAt.IsZero(), p.full && brings:"},
	}},
	{"a set that keeps changing is waited for without end", "Churn|Restless|Change", []replacement{
		{"cutover.go", "return p.stillAt.IsZero() && !p.goalAt.IsZero() && (late", "return !p.stillAt.IsZero() && !p.goalAt.IsZero() && (late"},
	}},
	{"the old connection is kept still before the new one has proven what was wanted at first", "JudgeCutover|LastProof", []replacement{
		{"cutover.go", "return p.stillAt.IsZero() && !p.goalAt.IsZero() && (late", "return p.stillAt.IsZero() && p.goalAt.IsZero() && (late"},
	}},
	{"the old connection goes on writing nothing after a switchover that failed", "TheOldWritesAgain", []replacement{
		{"change.go", "\tch.thaw()\n\tif ch.next != nil {\n\t\tch.next.end(err)", "\tif ch.next != nil {\n\t\tch.next.end(err)"},
	}},
	{"a topic that was unsubscribed just now is proven by data that is late", "LateDataProvesNothing", []replacement{
		{"claims.go", "c.again = c.again || p.dropDepartureLocked(s)", "p.dropDepartureLocked(s)"},
	}},
	{"what was proven before a topic was asked for again ends its gap", "AskedForOnceMore", []replacement{
		{"claims.go", "\t\tdelete(p.told, s)\n\t\tif len(p.refused) > 0 {", "\t\tif len(p.refused) > 0 {"},
	}},
	{"a request that is unanswered for the first time is not waited for", "IsWaitedForTwice", []replacement{
		{"claims.go", "failed := p.overdueLocked(c, now) && c.tries > 1; !failed", "failed := p.overdueLocked(c, now); !failed"},
	}},
	{"Linger counts from the opening of the new connection, not from its last proof", "LingerFromTheLastProof", []replacement{
		{"claims.go", "\tp.last = time.Now()\n\tif p.acks {", "\tif p.acks {"},
	}},
	{"a new connection that answered all but one topic is taken for dead", "TimeoutTies", []replacement{
		{"claims.go", "if !p.acks || p.heard.Load() {", "if !p.acks {"},
	}},
	{"the bench remembers its pauses when the host lets somebody in", "BenchPauses", []replacement{
		{"internal/gate/bench.go", "\t\tb.n, b.due = 0, now\n\t\tback := ", "\t\tb.due = now\n\t\tback := "},
	}},
	{"what a switchover met shuts the door for those who are down", "RetryAfter", []replacement{
		{"internal/gate/breaker.go", "own := &d.busy[t.class]", "own := &d.busy[Down]"},
	}},
	{"failures count though a success came between them", "DownCounts", []replacement{
		{"internal/gate/breaker.go", "\td.failed = 0\n\tif d.down.shut {", "\tif d.down.shut {"},
	}},
	{"a shorter Retry-After takes back a longer one", "LaterRetryAfter", []replacement{
		{"internal/gate/breaker.go", "; until.After(in.next) {", "; until.After(now) {"},
	}},
	{"the pause of a host that says \"too many\" grows at once to a quarter of an hour", "Ladders", []replacement{
		{"internal/gate/ladder.go", "double(time.Minute, n-11, 15*time.Minute)", "double(time.Minute, n-1, 15*time.Minute)"},
	}},
	{"nobody looks when a dial has become old and leaves its place", "Width", []replacement{
		{"internal/gate/door.go", "\t\tif waits || t.probes.down && !t.judged {\n", "\t\tif t.probes.down && !t.judged {\n"},
	}},
	{"a probe that was cancelled counts as one that failed", "CancelledProbe", []replacement{
		{"internal/gate/door.go", "\t\t\td.down.next = now // it", "\t\t\td.downAgain(t) // it"},
	}},
	{"a host that says \"too many\" is asked no sooner after a probe that was cancelled", "CancelledProbe", []replacement{
		{"internal/gate/breaker.go", "\t\tcase r.Verdict == Unknown:\n\t\t\tl.next = now\n", ""},
	}},
	{"the shard that failed most goes as the probe", "WhoProbes", []replacement{
		{"internal/gate/line.go", "== (best.shard == last) && t.failed < best.failed:", "== (best.shard == last) && t.failed > best.failed:"},
	}},
	{"a switchover whose dial failed keeps its turn", "Turns", []replacement{
		{"internal/gate/gate.go", "\t\tt.lostTurn()\n\t\tg.turns.used--\n\t\tg.unlockAll()\n", "\t\tt.lostTurn()\n\t\tg.unlockAll()\n"},
	}},
	{"a peer that closed before the new connection was ready, unseen by a reader that was behind, closed after it", "ClosedEarly", []replacement{
		{"board.go", "return until != 0 && b.conn", "return until < 0 && b.conn"},
	}},
	{"Stop leaves the gaps open", "EndsWithStop", []replacement{
		{"shard.go", "\ts.tellGaps(s.gaps.end(), 0)\n", ""},
	}},
	{"topics that the cutover did not wait for have no gap", "WantedAnew", []replacement{
		{"change.go", "\tdefault:\n\t\tch.openGapOfUnproven()\n\t}", "\t}"},
	}},
	{"a topic that was taken back and wanted anew is proven by what was proven before", "WantedAnew", []replacement{
		{"told.go", "return ok && t.num >= num", "return ok && t.num >= min(t.num, num)"},
	}},
	{"the gap of a topic that was wanted anew ends with the proof of the request before", "WantedAnew", []replacement{
		{"change.go", "\t\t\tg.open[sub] = num\n", ""},
	}},
	{"a routine switchover asks for its instant when it must be over", "Lead", []replacement{
		{"internal/gate/gate.go", "max(0, min(3, g.shards-1))", "max(0, min(0, g.shards-1))"},
	}},
	{"a connection lives as long as it may, and then waits for its instant", "LeavesTimeForOthers", []replacement{
		{"switchover.go", "early := min(float64(s.run.gate.Lead()), float64(d)/10)", "early := 0 * min(float64(s.run.gate.Lead()), float64(d)/10)"},
	}},
}
