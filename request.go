package wsshard

import (
	"time"

	"github.com/seed-829c304d/wsshard/internal/lean"
	"github.com/seed-829c304d/wsshard/internal/reconcile"
)

// This file answers: which request is written next, and what becomes of its topics?

// reconcile writes the next request, if the pace allows.
func (w *writer[S]) reconcile(now time.Time, wait time.Duration, next *alarm) (wrote bool, err error) {
	if w.loan.isAsked() {
		return false, nil
	}
	b, ok := w.applied.Next(w.batchSize(), w.room())
	if over := w.applied.TakeOver(); len(over) > 0 {
		w.claims.forget(over)
	}
	if !ok {
		w.makeRoom(now, next)
		w.settled()
		return false, nil
	}
	w.caughtUp.Store(false)
	if wait > 0 && !(b.Kind == reconcile.Unsubscribe && w.core.caps.unsubscriber == nil) {
		next.by(now.Add(wait))
		return false, nil
	}
	req := b
	if b.Kind == reconcile.Resubscribe && w.core.caps.resubscriber == nil {
		if dropped, err := w.drop(b); dropped || err != nil {
			return true, err
		}
		req.Kind = reconcile.Subscribe // nothing ends it, so it is subscribed once more
	}
	id, msg, err := w.encode(req)
	if err != nil {
		w.cannotEncode(b, err)
		return true, nil
	}
	if msg.Data == nil {
		w.needsNoWriting(req)
		return true, nil
	}
	return true, w.request(time.Now(), id, req, msg) // encoding may have taken its time
}

// makeRoom has the connection replaced when topics wait for room that only a new one has, and again when that failed.
func (w *writer[S]) makeRoom(now time.Time, next *alarm) {
	if !w.applied.Short() || w.applied.Len() < w.core.cfg.MaxSubscriptionsPerShard || !w.keeper.delivers(w.session) {
		return // what is leaving makes room by itself
	}
	again := w.core.cfg.Backoff.MaxDelay
	if since := now.Sub(w.crowded); !w.crowded.IsZero() && since < again {
		next.by(now.Add(again - since))
		return
	}
	w.crowded = now
	next.by(now.Add(again))
	w.keeper.replaceFull()
}

// drop unsubscribes topics for which there is no Resubscriber, so that they are subscribed again. It returns false if there is no
// message for that either.
func (w *writer[S]) drop(b reconcile.Batch[S]) (done bool, err error) {
	drop := b
	drop.Kind = reconcile.Unsubscribe
	id, msg, err := w.encode(drop)
	if err != nil {
		w.cannotEncode(b, err)
		return true, nil
	}
	if msg.Data == nil {
		return false, nil
	}
	now := time.Now()
	w.claims.leaves(id, b.Subs, w.claimTime(now)) // before the write: the answer may be faster than we are
	if err := w.pen.write(msg); err != nil {
		w.core.count.sendFailures.Add(1)
		return true, err
	}
	w.asked = true
	w.applied.Drop(b)
	w.resubscribes(w.slot.desired.AskedAgain(b.Subs), now)
	return true, nil
}

// resubscribes begins a gap of topics that were just unsubscribed, at an instant, to ask for them again.
func (w *writer[S]) resubscribes(subs []S, at time.Time) {
	if len(subs) == 0 { // taken back and added anew: nothing was promised in between
		return
	}
	from := at.Add(-w.slot.linger())
	w.claims.tell(true) // before the gap is there, or another's end could undo it
	w.slot.miss(&gap[S]{from: from, sure: from, after: w.st.Generation - 1, open: make(map[S]uint64)}, subs)
}

// request writes an encoded request and notes what it claims.
func (w *writer[S]) request(now time.Time, id uint64, b reconcile.Batch[S], msg Message) error {
	if b.Kind != reconcile.Unsubscribe {
		again := w.claims.wrote(id, b, w.claimTime(now)) // before the write: the answer may be faster than we are
		w.requests.Add(1)
		if again || !w.caughtUpOnce {
			w.wroteAt.Store(int64(w.conn.Since(now)))
		}
	} else {
		w.claims.leaves(id, b.Subs, w.claimTime(now))
	}
	if err := w.pen.write(msg); err != nil {
		w.core.count.sendFailures.Add(1)
		return err
	}
	w.asked = true
	w.applied.Done(b)
	if b.Kind != reconcile.Unsubscribe && w.claims.acks && w.core.caps.unsubscriber != nil {
		w.applied.Await(b.Subs...)
	}
	return nil
}

// needsNoWriting settles a batch for which the handler has nothing to say.
func (w *writer[S]) needsNoWriting(b reconcile.Batch[S]) {
	if b.Kind != reconcile.Unsubscribe {
		w.claims.without(b)
		w.applied.Done(b)
		return
	}
	w.claims.forget(b.Subs)
	w.applied.Keep(b)
	w.keeper.stays(w.session, b.Subs)
}

