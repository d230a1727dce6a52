//go:build unix

package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what happens to a client whose process stood still, when the server is well?

// frozenURL is the environment variable that makes the test binary a client instead.
const frozenURL = "WSSHARD_FROZEN_CLIENT"

func TestMain(m *testing.M) {
	if url := os.Getenv(frozenURL); url != "" {
		if err := frozenClient(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const frozenShards = 20

// impatience is far below the time for which the client is stopped.
var impatience = wsshard.HealthConfig{
	PingInterval: time.Second, PongTimeout: time.Second, FailureThreshold: 1,
	DataTimeout: 2 * time.Second, MessageTimeout: 2 * time.Second,
}

// status is what the client tells when it is asked.
type status struct {
	Received  int            // messages
	Last      map[string]int // number, by subject
	Connected int
	Metrics   wsshard.Metrics
	Events    []string // of kinds that tell of a lost or replaced connection
}

// frozenClient keeps the subjects that are on its first line of input, and answers each further line with its status.
func frozenClient(url string) error {
	var mu sync.Mutex
	st := status{Last: make(map[string]int)}
	s, err := New(Options{
		URL: url, Name: "shard",
		Config: wsshard.Config{MaxSubscriptionsPerShard: 10, Health: impatience},
		Receive: func(d Delivery) {
			mu.Lock()
			defer mu.Unlock()
			st.Received++
			st.Last[d.Subject] = d.Number()
		},
		Observe: func(ev wsshard.Event[string]) {
			mu.Lock()
			defer mu.Unlock()
			if ev.Kind != wsshard.EventConnecting && ev.Kind != wsshard.EventConnected {
				st.Events = append(st.Events, fmt.Sprint(ev.Kind, " of shard ", ev.ShardID, " ", ev.Err))
			}
		},
	})
	if err != nil {
		return err
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var subjects []string
	if err := in.Decode(&subjects); err != nil {
		return err
	}
	if _, err := s.Manager.Subscribe(subjects...); err != nil {
		return err
	}
	if err := s.Manager.Start(context.Background()); err != nil {
		return err
	}
	if err := s.Manager.Sync(context.Background()); err != nil {
		return err
	}
	for {
		mu.Lock()
		st.Metrics, st.Connected = s.Manager.Metrics(), s.Manager.Health(1).Connected
		err := out.Encode(st)
		mu.Unlock()
		if err != nil {
			return err
		}
		var ask any
		if err := in.Decode(&ask); err == io.EOF {
			return s.Manager.Stop(context.Background())
		} else if err != nil {
			return err
		}
	}
}

// frozen is the client's process.
type frozen struct {
	t   *testing.T
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
}

func startFrozen(t *testing.T, url string, subjects []string) *frozen {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), frozenURL+"="+url)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && !t.Failed() {
			t.Errorf("the client: %v", err)
		}
	})
	t.Cleanup(func() {
		if t.Failed() {
			cmd.Process.Kill()
		}
	})
	f := &frozen{t: t, cmd: cmd, in: json.NewEncoder(in), out: json.NewDecoder(bufio.NewReader(out))}
	f.say(subjects)
	f.hear()
	return f
}

func (f *frozen) say(v any) {
	f.t.Helper()
	if err := f.in.Encode(v); err != nil {
		f.t.Fatal(err)
	}
}

func (f *frozen) hear() (st status) {
	f.t.Helper()
	if err := f.out.Decode(&st); err != nil {
		f.t.Fatal(err)
	}
	return st
}

func (f *frozen) status() status {
	f.t.Helper()
	f.say("status")
	return f.hear()
}

func (f *frozen) signal(sig syscall.Signal) {
	f.t.Helper()
	if err := f.cmd.Process.Signal(sig); err != nil {
		f.t.Fatal(err)
	}
}

func TestFourSecondsFrozenDropNothing(t *testing.T) {
	n, book, subjects := startNATS(t), newAccount(), numbered("frozen", 10*frozenShards)
	client := startFrozen(t, n.url(), subjects)
	n.wantClients(frozenShards)

	p := &publisher{nc: n.dial(), book: book}
	round := make([][]string, 10)
	for i := range round {
		round[i] = subjects[i*frozenShards : (i+1)*frozenShards]
	}
	end := p.background(round, 2_000)
	const freezes, cold = 2, 4 * time.Second
	for i := range freezes {
		pings := client.status().Metrics.PingsSent
		eventually(t, "every shard has sent a ping", func() bool {
			return client.status().Metrics.PingsSent >= pings+frozenShards
		})
		client.signal(syscall.SIGSTOP)
		<-time.After(cold)
		client.signal(syscall.SIGCONT)
		woken := client.status()
		eventually(t, "every shard has sent two pings more", func() bool {
			return client.status().Metrics.PingsSent >= woken.Metrics.PingsSent+2*frozenShards
		})
		t.Logf("freeze %d: done", i+1)
	}
	end()
	p.round(subjects...)
	var st status
	eventually(t, "the last message of each subject has come", func() bool {
		st = client.status()
		for subject, l := range book.subjects {
			if st.Last[subject] < len(l.sequences) {
				return false
			}
		}
		return true
	})
	dropped := int(st.Metrics.Connections) - frozenShards
	t.Logf("stopped %d times for %v: %d of %d shards dropped, %d published, %d received, health failures %d, pings %d",
		freezes, cold, dropped, frozenShards, book.sequence, st.Received, st.Metrics.HealthFailures, st.Metrics.PingsSent)
	if dropped != 0 || len(st.Events) != 0 || st.Connected != frozenShards {
		t.Errorf("%d dropped, %d connected, events %q", dropped, st.Connected, st.Events)
	}
	if st.Received != book.sequence {
		t.Errorf("%d published, %d received", book.sequence, st.Received)
	}
}

// wantClients waits until the server has so many shards connected.
func (n *natsServer) wantClients(count int) {
	n.t.Helper()
	eventually(n.t, "the shards are connected", func() bool { return connections(n) == count })
}
