package switchover

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: is delivery in order and never concurrent, over switchovers?

// TestDeliveryIsNeverConcurrent: all of the old connection, then OnDisconnect, then all of the new, be the handler ever so
// slow and the server ever so quick.
func TestDeliveryIsNeverConcurrent(t *testing.T) {
	for _, slow := range []time.Duration{0, 30 * time.Millisecond, time.Second} {
		t.Run(slow.String(), func(t *testing.T) {
			harness.Bubble(t, harness.NoJitter(), harness.WithTags, func(w *harness.World) {
				var inside atomic.Int32
				var last atomic.Uint64
				w.App.Message = func(ctx context.Context, _ wsshard.Message, st wsshard.ConnectionState) {
					if inside.Add(1) > 1 {
						t.Error("OnMessage is concurrent")
					}
					if st.Generation < last.Load() {
						t.Errorf("generation %d after %d", st.Generation, last.Load())
					}
					w.App.Mu.Lock()
					if n := uint64(len(w.App.Causes)); n != st.Generation-1 {
						t.Errorf("generation %d delivers, and OnDisconnect heard of %d", st.Generation, n)
					}
					w.App.Mu.Unlock()
					last.Store(st.Generation)
					if ctx.Err() != nil {
						t.Errorf("the ctx of generation %d has ended: %v", st.Generation, ctx.Err())
					}
					time.Sleep(slow)
					inside.Add(-1)
				}
				w.Start("a")
				stop, sent := make(chan struct{}), 0
				var ticks sync.WaitGroup
				ticks.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(10*time.Millisecond + 2*slow):
							w.Topics.Publish("a", fmt.Sprint(sent))
							sent++
						}
					}
				})
				for range 3 {
					c := w.Hot(0)
					<-c.Done
					if c.Err != nil {
						t.Error(c.Err)
					}
				}
				close(stop)
				ticks.Wait()
				harness.After(time.Hour)
				seen, next := w.App.Take(), 0
				for _, text := range seen { // each may come twice, the second time with the new connection
					n, _ := strconv.Atoi(text[2:])
					if n > next {
						t.Fatalf("%d came when %d was next", n, next)
					}
					next = max(next, n+1)
				}
				if next != sent {
					t.Errorf("%d of %d came", next, sent)
				}
			})
		})
	}
}

// validating is tagged, with a SequenceValidator that notes what it sees.
type validating struct {
	harness.Tagged
	mu  *sync.Mutex
	log *[]string
}

func (v validating) note(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	*v.log = append(*v.log, fmt.Sprintf(format, args...))
}

func (v validating) ValidateSequence(msg wsshard.Message, st wsshard.ConnectionState) (s wsshard.SequenceValidation[string]) {
	v.note("%d %s", st.Generation, msg)
	if strings.HasSuffix(msg.String(), "bad") {
		s.Gap, s.Recovery = true, wsshard.SequenceDropMessage
	}
	return s
}

func (v validating) ResetSequenceState(st wsshard.ConnectionState) { v.note("reset %d", st.Generation) }

var _ wsshard.SequenceValidator[string] = validating{}

