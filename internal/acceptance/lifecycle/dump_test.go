package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/pprof"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: what does Dump show somebody at 3 a.m.?

// dumped is what Dump writes now, the time of the first line left out.
func dumped(t *testing.T, m *wsshard.ShardManager[string]) string {
	t.Helper()
	var b bytes.Buffer
	if err := m.Dump(&b); err != nil {
		t.Error(err)
	}
	head, rest, _ := strings.Cut(b.String(), "\n")
	_, head, _ = strings.Cut(head, "Z: ")
	return head + "\n" + rest
}

// wantDump checks that each of these is in a line of its own, in this order, and nothing else.
func wantDump(t *testing.T, m *wsshard.ShardManager[string], lines ...string) {
	t.Helper()
	synctest.Wait()
	got := strings.Split(strings.TrimSuffix(dumped(t, m), "\n"), "\n")
	ok := len(got) == len(lines)
	for i := range min(len(got), len(lines)) {
		ok = ok && strings.Contains(got[i], lines[i])
	}
	if !ok {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
}

func TestDumpOfAllStates(t *testing.T) {
	harness.Bubble(t, wsshard.Config{Connection: wsshard.ConnectionConfig{MaxConnectAttempts: 3}, Switchover: wsshard.SwitchoverConfig{Settle: 2 * time.Second}}, nil, func(w *harness.World) {
		wantDump(t, w.M, "not started; 0 shards, 0 connected; 0 topics")
		w.Subscribe("a", "b")
		wantDump(t, w.M, "not started; 1 shards, 0 connected; 2 topics",
			"shard 0: stopped for 0s, generation 0, 2 topics")
		dials := 0
		w.Net.OnDial(func(context.Context, int, string) error {
			if dials++; dials == 1 {
				return errors.New("no \x1b[31mroute")
			}
			return nil
		})
		if err := w.M.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		text := dumped(t, w.M)
		if !strings.Contains(text, "shard 0: backoff for 0s, next attempt in ") || !strings.Contains(text, `last error: `) || !strings.Contains(text, `no \x1b[31mroute`) {
			t.Error(text)
		}
		w.Sync()
		w.Topics.Publish("a", "1")
		harness.After(1500 * time.Millisecond)
		wantDump(t, w.M, "running; 1 shards, 1 connected; 2 topics", "shard 0: connected for 1.5s, generation 1, 2 topics, 1 attempts failed, data 1.5s ago, frame 1.5s ago, 2 topics are not proven")

		call := w.Hot(0)
		harness.After(500 * time.Millisecond)
		wantDump(t, w.M, "running; 1 shards, 1 connected; 2 topics", "shard 0: switching for 500ms, generation 1, 2 topics, 1 attempts failed, "+
			"switchover (call) waits for proof that the next connection delivers for 500ms, 2 topics there are not proven, data 2s ago, frame 2s ago")
		<-call.Done
		w.M.Subscribe("c")
		wantDump(t, w.M, "running; 1 shards, 1 connected; 3 topics", "no data yet, frame 2.3s ago, 1 topics are not proven")

		w.Srv.Down()
		harness.After(10 * time.Millisecond)
		if text := dumped(t, w.M); !strings.Contains(text, "messages of 3 topics are missed since 2000-01-01T00:00:") {
			t.Error(text)
		}
		harness.After(time.Minute)
		wantDump(t, w.M, "running; 1 shards, 0 connected; 3 topics", "shard 0: parked for ")
		w.M.Stop(context.Background())
		wantDump(t, w.M, "stopped; 0 shards, 0 connected; 0 topics")
	})
}

// Where a shard stands at which door, and what the door waits for.
func TestDumpAtTheDoor(t *testing.T) {
	cfg := wsshard.Config{MaxSubscriptionsPerShard: 1}
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Net.SetLatency(200 * time.Millisecond)
		w.Srv.Reject(func(*http.Request) (int, http.Header, string) {
			return 429, http.Header{"Retry-After": {"60"}}, ""
		})
		w.Subscribe("a", "b")
		if err := w.M.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		harness.After(100 * time.Millisecond)
		wantDump(t, w.M, "running; 2 shards", "door srv:80: open, 1 wait, 0 are refused in person, 1 may dial at once", " srv:80", " srv:80", "callback dial, NetDialContext or TLSConfig of shard ")
		if text := dumped(t, w.M); !strings.Contains(text, "dials srv:80 for 100ms") || !strings.Contains(text, "stands in line at srv:80 as down, 0 before it, for 100ms") {
			t.Error(text)
		}
		harness.After(10 * time.Second)
		wantDump(t, w.M, "running; 2 shards", "door srv:80: retryafter for 9.", "stands in line at srv:80 as down, ", "stands in line at srv:80 as down, ")
		if text := dumped(t, w.M); !strings.Contains(text, "status 429") || !strings.Contains(text, "1 before it") {
			t.Error(text)
		}
	})
	cfg.Connection.Limiter = wsshard.NewConnectLimiter(1, time.Hour)
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Launch("a", "b")
		harness.After(time.Minute)
		text := dumped(t, w.M)
		if !strings.Contains(text, "waits for Connection.Limiter at srv:80 for 1m0s") || !strings.Contains(text, "door srv:80: limiter") ||
			!strings.Contains(text, "callback ConnectLimiter.Wait, for 1m0s") {
			t.Error(text)
		}
	})
	cfg.Connection.Limiter = nil
	harness.Bubble(t, cfg, nil, func(w *harness.World) {
		w.Srv.Reject(func(*http.Request) (int, http.Header, string) { return 401, nil, "" })
		w.Launch("a")
		harness.After(time.Minute)
		if text := dumped(t, w.M); !strings.Contains(text, "refused in person: sits on the bench at srv:80 for ") || !strings.Contains(text, "door srv:80: bench") {
			t.Error(text)
		}
	})
}

