package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// soon waits for what must come true.
func soon(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("it never came true: %s", what)
		}
	}
}

// safeBuffer is written by shards and read by the test.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func numbered(from, to int) (ids []string) {
	for i := from; i < to; i++ {
		ids = append(ids, fmt.Sprintf("6581861965756881347434186765230894207980491928738038042219289221113140%07d", i))
	}
	return ids
}

// wantTable compares the stand-in's table with what is wanted: each asset on one connection, and nothing else.
func wantTable(t *testing.T, srv *standIn, wanted []string) {
	t.Helper()
	want := make(map[string]int)
	for _, asset := range wanted {
		want[asset] = 1
	}
	soon(t, fmt.Sprintf("%d assets, each on one connection", len(wanted)), func() bool { return maps.Equal(srv.table(), want) })
	if _, _, _, _, errs := srv.state(); len(errs) > 0 {
		t.Fatalf("the venue refused: %q", errs)
	}
}

// started runs a manager for assets against the stand-in, with the venue's limits but for haste.
func started(t *testing.T, srv *standIn, l limits, wanted []string) (*app, *wsshard.ShardManager[string]) {
	t.Helper()
	app := newApp(srv.url, &safeBuffer{})
	cfg := l.config()
	cfg.Backoff.InitialDelay = time.Millisecond
	cfg.Connection.Limiter = nil
	m, err := wsshard.New(app, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Subscribe(wanted...); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("\n%s", app.out)
		}
	})
	return app, m
}

func (b *board) of(asset string) quote {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q := b.assets[asset]; q != nil {
		return *q
	}
	return quote{}
}

func TestSubscriptionsSurvive(t *testing.T) {
	srv := newStandIn(t, venueLimits)
	wanted := numbered(0, 450)
	app, m := started(t, srv, venueLimits, wanted)
	wantTable(t, srv, wanted)
	if open, _, _, largest, _ := srv.state(); open != 3 || largest != venueLimits.perRequest {
		t.Errorf("%d connections, %d assets in the largest request; want 3 and %d", open, largest, venueLimits.perRequest)
	}
	soon(t, "a book of each", func() bool { return app.board.counts().books == len(wanted) })

	srv.killAll()
	wantTable(t, srv, wanted)

	if err := m.Unsubscribe(wanted[:50]...); err != nil {
		t.Fatal(err)
	}
	more := numbered(450, 470)
	if _, err := m.Subscribe(more...); err != nil {
		t.Fatal(err)
	}
	wanted = slices.Concat(wanted[50:], more)
	wantTable(t, srv, wanted)

	srv.killAll()
	wantTable(t, srv, wanted)
	if _, ever, _, _, _ := srv.state(); ever < 9 {
		t.Errorf("%d connections ever; all three were killed twice", ever)
	}
}

func TestMessages(t *testing.T) {
	srv := newStandIn(t, venueLimits)
	pair := numbered(0, 2)
	app, m := started(t, srv, venueLimits, pair)
	soon(t, "both books", func() bool { return app.board.counts().books == 2 })
	if q := app.board.of(pair[0]); q.bid != "0.40" || q.ask != "0.60" {
		t.Errorf("after the book: %+v", q)
	}

	// Alone and in arrays; an empty one; one that a later version may send; and no JSON at all.
	srv.publish(pair[0], priceChanges(pair[0], pair[1], "0.41", "0.59"))
	srv.publish(pair[0], "["+tickSize(pair[0], "0.001")+","+trade(pair[0], "0.456")+"]")
	srv.publish(pair[0], "[]")
	srv.publish(pair[0], `{"event_type":"best_bid_ask","asset_id":"`+pair[1]+`","spread":"0.002"}`)
	srv.publish(pair[0], "NO NEW ASSETS")
	srv.publish(pair[0], trade(pair[1], "0.5"))
	soon(t, "two trades", func() bool { return app.board.counts().trades == 2 })
	if q := app.board.of(pair[0]); q.bid != "0.41" || q.ask != "0.59" || q.last != "0.456" || q.tick != "0.001" {
		t.Errorf("the first: %+v", q)
	}
	if q := app.board.of(pair[1]); q.bid != "0.3" || q.ask != "0.5" || q.last != "0.5" {
		t.Errorf("the other: %+v", q)
	}
	if out := fmt.Sprint(app.out); strings.Count(out, "not understood") != 1 || !strings.Contains(out, `"NO NEW ASSETS"`) {
		t.Errorf("printed\n%s", out)
	}
	for _, asset := range pair {
		if !m.IsSubscriptionFresh(asset, time.Hour) {
			t.Errorf("%s is not fresh", asset)
		}
	}
}

