package gate

import "time"

// This file answers: what shuts a door, for whom, and what opens it?

// Verdict is what a dial says of its host.
type Verdict int

const (
	Unknown Verdict = iota // nothing: the dial was cancelled, or failed on our side
	Up                     // it opened a connection
	Failed                 // the host is down
	TooMany                // 429
	Banned                 // 418
	NotYou                 // 401, 403, 407
	Neither                // it answered something else
)

// Result is how a dial ended.
type Result struct {
	Verdict    Verdict
	Status     int           // that the host, or a proxy, answered; 0: none
	RetryAfter time.Duration // that it asked for; not positive: none
	Err        error         // why it failed
}

// lock is one reason for which a door is shut. There is one for a host that is down, and one of "too many" for each urgency,
// which holds back that urgency and those after it: what a switchover met holds back no shard that is down.
type lock struct {
	shut    bool
	since   time.Time
	n       int       // pauses so far
	next    time.Time // when a probe may begin
	status  int
	banned  bool // its ladder is that of a ban
	told    bool // next is the host's own word
	probing bool // of "too many": one probe is out
}

// probes says which locks a dial probes.
type probes struct {
	down bool
	busy [urgencies]bool
}

// pause is a step and up to a tenth more, never less: an early dial can begin a penalty anew.
func (d *door) pause(step time.Duration) time.Duration {
	return step + time.Duration(d.rules.Uniform()*float64(step)/10)
}

// held reports whether the door is shut for u.
func (d *door) held(u Urgency) bool {
	for c := range u + 1 {
		if d.busy[c].shut {
			return true
		}
	}
	return d.down.shut
}

// may reports whether a dial of u may begin now, as far as the host is concerned, and whether it is a probe.
func (d *door) may(u Urgency, now time.Time) (ok, probe bool) {
	if d.down.shut {
		out, young := 0, 0
		for _, t := range d.out {
			if t.probes.down {
				out++
				if !t.judged {
					young++
				}
			}
		}
		if now.Before(d.down.next) || young > 0 || out >= mostProbes {
			return false, false
		}
		probe = true
	}
	for c := range u + 1 {
		if l := &d.busy[c]; l.shut {
			if now.Before(l.next) || l.probing {
				return false, false
			}
			probe = true
		}
	}
	return true, probe
}

// judge lets probes that have become old count as failed.
func (d *door) judge(now time.Time) {
	for _, t := range d.out {
		if t.probes.down && !t.judged && d.down.shut && now.Sub(t.begun) >= secondDial {
			t.judged = true
			d.downAgain(t)
		}
	}
}

// downAgain takes the next step, which counts from the probe's beginning.
func (d *door) downAgain(t *Ticket) {
	d.down.n++
	d.down.next = t.begun.Add(d.pause(downStep(d.down.n, d.rules.Reset)))
}

// failedDial notes a failure of any shard.
func (d *door) failedDial(t *Ticket, r Result, now time.Time) {
	d.failed++
	l := &d.down
	switch {
	case l.shut:
		if t.probes.down && !t.judged {
			d.downAgain(t)
		}
	case d.rules.Threshold > 0 && d.failed >= d.rules.Threshold:
		*l = lock{shut: true, since: now, n: 1, status: r.Status}
		l.next = now.Add(d.pause(downStep(1, d.rules.Reset)))
		d.shut(now, r.Err, true)
	}
	l.status = r.Status
	d.busyProbed(t, now, r)
}

// refusedDial notes "too many", or an answer that names a time. It returns when dials of t's urgency may go on at the
// earliest. What was in flight when the door was shut moves no ladder; but a ban is longer than a limit, and the host's own
// word is never passed over.
func (d *door) refusedDial(t *Ticket, r Result, now time.Time) time.Time {
	d.refusals++
	var in *lock // that shuts the door for t already
	probed := false
	for c := range t.class + 1 {
		l := &d.busy[c]
		if l.shut && in == nil {
			in = l
		}
		if l.shut && t.probes.busy[c] {
			in, probed, l.probing = l, true, false
			l.n++
			d.wait(l, r, now)
		}
	}
	own := &d.busy[t.class]
	switch {
	case probed:
	case in == nil, !own.shut && r.RetryAfter > 0:
		in = own
		*in = lock{shut: true, since: now, n: 1}
		d.wait(in, r, now)
		d.shut(now, r.Err, t.class == Down)
	case r.Verdict == Banned && !in.banned:
		in.n = 1
		d.wait(in, r, now)
	case r.RetryAfter > 0:
		if until := now.Add(d.bounded(r, in.banned)); until.After(in.next) {
			in.next, in.told, in.status = until, true, r.Status
		}
	}
	return in.next
}

// wait sets when the next probe of l may begin.
func (d *door) wait(l *lock, r Result, now time.Time) {
	if r.Verdict == Banned && !l.banned {
		l.banned, l.n = true, 1
	}
	l.status, l.told = r.Status, r.RetryAfter > 0
	switch {
	case l.told:
		l.next = now.Add(d.bounded(r, l.banned))
	case l.banned:
		l.next = now.Add(d.pause(teaStep(l.n)))
	default:
		l.next = now.Add(d.pause(busyStep(l.n)))
	}
}

// bounded is how long a Retry-After holds: a host is not trusted with more than a bound, jitter included.
func (d *door) bounded(r Result, banned bool) time.Duration {
	most := maxRetry
	if banned {
		most = maxTeaRetry
	}
	if d.rules.MaxRetry > 0 {
		most = d.rules.MaxRetry
	}
	return min(d.pause(min(r.RetryAfter, most)), most)
}

// answered notes that the host is not down.
func (d *door) answered(now time.Time) {
	d.failed = 0
	if d.down.shut {
		d.open(&d.down, now)
	}
}

// busyProbed notes what a probe of "too many" brought that was neither a success nor "too many" again: the same pause once
// more. After a 503 that named a time it is the host's being down that counts from here on.
func (d *door) busyProbed(t *Ticket, now time.Time, r Result) {
	for c := range d.busy {
		l := &d.busy[c]
		if !l.shut || !t.probes.busy[c] {
			continue
		}
		l.probing = false
		switch {
		case r.Verdict == Unknown:
			l.next = now
		case r.Verdict == NotYou, l.status == 503:
			d.open(l, now)
		default:
			d.wait(l, Result{Status: l.status}, now)
		}
	}
}

// succeeded opens what t probed, and all that a success may open.
func (d *door) succeeded(t *Ticket, now time.Time) {
	d.answered(now)
	for c := range d.busy {
		if l := &d.busy[c]; l.shut && t.probes.busy[c] {
			d.open(l, now)
		}
	}
	if d.rules.Width <= 0 || d.width < d.rules.Width {
		d.width++
	}
	d.strange = nil
	d.refusals = 0
	d.let++
}

// shut tells that the door has been shut. The next to come begins with one dial at a time again, where it is shut for all.
func (d *door) shut(now time.Time, err error, all bool) {
	if all {
		d.width = 1
		if !d.down.shut {
			d.most, d.let = d.let, 0
		}
	}
	d.err = err
	r := d.report(now)
	r.Lasted = 0
	d.tell(Shut, r, err)
	d.remind = now.Add(reminder)
}

// open ends a lock, and tells so when it was the last.
func (d *door) open(l *lock, now time.Time) {
	was := d.report(now)
	since := l.since
	*l = lock{}
	if d.held(Routine) {
		return
	}
	was.Lasted, was.Until = now.Sub(since), time.Time{}
	d.tell(Opened, was, nil)
}
