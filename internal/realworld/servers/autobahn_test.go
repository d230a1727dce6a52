package servers

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what does Autobahn's suite say of a manager that sends back each message?
//
// The suite is a program for Python 2.7 (pip install autobahntestsuite). It is started by hand:
//
//	wstest -m fuzzingserver -s spec.json       # {"url": "ws://127.0.0.1:9001", "outdir": "reports", "cases": ["*"]}
//	go test -count=1 -run '^TestAutobahnSuite$' -v -timeout 1h . -args -autobahn ws://127.0.0.1:9001 -autobahn-reports reports
//
// internal/wsconn has its cases as tables, which run always.

var (
	autobahn        = flag.String("autobahn", "", "where the fuzzing server listens; without it TestAutobahnSuite is left out")
	autobahnReports = flag.String("autobahn-reports", "", "its outdir: with it a case that failed fails the test")
)

func TestAutobahnSuite(t *testing.T) {
	if *autobahn == "" {
		t.Skip("-autobahn does not say where the fuzzing server is")
	}
	cases := 0
	if _, err := fmt.Sscan(ask(t, "/getCaseCount"), &cases); err != nil || cases == 0 {
		t.Fatalf("%d cases: %v", cases, err)
	}
	began := time.Now()
	for i := range cases {
		playCase(t, fmt.Sprintf("%s/runCase?case=%d&agent=wsshard", *autobahn, i+1))
	}
	ask(t, "/updateReports?agent=wsshard")
	t.Logf("%d cases in %v", cases, time.Since(began).Round(time.Second))
	if *autobahnReports != "" {
		checkReport(t, cases)
	}
}

// ask reads the one message that the server has to say, if any.
func ask(t *testing.T, what string) string {
	t.Helper()
	ws, _, err := websocket.DefaultDialer.Dial(*autobahn+what, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	_, data, _ := ws.ReadMessage()
	return string(data)
}

// parrot sends back each message of one connection.
type parrot struct {
	url  string
	m    *wsshard.ShardManager[string]
	over func()
}

func (p *parrot) URL(context.Context, wsshard.ConnectionState) (string, error) { return p.url, nil }

// SubscriptionMessage writes nothing: the suite's servers expect no requests.
func (p *parrot) SubscriptionMessage(wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Message{}, nil
}

func (p *parrot) OnMessage(ctx context.Context, msg wsshard.Message, st wsshard.ConnectionState) {
	p.m.Send(ctx, st.ShardID, msg) // ErrInCallback: it waits to be written
}

func (p *parrot) OnDisconnect(context.Context, error, wsshard.ConnectionState) { p.over() }
func (p *parrot) OnError(context.Context, error, wsshard.ConnectionState) bool { return false }

// playCase connects once, and waits until that connection is over.
func playCase(t *testing.T, url string) {
	t.Helper()
	over := make(chan struct{})
	var once sync.Once
	p := &parrot{url: url, over: func() { once.Do(func() { close(over) }) }}
	m, err := wsshard.New(p, wsshard.Config{
		Connection: wsshard.ConnectionConfig{EnableCompression: true, ReadLimit: 64 << 20, MaxConnectAttempts: 1, ProactiveReconnectInterval: -1},
		Health:     wsshard.HealthConfig{PingInterval: -1, DataTimeout: -1},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.m = m
	if _, err := m.Subscribe("all"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // the server gives up after eight
	defer cancel()
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case <-over:
	case <-ctx.Done():
		t.Errorf("%s is not over after ten minutes", url)
		m.Dump(os.Stderr)
	}
	if err := m.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// checkReport reads what the suite found.
func checkReport(t *testing.T, cases int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(*autobahnReports, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var report map[string]map[string]struct{ Behavior, BehaviorClose string }
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	found := make(map[string][]string)
	for no, c := range report["wsshard"] {
		found[c.Behavior] = append(found[c.Behavior], no)
		if c.BehaviorClose == "FAILED" {
			found["FAILED to close"] = append(found["FAILED to close"], no)
		}
	}
	if n := len(report["wsshard"]); n != cases {
		t.Errorf("%d of %d cases are in the report", n, cases)
	}
	for behavior, all := range found {
		slices.Sort(all)
		if strings.HasPrefix(behavior, "FAILED") {
			t.Errorf("%s: %v", behavior, all)
		} else {
			t.Logf("%s: %d", behavior, len(all))
		}
	}
}
