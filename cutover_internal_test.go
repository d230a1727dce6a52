package wsshard

import (
	"testing"
	"time"
)

// TestJudgeCutover goes through the rows of the decision: what two connections show, and what follows.
func TestJudgeCutover(t *testing.T) {
	const linger = 250 * time.Millisecond
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return now.Add(d) }
	past := at(-time.Minute)
	ready := snapshot{now: now, ready: true, readyAt: at(-linger), carries: true, frozen: true, met: true, deadline: at(time.Second)}
	with := func(base snapshot, change func(p *snapshot)) snapshot {
		change(&base)
		return base
	}
	silent := snapshot{now: now, silent: true, deadline: at(time.Second)}
	fail := func(err error) verdict { return verdict{step: stepFail, err: err} }
	look := func(d time.Duration) verdict { return verdict{look: at(d)} }
	cut, proven := verdict{step: stepCut}, verdict{step: stepCut, proven: true}
	freeze, still := verdict{step: stepFreeze}, verdict{step: stepStill}
	for name, tt := range map[string]struct {
		p    snapshot
		want verdict
	}{
		"nothing yet":                     {snapshot{now: now, met: true}, verdict{}},
		"the old one is lost":             {snapshot{now: now, lost: true}, cut},
		"lost and silent":                 {snapshot{now: now, lost: true, silent: true}, cut},
		"nothing was ever answered":       {with(ready, func(p *snapshot) { p.ignored = true }), fail(ErrSwitchoverTimeout)},
		"all there":                       {ready, proven},
		"not frozen yet":                  {with(ready, func(p *snapshot) { p.frozen, p.carries = false, false }), freeze},
		"something came since":            {with(ready, func(p *snapshot) { p.carries = false }), look(time.Second)},
		"Linger is not over":              {with(ready, func(p *snapshot) { p.readyAt = at(1 - linger) }), look(1)},
		"keys are not delivered":          {with(ready, func(p *snapshot) { p.met = false }), look(time.Second)},
		"Timeout, without Linger":         {with(ready, func(p *snapshot) { p.readyAt, p.deadline = now, now }), cut},
		"Timeout, without keys":           {with(ready, func(p *snapshot) { p.met, p.deadline = false, past }), cut},
		"Timeout, all there":              {with(ready, func(p *snapshot) { p.deadline = now }), proven},
		"Timeout, not frozen":             {with(ready, func(p *snapshot) { p.met, p.frozen, p.deadline = false, false, past }), freeze},
		"Timeout, something came since":   {with(ready, func(p *snapshot) { p.carries, p.deadline = false, now }), fail(ErrSwitchoverTimeout)},
		"Timeout, not ready":              {snapshot{now: now, deadline: now, met: true}, fail(ErrSwitchoverTimeout)},
		"Timeout, and a second request":   {snapshot{now: now, deadline: now, repeats: true}, verdict{}},
		"no Timeout":                      {snapshot{now: now, ready: true, readyAt: past}, verdict{}},
		"full, all there":                 {with(ready, func(p *snapshot) { p.full = true }), proven},
		"full, without Linger":            {with(ready, func(p *snapshot) { p.full, p.readyAt = true, now }), cut},
		"full, without keys":              {with(ready, func(p *snapshot) { p.full, p.met = true, false }), cut},
		"full, not frozen":                {with(ready, func(p *snapshot) { p.full, p.frozen, p.readyAt = true, false, now }), freeze},
		"full, not ready":                 {snapshot{now: now, full: true, met: true}, fail(ErrSwitchoverHold)},
		"full, something came since":      {with(ready, func(p *snapshot) { p.full, p.carries = true, false }), fail(ErrSwitchoverHold)},
		"restless, not for long":          {snapshot{now: now, goalAt: at(1 - 4*linger)}, look(1)},
		"restless":                        {snapshot{now: now, goalAt: at(-4 * linger)}, still},
		"restless at Timeout":             {snapshot{now: now, goalAt: at(-1), deadline: now}, still},
		"restless, but it lingered":       {with(ready, func(p *snapshot) { p.goalAt, p.carries = past, false }), look(time.Second)},
		"still already":                   {snapshot{now: now, goalAt: past, stillAt: past, deadline: at(time.Second)}, look(time.Second)},
		"still, Timeout":                  {snapshot{now: now, goalAt: past, stillAt: past, deadline: now}, fail(ErrSwitchoverTimeout)},
		"silent, nothing yet":             {silent, look(time.Second)},
		"silent, all is proven":           {with(silent, func(p *snapshot) { p.ready, p.readyAt = true, now }), cut},
		"silent, all of then is proven":   {with(silent, func(p *snapshot) { p.goalAt = now }), cut},
		"silent, data":                    {with(silent, func(p *snapshot) { p.dataAt = at(1 - linger) }), look(1)},
		"silent, data for Linger":         {with(silent, func(p *snapshot) { p.dataAt = at(-linger) }), cut},
		"silent, full":                    {with(silent, func(p *snapshot) { p.full = true }), cut},
		"silent, Timeout":                 {with(silent, func(p *snapshot) { p.deadline = now }), fail(ErrSwitchoverTimeout)},
		"silent, Timeout and data enough": {with(silent, func(p *snapshot) { p.deadline, p.dataAt = now, past }), cut},
		"silent, ignored, but ready":      {with(silent, func(p *snapshot) { p.ignored, p.ready, p.readyAt = true, true, now }), cut},
	} {
		if got := tt.p.judge(linger); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
	if got := (&snapshot{now: now, ready: true, readyAt: now, met: true, frozen: true, carries: true}).judge(-1); got != proven {
		t.Errorf("Linger is off: %+v", got)
	}
}
