package wsshard

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// TestRelayWakesItsReader draws offers, deliveries of the old connection and the end of the hold from a seed. At rest the reader
// that waits in hold has no room and still a reason to need some, what waits while delivery is the reader's own runs the
// clock, and in the end all has been held, let go or handed out.
func TestRelayWakesItsReader(t *testing.T) {
	for seed := range uint64(400) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			cfg := SwitchoverConfig{HoldMessages: rnd.IntN(5), HoldBytes: rnd.IntN(3) * 20}
			r := newRelay[string](cfg, rnd.IntN(2) == 0, make(chan struct{}, 1))
			running := false
			r.timedBy(func(run bool) { running = run })
			const all = 60
			key := func(n int) string {
				if n%3 == 0 {
					return ""
				}
				return fmt.Sprint("k", n%20)
			}
			size := func(n int) int { return 1 + n*7%23 }
			waits := -1 // the message that the reader waits with; owned by the reader while it runs
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				for n := range all {
					waits = n
					msg := Message{Data: make([]byte, size(n))}
					for r.offer(msg, &Verdict[string]{Key: key(n)}, 0) == offerFull {
						<-r.room
					}
					if waits = -1; n%7 == 0 {
						time.Sleep(time.Millisecond)
					}
				}
			}()
			check := func(what string) {
				synctest.Wait()
				r.mu.Lock()
				defer r.mu.Unlock()
				if running != r.ticks || r.ticks != (r.blocked && r.phase == direct) {
					t.Fatalf("seed %d, after %s: the clock runs: %v, blocked %v in phase %v", seed, what, running, r.blocked, r.phase)
				}
				if !r.blocked {
					return
				}
				_, dup := r.keys[key(waits)]
				if r.phase == direct || dup && !r.keep || r.roomLocked(size(waits)) {
					t.Fatalf("seed %d, after %s: nobody woke the reader of %d; phase %v, %d messages and %d bytes are held",
						seed, what, waits, r.phase, r.count, r.bytes)
				}
				if r.full != (r.phase == holding) {
					t.Fatalf("seed %d, after %s: full %v in phase %v", seed, what, r.full, r.phase)
				}
			}
			check("the beginning")
			for range rnd.IntN(60) {
				if rnd.IntN(3) == 0 {
					time.Sleep(time.Millisecond)
				}
				k := fmt.Sprint("k", rnd.IntN(20))
				r.delivered(k)
				check("delivered " + k)
			}
			if rnd.IntN(4) == 0 {
				r.discard()
				check("discard")
			} else {
				r.release()
				check("release")
				for r.take() != nil {
					check("take")
				}
				check("the last take")
			}
			time.Sleep(time.Second)
			check("the end")
			<-gone
		})
	}
}

// TestRelayKeepsTheClock: a reader that nobody woke, when delivery is its own again, is judged by the health clock; one that
// waits for the shard's loop or for a slow handler is not.
func TestRelayKeepsTheClock(t *testing.T) {
	r := newRelay[string](SwitchoverConfig{HoldMessages: 1}, false, make(chan struct{}, 1))
	running := false
	r.timedBy(func(run bool) { running = run })
	want := func(want bool, when string) {
		t.Helper()
		if running != want {
			t.Errorf("%s: the clock runs: %v", when, running)
		}
	}
	for range 3 {
		r.offer(Message{}, &Verdict[string]{}, 0)
	}
	want(false, "it waits for the decision")
	r.release()
	want(false, "released")
	r.take()
	want(false, "a held message is in its callback")
	r.take()
	want(true, "the last was delivered")
	if len(r.room) != 1 {
		t.Error("the reader is not woken")
	}
	r.offer(Message{}, &Verdict[string]{}, 0)
	want(false, "it looked again")
	r.blocked = true
	r.enterLocked(direct)
	want(true, "it waits once more")
	r.leave()
	want(false, "it left")
}

// TestRelayOneKey: where the new connection brings topics that the old one does not, the old one need not deliver all that is
// held: one key that came since the new one is ready is enough, whichever connection had it first. One from before is not.
func TestRelayOneKey(t *testing.T) {
	for _, oldFirst := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRelay[string](SwitchoverConfig{}, false, make(chan struct{}, 1))
			both := func(key string) {
				if oldFirst {
					r.delivered(key)
				}
				r.offer(Message{}, &Verdict[string]{Key: key}, 0)
				r.delivered(key)
			}
			want := func(want bool, when string) {
				t.Helper()
				if met, used := r.overlapped(); met != want || !used {
					t.Errorf("%s: met %v, used %v", when, met, used)
				}
			}
			r.offer(Message{}, &Verdict[string]{Key: "new topic"}, 0)
			both("before")
			time.Sleep(time.Second)
			r.arm(time.Now())
			want(false, "ready")
			both("since")
			want(true, "one key since")
			r.arm(time.Time{})
			want(false, "all are needed")
			r.delivered("new topic")
			want(true, "all were delivered")
		})
	}
}