// TestValidatorSeesDuplicates: a SequenceValidator sees every message of the new connection, in order and after the last of
// the old one, those too that are dropped then.
func TestValidatorSeesDuplicates(t *testing.T) {
	var log []string
	validator := func(a *harness.App) wsshard.Handler[string] {
		return validating{harness.Tagged{App: a}, &sync.Mutex{}, &log}
	}
	harness.Bubble(t, harness.NoJitter(), validator, func(w *harness.World) {
		w.Start("a", "b")
		c := w.Hot(0)
		w.Srv.Conn(1).Send("a:k1") // held first
		harness.After(0)
		for _, text := range []string{"a:k1", "a:k2", "a:kbad", "a:k4"} {
			w.Srv.Conn(0).Send(text)
		}
		for _, text := range []string{"a:k2", "a:kbad", "a:3"} {
			w.Srv.Conn(1).Send(text)
		}
		harness.After(2 * time.Second)
		w.Srv.Conn(0).Send("a:kbad2")
		c.Want(t, nil, 10*time.Second) // the old one never delivers kbad: Timeout
		w.Srv.Conn(1).Send("a:k4")
		w.WantGot("a:k1", "a:k2", "a:k4", "a:kbad2", "a:3")
		want := []string{
			"reset 1", "1 a:k1", "1 a:k2", "1 a:kbad", "1 a:k4", "1 a:kbad2",
			"reset 2", "2 a:k1", "2 a:k2", "2 a:kbad", "2 a:3", "2 a:k4",
		}
		if !slices.Equal(log, want) {
			t.Errorf("the validator saw\n%q, want\n%q", log, want)
		}
		if m := w.M.Metrics(); m.DuplicatesDropped != 3 || m.SequenceDrops != 2 {
			t.Errorf("%d duplicates, %d drops", m.DuplicatesDropped, m.SequenceDrops)
		}
		if r := report(w, wsshard.EventSwitchoverDone).Switchover; r.Held != 4 || r.Dropped != 2 {
			t.Errorf("report %+v", r)
		}
	})
}

// pointing is an app whose Inspect hands on a part of the message.
type pointing struct{ *harness.App }

func (pointing) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) wsshard.Verdict[string] {
	return wsshard.Verdict[string]{Value: msg.Data[:1]}
}

// TestHeldInLowLatencyMode: held messages are copies, and what Inspect made of them points into those.
func TestHeldInLowLatencyMode(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Connection.LowLatencyMode = true
	cfg.Health.PingInterval = harness.Off
	var got []string
	handler := func(a *harness.App) wsshard.Handler[string] { return pointing{a} }
	harness.Bubble(t, cfg, handler, func(w *harness.World) {
		w.App.Message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) {
			got = append(got, msg.String()+" "+string(msg.Value.([]byte)))
		}
		w.Start("a")
		c := w.Hot(0)
		for i := range 10 {
			w.Srv.Conn(1).Send(fmt.Sprint(i, "x"))
			harness.After(time.Millisecond)
		}
		c.Want(t, nil, time.Second+harness.DefaultLinger)
		w.Srv.Conn(1).Send("last")
		harness.After(0)
		want := []string{"last l"}
		for i := range 10 {
			want = slices.Insert(want, i, fmt.Sprintf("%dx %d", i, i))
		}
		if !slices.Equal(got, want) {
			t.Errorf("delivered %q, want %q", got, want)
		}
	})
}

// TestFlushWhileMoreComes: what comes while held messages are delivered queues up behind them, with keys and without, and
// beyond the limits of what may be held.
func TestFlushWhileMoreComes(t *testing.T) {
	cfg := harness.NoJitter()
	cfg.Switchover.HoldMessages = 20
	harness.Bubble(t, cfg, harness.WithTags, func(w *harness.World) {
		w.App.Message = func(_ context.Context, _ wsshard.Message, st wsshard.ConnectionState) {
			if st.Generation == 2 {
				time.Sleep(100 * time.Millisecond)
			}
		}
		w.Start("a")
		c := w.Hot(0)
		var want []string
		send := func(n int) {
			for i := range n {
				text := fmt.Sprintf("a:%s%d", []string{"", "k"}[i%2], len(want))
				want = append(want, text)
				w.Srv.Conn(1).Send(text)
			}
		}
		send(10)
		harness.After(100 * time.Millisecond)
		for _, text := range want {
			w.Srv.Conn(0).Send(text)
		}
		w.WantGot(want...)
		c.Want(t, nil, harness.DefaultLinger)
		send(500)
		harness.After(time.Hour)
		want = slices.DeleteFunc(want, func(text string) bool { return len(text) == len("a:k1") && text[2] == 'k' })
		if got := w.App.Take(); !slices.Equal(got, want) {
			t.Errorf("delivered %q, want %q", got, want)
		}
		if m := w.M.Metrics(); m.HandlerPanics != 0 {
			t.Errorf("%d panics", m.HandlerPanics)
		}
	})
}