// Of each callback that does not return Dump says which it is, whose, and for how long; and it waits for none.
func TestDumpNamesTheCallbackThatRuns(t *testing.T) {
	for _, lowLatency := range []bool{false, true} {
		for _, callback := range harness.Callbacks {
			if callback == "Subscriptions" { // no shard is there yet
				continue
			}
			t.Run(fmt.Sprint(callback, " ", lowLatency), func(t *testing.T) {
				cfg := wsshard.Config{Connection: wsshard.ConnectionConfig{LowLatencyMode: lowLatency}}
				everywhere(t, callback, cfg, func(w everyWorld) {
					asked := false
					w.e.Set(func(_ context.Context, where string, _ wsshard.ConnectionState) {
						if where != callback || asked {
							return
						}
						asked = true
						time.Sleep(1500 * time.Millisecond)
						text := ""
						done := make(chan struct{})
						go func() { // not from inside the callback, which would be shown as being in Dump
							defer close(done)
							text = dumped(w.T, w.M)
						}()
						<-done
						for line := range strings.Lines(text) {
							if strings.HasPrefix(line, "callback ") && strings.Contains(line, callback) && strings.Contains(line, "1.5s") {
								return
							}
						}
						w.T.Errorf("it does not say that %s runs since 1.5 s:\n%s", callback, text)
					})
					w.provoke()
					if !asked {
						w.T.Fatal("it was not called")
					}
				})
			})
		}
	}
}

func TestDumpSaysThatItCannotWrite(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		r, pipe := io.Pipe()
		r.Close()
		if err := w.M.Dump(pipe); !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
	})
}

// It names no topic and no secret, wherever they stand.
func TestDumpShowsNoSecret(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, nil, func(w *harness.World) {
		w.App.Addr = "ws://user:" + harness.Canary + "@srv/" + harness.Canary + "?key=" + harness.Canary
		w.Srv.Reject(func(*http.Request) (int, http.Header, string) { return 500, nil, "" })
		w.Launch("topic-" + harness.Canary)
		for range 100 {
			harness.After(50 * time.Millisecond)
			if text := dumped(t, w.M); strings.Contains(text, harness.Canary) {
				t.Fatal(text)
			}
		}
	})
}

// Each goroutine of a manager says in profiles which loop it is, and of which shard.
func TestGoroutinesAreLabelled(t *testing.T) {
	harness.Bubble(t, wsshard.Config{MaxSubscriptionsPerShard: 1}, nil, func(w *harness.World) {
		w.Net.OnDial(func(_ context.Context, k int, _ string) error {
			if k > 1 {
				time.Sleep(time.Minute)
			}
			return nil
		})
		w.Launch("a", "b")
		harness.After(time.Second)
		var profile bytes.Buffer
		pprof.Lookup("goroutine").WriteTo(&profile, 1)
		for _, labels := range []string{
			`"shard":"0", "wsshard":"shard"`, `"shard":"1", "wsshard":"shard"`, `"wsshard":"read"`, `"wsshard":"write"`, `"wsshard":"dial"`, `"wsshard":"events"`,
		} {
			if !strings.Contains(profile.String(), labels) {
				t.Errorf("no goroutine is labelled %s", labels)
			}
		}
	})
}
