package servers

import (
	"net/http"
	"testing"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: does every message of a real server arrive, whatever the server puts into a frame?

func TestEveryMessageIsAccountedFor(t *testing.T) {
	browser := http.Header{"User-Agent": {"Mozilla/5.0"}} // to these the server sends frames of at most 4 KiB
	for _, test := range []struct {
		name        string
		server      func(*natsServer)
		cfg         wsshard.Config
		subjects    int
		each        int
		pad         func(number int) int
		wantSplit   bool
		wantSeveral bool
	}{
		{name: "plain", subjects: 10_000, each: 20, wantSeveral: true},
		{name: "tls", server: secured, subjects: 10_000, each: 10, wantSeveral: true},
		{
			name: "lines split over frames", subjects: 1_000, each: 10, wantSplit: true, wantSeveral: true,
			cfg: wsshard.Config{Connection: wsshard.ConnectionConfig{Header: browser}},
			pad: func(number int) int { return number * number * 137 },
		},
		{
			name: "compressed", server: compressing, subjects: 1_000, each: 10, wantSeveral: true,
			cfg: wsshard.Config{Connection: wsshard.ConnectionConfig{EnableCompression: true}},
			pad: func(number int) int { return number * 100 },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.server == nil {
				test.server = func(*natsServer) {}
			}
			n, book, subjects := startNATS(t, test.server), newAccount(), numbered("all", test.subjects)
			wire := &sockets{}
			test.cfg.MaxSubscriptionsPerShard = test.subjects / 20
			test.cfg.Connection.NetDialContext = wire.dial
			s := n.subscriber(book, test.cfg, subjects...)
			if got := s.Manager.ShardCount(); got != 20 {
				t.Fatalf("%d shards, want 20", got)
			}
			n.wantSubscriptions(s, subjects)

			p := &publisher{nc: n.dial(), book: book, pad: test.pad}
			for range test.each {
				p.round(subjects...)
			}
			book.caughtUp(t)
			sum := book.close(t)
			t.Logf("%d subjects over 20 shards: %v", test.subjects, sum)
			if want := (totals{published: test.subjects * test.each, received: test.subjects * test.each, together: sum.together}); sum != want {
				t.Errorf("%v, want %v", sum, want)
			}
			t.Logf("frames with several messages %d, frames that go on in the next %d", s.Several.Load(), s.Split.Load())
			if several := s.Several.Load() > 0; several != test.wantSeveral {
				t.Errorf("frames with several messages: %v, want %v", several, test.wantSeveral)
			}
			if split := s.Split.Load() > 0; split != test.wantSplit {
				t.Errorf("frames that go on in the next: %v, want %v", split, test.wantSplit)
			}
			payload := s.Manager.Metrics().BytesReceived
			if shrunk := uint64(wire.read.Load()) < payload/2; shrunk != test.cfg.Connection.EnableCompression {
				t.Errorf("%d bytes on the wire for %d", wire.read.Load(), payload)
			}
			for shard, clients := range n.clients() {
				if c := clients[0]; (c.TLS != "") != (n.roots != nil) {
					t.Errorf("shard %d: TLS %q", shard, c.TLS)
				}
			}
		})
	}
}
