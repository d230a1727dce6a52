package faults

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: where may a manager be waiting when Stop comes?

var stopPoints = []stopPoint{
	{name: "URL", phase: connecting, waits: []string{"(*shard).attempt", "(*core).apart"}, reach: func(c *cell) {
		c.set(func(h *hooks) { h.url = func(ctx context.Context) (string, error) { return "", waitFor(ctx) } })
		c.launch()
	}},
	{name: "headers", phase: connecting, waits: []string{"(*core).apart"}, reach: func(c *cell) {
		c.set(func(h *hooks) { h.header = func(ctx context.Context) (http.Header, error) { return nil, waitFor(ctx) } })
		c.launch()
	}},
	{name: "dial", phase: connecting, waits: []string{"(*dialer).tcp", "(*shard).attempt"}, reach: func(c *cell) { c.Net.OnDial(harness.HangingDial); c.launch() }},
	{name: "TLS", phase: connecting, waits: []string{"(*dialer).secure"}, reach: func(c *cell) {
		c.set(func(h *hooks) { h.url = func(context.Context) (string, error) { return "wss://srv/", nil } })
		mumbles("")(c, target{})
		c.launch()
	}},
	{name: "handshake", phase: connecting, waits: []string{"(*dialer).upgrade", "wsconn.(*Tap).readHead"}, reach: func(c *cell) { mumbles("")(c, target{}); c.launch() }},
	{name: "the answer's body", phase: connecting, waits: []string{"(*dialer).upgrade", "wsconn.(*Tap).readHead"}, reach: func(c *cell) {
		mumbles("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhal")(c, target{})
		c.launch()
	}},
	{name: "CONNECT", phase: connecting, with: via("http"), setup: (*cell).hire, waits: []string{"httpConnect", "(*headReader).Read"}, reach: silentProxy("")},
	{name: "behind early bytes", phase: connecting, with: via("http"), setup: (*cell).hire, waits: []string{"(*readAhead).Read"},
		reach: silentProxy("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 ")},
	{name: "TLS to the proxy", phase: connecting, with: via("https"), setup: (*cell).hire, waits: []string{"(*dialer).negotiate"}, reach: silentProxy("")},
	{name: "SOCKS", phase: connecting, with: via("socks5"), setup: (*cell).hire, waits: []string{"socks5", "(*socksConn).Read"}, reach: silentProxy("")},
	{name: "a SOCKS proxy that does not read", phase: connecting, with: via("socks5"), setup: (*cell).hire, waits: []string{"(*socksConn).Write"}, reach: func(c *cell) {
		c.Net.SetBuffer(2)
		c.bribe(func(nc net.Conn) { <-c.released })
		c.launch()
	}},
	{name: "Login", phase: connecting, waits: []string{"(*core).apart"}, reach: func(c *cell) {
		c.set(func(h *hooks) { h.login = func(ctx context.Context, _ wsshard.LoginConn) error { return waitFor(ctx) } })
		c.launch()
	}},
	{name: "Login that reads", phase: connecting, waits: []string{"(*loginConn).Read", "wsconn.(*Conn).Read"}, reach: func(c *cell) {
		c.set(func(h *hooks) {
			h.login = func(_ context.Context, conn wsshard.LoginConn) error {
				_, err := conn.Read(context.Background())
				return err
			}
		})
		c.launch()
	}},
	{name: "Login that writes", phase: connecting, setup: small, waits: []string{"(*pen).write", "wsconn.(*Conn).Write"}, reach: func(c *cell) {
		c.Srv.OnOpen(func(p *wstest.Peer) { p.Net().(*wstest.Conn).StallRead(true) })
		c.set(func(h *hooks) {
			h.login = func(ctx context.Context, conn wsshard.LoginConn) error {
				return conn.Write(ctx, wsshard.Text(strings.Repeat("x", 10000)))
			}
		})
		c.launch()
	}},
	{name: "Login that is paced", phase: connecting, waits: []string{"sleep"}, with: patiently(func(cfg *wsshard.Config) {
		cfg.Subscribe.MessagesPerWindow, cfg.Subscribe.Window = 2, 10*time.Second
	}), reach: func(c *cell) {
		c.set(func(h *hooks) {
			h.login = func(ctx context.Context, conn wsshard.LoginConn) error {
				return errors.Join(conn.Write(ctx, wsshard.Text("1")), conn.Write(ctx, wsshard.Text("2")))
			}
		})
		c.launch()
	}},
	{name: "OnConnect", phase: connecting, waits: []string{"(*core).apart"}, reach: func(c *cell) {
		c.set(func(h *hooks) {
			h.connect = func(ctx context.Context) ([]wsshard.Message, error) { return nil, waitFor(ctx) }
		})
		c.launch()
	}},
	{name: "another's dial", phase: connecting, waits: []string{"(*opening).admission"}, with: func(cfg *wsshard.Config) {
		cfg.MaxSubscriptionsPerShard, cfg.Connection.MaxConcurrentDials = 1, 1
	}, reach: func(c *cell) { c.Net.OnDial(harness.HangingDial); c.launch() }},
	{name: "the application's limiter", phase: connecting, waits: []string{"(*opening).admission", "guardedLimiter.Wait"},
		with: func(cfg *wsshard.Config) { cfg.Connection.Limiter = new(firstLimiter) }, reach: (*cell).launch},
	{name: "the last run's callback", phase: connecting, waits: []string{"(*ShardManager).launchLocked"}, during: []string{"(*ShardManager).finish"},
		heedless: true, reach: func(c *cell) {
			c.settle()
			c.set(func(h *hooks) { h.message = func(context.Context, wsshard.Message) { <-c.released } })
			nap(time.Second)
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			c.M.Stop(ended)
			c.restart()
		}},

	{name: "idle", phase: steady, reach: (*cell).settle,
		waits: []string{"(*shard).hold", "(*reader).readLoop", "wsconn.(*buffered).fill", "(*writer).writeLoop", "(*events).deliver"}},
	{name: "in Run", phase: steady, waits: []string{"(*ShardManager).Run"}, reach: func(c *cell) {
		c.Subscribe(wanted...)
		c.joined.Go(func() {
			if err := c.M.Run(context.Background()); err != wsshard.ErrStopped {
				c.T.Errorf("Run: %v", err)
			}
		})
		c.until("delivering", func() bool { return c.right() })
	}},
	{name: "Send and Sync", phase: steady, waits: []string{"(*ShardManager).Send", "(*ShardManager).Sync"}, with: patiently(func(cfg *wsshard.Config) {
		cfg.Subscribe.MessagesPerWindow, cfg.Subscribe.Window = 3, time.Hour
	}), reach: func(c *cell) {
		c.settle()
		c.Subscribe("c")
		c.joined.Go(func() {
			if err := c.M.Sync(context.Background()); err != wsshard.ErrStopped {
				c.T.Errorf("Sync: %v", err)
			}
		})
		c.joined.Go(func() {
			if err := c.M.Send(context.Background(), 0, wsshard.Text("x")); err != wsshard.ErrStopped {
				c.T.Errorf("Send: %v", err)
			}
		})
		nap(100 * time.Millisecond)
	}},
	{name: "a server that is gone", phase: steady, takes: time.Second, during: []string{"(*writer).closeConn", "(*ShardManager).Stop", "(*ShardManager).finish"}, reach: func(c *cell) {
		c.settle()
		hole(c, target{peer: c.only()})
	}},
	{name: "a stuck write", phase: steady, setup: small, takes: 2 * time.Second, waits: []string{"(*pen).write"}, reach: stuck},
	{name: "a stuck pong", phase: steady, setup: small, takes: 2 * time.Second, waits: []string{"wsconn.(*Conn).control"}, reach: func(c *cell) {
		c.settle()
		p := c.only()
		p.Net().(*wstest.Conn).StallRead(true)
		c.send(3900)
		p.Net().Write([]byte(harness.RawBytes(harness.Fin|harness.OpPing, strings.Repeat("p", 125))))
	}},
	{name: "a stuck close frame", phase: steady, setup: small, takes: 2 * time.Second, during: []string{"wsconn.(*Conn).SendClose"}, reach: func(c *cell) {
		c.settle()
		c.only().Net().(*wstest.Conn).StallRead(true)
		c.send(3990)
	}},
	{name: "a write that outlives the reader", phase: steady, setup: small, takes: 900 * time.Millisecond, waits: []string{"(*reader).finish"}, reach: func(c *cell) {
		stuck(c)
		c.only().Net().Write([]byte(harness.RawBytes(harness.Fin|harness.OpClose, harness.ClosePayload(1001, ""))))
		nap(100 * time.Millisecond)
	}},
	{name: "half a message", phase: steady, waits: []string{"wsconn.(*Conn).whole", "wsconn.(*input).fetch"}, reach: func(c *cell) {
		c.settle()
		p := c.only()
		c.hush(p)
		p.Net().Write([]byte(harness.RawBytes(harness.Fin|harness.OpText, long)[:500]))
	}},
	{name: "a flood", phase: steady, reach: func(c *cell) {
		c.settle()
		p := c.only()
		c.rage(time.Microsecond, func() error { return p.Send("flood") })
		nap(time.Millisecond)
	}},
	{name: "OnMessage", phase: steady, waits: []string{"(*reader).readLoop"}, reach: func(c *cell) {
		c.settle()
		c.set(func(h *hooks) { h.message = func(ctx context.Context, _ wsshard.Message) { waitFor(ctx) } })
		nap(time.Second)
	}},
	{name: "what the peer had sent", phase: steady, waits: []string{"(*writer).drain"}, with: func(cfg *wsshard.Config) {
		cfg.Health.PingInterval, cfg.Health.PongTimeout = time.Second, time.Second
	}, reach: func(c *cell) {
		c.settle()
		c.set(func(h *hooks) { h.message = func(ctx context.Context, _ wsshard.Message) { waitFor(ctx) } })
		nap(150 * time.Millisecond)
		c.only().Kill()
		c.until("written in vain", func() bool { return strings.Contains(strings.Join(harness.Ours(), "\n"), ").drain(") })
	}},
	{name: "OnMessage, heedless", phase: steady, heedless: true, reach: func(c *cell) {
		c.settle()
		c.set(func(h *hooks) { h.message = func(context.Context, wsshard.Message) { <-c.released } })
		nap(time.Second)
	}},
	{name: "OnEvent, heedless", phase: steady, heedless: true, waits: []string{"(*events).deliver"}, reach: func(c *cell) {
		c.settle()
		c.set(func(h *hooks) { h.event = func() { <-c.released } })
		c.M.Reconnect(0)
		nap(time.Second)
	}},
	{name: "OnDisconnect, heedless", phase: backoff, heedless: true, waits: []string{"(*reader).finish", "(*core).apart"}, reach: func(c *cell) {
		c.settle()
		c.set(func(h *hooks) { h.disconnect = func() { <-c.released } })
		c.only().Kill()
		nap(time.Second)
	}},

	{name: "backoff", phase: backoff, waits: []string{"(*shard).pause"}, reach: lose, with: func(cfg *wsshard.Config) {
		cfg.Backoff.InitialDelay, cfg.Backoff.MaxDelay, cfg.Backoff.DisableJitter = time.Hour, time.Hour, true
	}},
	{name: "parked", phase: backoff, waits: []string{"(*shard).pause"}, reach: lose, with: func(cfg *wsshard.Config) { cfg.Connection.MaxConnectAttempts = 2 }},
	{name: "Retry-After", phase: backoff, waits: []string{"(*opening).admission"}, reach: func(c *cell) {
		c.settle()
		c.Srv.Reject(func(*http.Request) (int, http.Header, string) { return 429, http.Header{"Retry-After": {"600"}}, "" })
		c.only().Kill()
		nap(time.Minute)
	}},
	{name: "breaker", phase: backoff, waits: []string{"(*opening).admission"}, reach: lose, with: func(cfg *wsshard.Config) {
		cfg.Connection.CircuitBreakerThreshold, cfg.Connection.CircuitBreakerResetTimeout = 1, time.Hour
	}},
	{name: "budget", phase: backoff, waits: []string{"(*opening).admission", "(*slidingLimiter).Wait", "sleep"}, reach: lose, with: func(cfg *wsshard.Config) {
		cfg.Connection.Limiter = wsshard.NewConnectLimiter(2, 3*time.Minute)
	}, setup: func(c *cell) { c.expensive = true }},
	{name: "OnError", phase: backoff, waits: []string{"(*core).apart"}, reach: func(c *cell) {
		c.settle()
		c.set(func(h *hooks) { h.judge = func(ctx context.Context) { waitFor(ctx) } })
		c.only().Kill()
		nap(time.Second)
	}},

	{name: "a turn", phase: switching, waits: []string{"(*opening).admission", "(*change).prepare"}, with: func(cfg *wsshard.Config) {
		cfg.MaxSubscriptionsPerShard, cfg.Switchover.MaxConcurrent = 1, 1
	}, reach: func(c *cell) {
		c.settle()
		c.Net.OnDial(harness.HangingDial)
		for id := range 2 {
			c.joined.Go(func() { c.M.HotSwitchover(context.Background(), id) })
		}
		nap(time.Second)
	}},
	{name: "dial", phase: switching, waits: []string{"(*change).prepare", "(*dialer).tcp", "(*ShardManager).HotSwitchover"}, reach: func(c *cell) {
		c.settle()
		c.Net.OnDial(harness.HangingDial)
		c.moving(time.Second)
	}},
	{name: "handshake", phase: switching, waits: []string{"(*change).prepare", "(*dialer).upgrade"}, reach: func(c *cell) {
		c.settle()
		mumbles("")(c, target{})
		c.moving(time.Second)
	}},
	{name: "Retry-After", phase: switching, waits: []string{"(*change).prepare", "(*opening).admission"}, reach: func(c *cell) {
		c.settle()
		c.Srv.Reject(func(*http.Request) (int, http.Header, string) { return 429, http.Header{"Retry-After": {"60"}}, "" })
		c.switchover()
		c.moving(time.Second)
	}},
	{name: "OnConnect", phase: switching, waits: []string{"(*change).prepare", "(*core).apart"}, reach: func(c *cell) {
		c.settle()
		c.set(func(h *hooks) {
			h.connect = func(ctx context.Context) ([]wsshard.Message, error) { return nil, waitFor(ctx) }
		})
		c.moving(time.Second)
	}},
	{name: "pace", phase: switching, waits: []string{"(*change).prepare"}, with: patiently(func(cfg *wsshard.Config) {
		cfg.Subscribe.MessagesPerWindow, cfg.Subscribe.Window, cfg.Subscribe.MaxPerMessage = 4, 10*time.Second, 1
	}), reach: func(c *cell) {
		c.settle()
		c.Subscribe("c", "d")
		nap(15 * time.Second)
		c.moving(time.Second)
	}},
	{name: "answers", phase: switching, waits: []string{"(*change).prepare"}, reach: func(c *cell) {
		c.settle()
		c.Topics.Ack(false)
		c.moving(time.Second)
	}},
	{name: "linger", phase: switching, waits: []string{"(*change).prepare"}, reach: func(c *cell) { c.settle(); c.moving(150 * time.Millisecond) }},
	{name: "drain", phase: switching, waits: []string{"(*change).cutOver", "(*writer).drain"}, reach: func(c *cell) {
		c.settle()
		c.only().Net().(*wstest.Conn).StallRead(true)
		c.moving(time.Second)
	}},
	{name: "the last message of the old", phase: switching, waits: []string{"(*change).cutOver"}, reach: func(c *cell) {
		c.settle()
		c.set(func(h *hooks) { h.message = func(ctx context.Context, _ wsshard.Message) { waitFor(ctx) } })
		c.moving(15 * time.Second)
	}},
	{name: "the first message of the new", phase: switching, waits: []string{"(*session).flush"}, reach: func(c *cell) {
		c.heldBack()
		c.moving(time.Second)
	}},
	{name: "a full hold", phase: switching, waits: []string{"(*reader).hold", "(*session).flush"}, with: func(cfg *wsshard.Config) { cfg.Switchover.HoldMessages = 5 },
		reach: func(c *cell) { c.heldBack(); c.moving(2 * time.Second) }},
	{name: "a new one that failed, heedless", phase: switching, heedless: true, waits: []string{"(*change).failed"}, reach: func(c *cell) {
		c.settle()
		c.Topics.Ack(false)
		c.set(func(h *hooks) { h.disconnect = func() { <-c.released } })
		c.Srv.OnOpen(func(p *wstest.Peer) { time.AfterFunc(100*time.Millisecond, p.Kill) })
		c.moving(time.Second)
	}},
	{name: "the old one's OnMessage, heedless", phase: switching, heedless: true, waits: []string{"(*change).cutOver"}, reach: func(c *cell) {
		c.settle()
		c.set(func(h *hooks) { h.message = func(context.Context, wsshard.Message) { <-c.released } })
		c.moving(15 * time.Second)
	}},
	{name: "switchovers disabled", phase: switching, takes: 500 * time.Millisecond, waits: []string{"(*shard).switchover"}, with: func(cfg *wsshard.Config) { cfg.DisableHotSwitchover = true },
		reach: func(c *cell) {
			c.settle()
			hole(c, target{peer: c.only()})
			c.moving(500 * time.Millisecond)
		}},
}