// cannotEncode asks for half as much, or gives up the one topic that is left.
func (w *writer[S]) cannotEncode(b reconcile.Batch[S], err error) {
	w.core.count.sendFailures.Add(1)
	if len(b.Subs) > 1 {
		w.batch = len(b.Subs) / 2
		return
	}
	switch b.Kind {
	case reconcile.Unsubscribe:
		w.log.Warn("unsubscription cannot be encoded", "err", err)
		w.applied.Keep(b)
		w.keeper.stays(w.session, b.Subs)
		return
	case reconcile.Resubscribe:
		w.applied.Done(b) // it failed, but it is on the connection as before
	default:
		w.applied.Fail(b)
	}
	w.claims.fail(b, err)
	w.rejected(append([]S(nil), b.Subs...), err)
}

// batchSize is how many topics the next request may have. It grows back after one that could not be encoded.
func (w *writer[S]) batchSize() int {
	most := w.core.cfg.Subscribe.MaxPerMessage
	if w.batch == 0 {
		return most
	}
	n := w.batch
	if w.batch *= 2; most > 0 && w.batch >= most || w.batch > 1<<20 {
		w.batch = 0
	}
	return n
}

// room is how many topics more the connection may carry; negative: any number.
func (w *writer[S]) room() int {
	if limit := w.core.cfg.MaxSubscriptionsPerShard; limit > 0 {
		return max(0, limit-w.applied.Places())
	}
	return -1
}

// encode asks the handler for a request. The handler gets a copy of the topics, and may sort it as it likes.
func (w *writer[S]) encode(b reconcile.Batch[S]) (id uint64, msg Message, err error) {
	w.subs = append(w.subs[:0], b.Subs...)
	req := Request[S]{ID: w.core.requestID.Add(1), Subs: w.subs, First: !w.asked, State: w.st}
	name, call := "SubscriptionMessage", w.core.h.SubscriptionMessage
	switch {
	case b.Kind == reconcile.Unsubscribe && w.core.caps.unsubscriber == nil:
		return req.ID, msg, nil
	case b.Kind == reconcile.Unsubscribe:
		name, call = "UnsubscriptionMessage", w.core.caps.unsubscriber.UnsubscriptionMessage
	case b.Kind == reconcile.Resubscribe:
		name, call = "ResubscriptionMessage", w.core.caps.resubscriber.ResubscriptionMessage
	}
	if panicked := w.core.guard(name, w.st.ShardID, func() { msg, err = call(req) }, w.end); panicked != nil {
		return req.ID, msg, panicked
	}
	if err == nil && msg.Data != nil {
		err = checkMessage(msg)
	}
	return req.ID, msg, err
}

// trimEvery is how often a connection looks whether a loss can still have begun before topics went that it remembers for that.
const trimEvery = time.Minute

// trim forgets the topics that went before any loss from now on begins.
func (w *writer[S]) trim(now time.Time, next *alarm) {
	if w.offs.list.Len() == 0 {
		return
	}
	if w.offs.trim(w.earliest(w.slot.dataTimeout() > 0).Add(-w.slot.linger())) {
		next.by(now.Add(trimEvery))
	}
}

// settleAnswers takes in the answers that have come, and ends the claims whose time is over.
func (w *writer[S]) settleAnswers(now time.Time, next *alarm) {
	if !w.claims.busy.Load() {
		return
	}
	for _, s := range w.claims.takeRefused() {
		if num, ok := w.applied.Number(s); ok {
			w.applied.Fail(reconcile.Batch[S]{Kind: reconcile.Subscribe, Subs: []S{s}, Nums: []uint64{num}})
		}
	}
	at := w.claimTime(now)
	redo, failed := w.claims.expire(at)
	w.applied.Redo(redo...)
	answered, left, overdue := w.claims.takeEnded()
	w.applied.Answered(answered...)
	if len(left)+len(overdue) > 0 {
		w.applied.Left(left...)
		w.applied.Left(overdue...)
		w.offs.note(left, now, false)
		w.offs.note(overdue, now, true)
	}
	if len(failed) > 0 {
		w.rejected(failed, ErrAckTimeout)
	}
	if due, ok := w.claims.due(); ok {
		wait := due.Sub(at)
		if w.claims.acks && !w.conn.Signs().Waiting {
			wait = max(wait, recheck) // it comes no nearer
		}
		next.by(now.Add(wait))
	}
}

// settled publishes that nothing is left to write.
func (w *writer[S]) settled() {
	if upto := w.applied.Upto(); w.settledUpTo.Swap(upto) != upto {
		w.nudge()
	}
	w.subs = lean.FitSlice(w.subs[:0])
	w.caughtUp.Store(true)
	w.caughtUpOnce = true
}
