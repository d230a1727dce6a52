package lifecycle

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what does the log say?

// records is a slog.Handler that keeps what it gets.
type records struct {
	mu   *sync.Mutex
	all  *[]record
	with []slog.Attr
}

type record struct {
	level   slog.Level
	message string
	attrs   map[string]slog.Value
}

func newRecords() records { return records{mu: new(sync.Mutex), all: new([]record)} }

func (r records) Enabled(context.Context, slog.Level) bool { return true }
func (r records) WithGroup(string) slog.Handler            { panic("no groups are promised") }
func (r records) WithAttrs(attrs []slog.Attr) slog.Handler {
	r.with = append(r.with[:len(r.with):len(r.with)], attrs...)
	return r
}

func (r records) Handle(_ context.Context, rec slog.Record) error {
	one := record{rec.Level, rec.Message, map[string]slog.Value{}}
	add := func(a slog.Attr) bool {
		one.attrs[a.Key] = a.Value
		return true
	}
	for _, a := range r.with {
		add(a)
	}
	rec.Attrs(add)
	r.mu.Lock()
	defer r.mu.Unlock()
	*r.all = append(*r.all, one)
	return nil
}

// counts sorts what was logged, as "LEVEL message".
func (r records) counts() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := map[string]int{}
	for _, one := range *r.all {
		n[one.level.String()+" "+one.message]++
	}
	return n
}

// The log has a line for each change of a shard's state and none for a message.
func TestLog(t *testing.T) {
	for _, messages := range []int{1, 300} {
		log := newRecords()
		cfg := harness.NoJitter()
		cfg.MaxSubscriptionsPerShard = 2
		cfg.Logger = slog.New(log)
		harness.Bubble(t, cfg, func(a *harness.App) wsshard.Handler[string] {
			return struct {
				*harness.App
				harness.Inspects
			}{a, func(m wsshard.Message, _ wsshard.ConnectionState) wsshard.Verdict[string] {
				return wsshard.Verdict[string]{Reply: wsshard.Text("yes")}
			}}
		}, func(w *harness.World) {
			w.Start(harness.Numbered(6)...)
			for round := range 10 {
				for n := range messages {
					w.Topics.Publish("t0000", fmt.Sprint(n))
				}
				w.M.Resubscribe("t0001")
				w.M.Unsubscribe("t0002")
				w.Subscribe("t0002")
				harness.After(3 * time.Minute)
				for i := range 3 {
					w.Srv.Conn(3*round + i).Kill()
				}
				harness.After(2 * time.Second)
			}
		})
		got := log.counts()
		for line, want := range map[string]int{
			"INFO started": 1, "INFO stopped": 1, "INFO connected": 33, "WARN disconnected": 30, "WARN gap": 40, // ten of t0001, which was off to be asked for again

			"DEBUG backoff": 30, "DEBUG handler": 1,
		} {
			if got[line] != want {
				t.Errorf("%q: %d times, want %d", line, got[line], want)
			}
			delete(got, line)
		}
		for line, n := range got {
			t.Errorf("%q: %d times", line, n)
		}
		for _, one := range *log.all {
			_, shard := one.attrs["shard"]
			_, egress := one.attrs["egress"]
			_, gen := one.attrs["gen"]
			switch one.message {
			case "connected", "disconnected", "gap":
				if !shard || !egress || !gen {
					t.Errorf("%q has only %v", one.message, one.attrs)
				}
			case "backoff":
				if !shard || !egress {
					t.Errorf("%q has only %v", one.message, one.attrs)
				}
			}
		}
	}
}

// Connections that fail again and again fill no log above Debug.
func TestLogOfAnOutage(t *testing.T) {
	log := newRecords()
	cfg := harness.NoJitter()
	cfg.Backoff.MaxDelay = time.Second
	cfg.Logger = slog.New(log)
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Start("a")
		w.Srv.Down()
		harness.After(time.Hour)
		n := 0
		for line, times := range log.counts() {
			if line[:5] != "DEBUG" {
				n += times
			}
		}
		if n > 5 { // started, connected, disconnected, breaker opened
			t.Errorf("%d lines above Debug in an hour of %d dials: %v", n, w.Net.Dials(), log.counts())
		}
	})
}