func TestVerdicts(t *testing.T) {
	app := newApp("", &safeBuffer{})
	for text, want := range map[string]string{
		book("a", "0.1", "0.2"):                              "[a]",
		"[" + book("a", "", "") + "," + trade("b", "") + "]": "[a b]",
		priceChanges("a", "b", "", ""):                       "[a b]",
		tickSize("c", "0.1"):                                 "[c]",
		`{"event_type":"new_market","market":"0x1"}`:         "[]",
		" [] ":                   "no data []",
		"INVALID OPERATION":      "no data []",
		"":                       "no data []",
		"null":                   "no data []",
		`{"asset_id":"a"}`:       "no data []",
		`[{"event_type":"x"},1]`: "no data []",
	} {
		v := app.Inspect(wsshard.Text(text), wsshard.ConnectionState{})
		got := fmt.Sprint(v.Subs)
		if v.NoData {
			got = "no data " + got
		}
		if got != want || v.Key != "" || v.Heartbeat {
			t.Errorf("%.60s: %s, key %q; want %s", text, got, v.Key, want)
		}
	}
}

// PING is answered by PONG, which reaches nobody; a connection that answers but brings no data is replaced.
func TestPingAndSilence(t *testing.T) {
	l := venueLimits
	l.ping, l.quiet = 50*time.Millisecond, 400*time.Millisecond
	srv := newStandIn(t, l)
	wanted := numbered(0, 3)
	app, m := started(t, srv, l, wanted)
	wantTable(t, srv, wanted)
	soon(t, "a measured round trip", func() bool { return m.Metrics().Shards[0].RTT > 0 })
	if _, _, pings, _, _ := srv.state(); pings == 0 {
		t.Error("it was no PING that was answered")
	}

	srv.silence()
	soon(t, "a new connection with all assets", func() bool { return len(srv.table()) == len(wanted) })
	soon(t, "that it takes over", func() bool { return m.Metrics().HotSwitchovers > 0 })
	soon(t, "that the gap is told", func() bool { return strings.Contains(fmt.Sprint(app.out), "of 3 assets") })
	if out := fmt.Sprint(app.out); strings.Contains(out, "not understood") {
		t.Errorf("printed\n%s", out)
	}
}

func TestProgram(t *testing.T) {
	srv := newStandIn(t, venueLimits)
	wanted := numbered(0, 30)
	file := filepath.Join(t.TempDir(), "assets")
	if err := os.WriteFile(file, []byte(strings.Join(wanted, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	out, errOut := &safeBuffer{}, &safeBuffer{}
	go func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil && !strings.Contains(out.String(), "30 of 30 assets with a book") {
			<-tick.C
		}
		cancel(errors.New("seen enough"))
	}()
	args := []string{"-url", srv.url, "-assets", "@" + file, "-per-connection", "20", "-for", "20s", "-every", "10ms"}
	if code := run(ctx, args, out, errOut); code != 0 {
		t.Errorf("exit status %d\n%s%s", code, out, errOut)
	}
	for _, want := range []string{"2 of 2 connected", "658186…000011", "0.40", "30 events, 0 of them trades, of 30 assets; 2 connections"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output does not say %q\n%s", want, out)
		}
	}
	soon(t, "that nothing is left open", func() bool { open, _, _, _, _ := srv.state(); return open == 0 })
}

func TestNobodyThere(t *testing.T) {
	srv := newStandIn(t, venueLimits)
	out, errOut := &safeBuffer{}, &safeBuffer{}
	args := []string{"-url", strings.TrimSuffix(srv.url, "market") + "nowhere", "-assets", "1,2", "-for", "100ms"}
	if code := run(t.Context(), args, out, errOut); code != 1 {
		t.Errorf("exit status %d", code)
	}
	if !strings.Contains(errOut.String(), "404") {
		t.Errorf("it does not say why: %s", errOut)
	}
}

func TestFlags(t *testing.T) {
	for args, want := range map[string]int{
		"-h":                      0,
		"":                        2,
		"-assets ,":               2,
		"-assets @/no/such/file":  2,
		"-assets 1 surplus":       2,
		"-assets 1 -every 0s":     2,
		"-assets 1 -quiet 1s":     1, // less than the time between two pings
		"-assets 1 -url ftp://x/": 1,
	} {
		var out, errOut safeBuffer
		if code := run(t.Context(), append(strings.Fields(args), "-for=10ms"), &out, &errOut); code != want {
			t.Errorf("%s: exit status %d, want %d", args, code, want)
		}
		if errOut.String() == "" {
			t.Errorf("%s: no word", args)
		}
	}
}
