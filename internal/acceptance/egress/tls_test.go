package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: whom does a connection with TLS trust, and how does it end?

// overTLS is a config that trusts an authority which is made in the bubble.
func overTLS() (wsshard.Config, *tls.Config) {
	cfg := harness.DialsOnly()
	cfg.Connection.TLSConfig = &tls.Config{}
	return cfg, cfg.Connection.TLSConfig
}

// secureWorld runs a script against a raw server with TLS. New has copied the config by then: its roots are set before.
func secureWorld(t *testing.T, cfg wsshard.Config, s *harness.Stepper, script func(w *harness.World, ca *wstest.Authority, server *tls.Config, raw *harness.RawServer)) {
	t.Helper()
	cfg.Connection.TLSConfig.VerifyConnection, cfg.Connection.TLSConfig.RootCAs = nil, x509.NewCertPool()
	roots := cfg.Connection.TLSConfig.RootCAs // shared by the clone
	harness.Bubble(t, cfg, s.With, func(w *harness.World) {
		ca := wstest.NewAuthority(w.T)
		roots.AddCert(ca.Cert)
		server := &tls.Config{Certificates: []tls.Certificate{ca.Issue(48*time.Hour, "raw")}}
		s.App.Addr = "wss://raw/"
		raw := w.ServeRaw("raw:443", server, func(c *harness.RawConn) {
			c.Upgrade()
			c.Gone()
		})
		w.Net.OnDial(func(_ context.Context, _ int, addr string) error {
			if addr != "raw:443" && addr != "[::1]:443" {
				w.T.Errorf("dialled %s", addr)
			}
			return nil
		})
		script(w, ca, server, raw)
	})
}

// What cannot be trusted is refused, by a typed error, and asked for nothing; and it is asked again, in the same way.
func TestTLSThatCannotBeTrusted(t *testing.T) {
	for name, c := range map[string]struct {
		serve func(ca *wstest.Authority, server *tls.Config)
		is    func(err error) bool
	}{
		"expired": {
			func(ca *wstest.Authority, server *tls.Config) {
				server.Certificates[0] = ca.IssueFrom(time.Now().Add(-2*time.Hour), time.Hour, "raw")
			},
			func(err error) bool {
				var e x509.CertificateInvalidError
				return errors.As(err, &e) && e.Reason == x509.Expired
			},
		},
		"not yet valid": {
			func(ca *wstest.Authority, server *tls.Config) {
				server.Certificates[0] = ca.IssueFrom(time.Now().Add(time.Hour), time.Hour, "raw")
			},
			func(err error) bool { var e x509.CertificateInvalidError; return errors.As(err, &e) },
		},
		"wrong name": {
			func(ca *wstest.Authority, server *tls.Config) {
				server.Certificates[0] = ca.Issue(time.Hour, "other", "*.raw")
			},
			func(err error) bool { var e x509.HostnameError; return errors.As(err, &e) },
		},
		"unknown authority": {
			func(ca *wstest.Authority, server *tls.Config) {
				server.Certificates[0] = wstest.NewAuthority(ca.T).Issue(time.Hour, "raw")
			},
			func(err error) bool { var e x509.UnknownAuthorityError; return errors.As(err, &e) },
		},
		"an old version": {
			func(_ *wstest.Authority, server *tls.Config) {
				server.MinVersion, server.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
			},
			func(err error) bool { return strings.Contains(err.Error(), "protocol version") },
		},
		"no certificate": {
			func(_ *wstest.Authority, server *tls.Config) { server.Certificates = nil },
			func(err error) bool { var e *net.OpError; return errors.As(err, &e) && e.Op == "remote error" },
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _ := overTLS()
			s := &harness.Stepper{}
			secureWorld(t, cfg, s, func(w *harness.World, ca *wstest.Authority, server *tls.Config, raw *harness.RawServer) {
				good := server.Certificates
				mu, broken := sync.Mutex{}, server.Clone()
				broken.Certificates = slices.Clone(good)
				c.serve(ca, broken)
				fixed := server.Clone()
				server.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
					mu.Lock()
					defer mu.Unlock()
					return broken, nil
				}
				w.Begin("a")
				harness.After(200 * time.Millisecond)
				errs, _ := s.Failures()
				for _, err := range errs {
					var de *wsshard.DialError
					if !errors.As(err, &de) || de.URL != "wss://raw/…" || !c.is(err) {
						t.Errorf("failed with %v", err)
					}
				}
				if len(errs) != 2 || w.Net.Dials() != 2 {
					t.Errorf("%d dials, failed with %v", w.Net.Dials(), errs)
				}
				mu.Lock()
				broken = fixed
				mu.Unlock()
				w.Sync()
				for i := range 2 {
					if raw.Conn(i).Req != nil {
						t.Errorf("a server that is not trusted was asked: %v", raw.Conn(i).Req)
					}
				}
			})
		})
	}
}

// TLS that breaks after its handshake is no answer of the server's: it speaks against the host, as one that broke before.
func TestTLSThatBreaksInTheAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		junk string
		is   func(err error) bool
	}{
		"no record":  {"HTTP/1.1 400 Bad Request\r\n\r\n", func(err error) bool { var e tls.RecordHeaderError; return errors.As(err, &e) }},
		"bad record": {"\x17\x03\x03\x00\x20" + strings.Repeat("x", 32), func(err error) bool { var e *net.OpError; return errors.As(err, &e) && e.Op == "local error" }},
	} {
		t.Run(name, func(t *testing.T) {
			s := &harness.Stepper{}
			cfg, _ := overTLS()
			roots := x509.NewCertPool()
			cfg.Connection.TLSConfig.RootCAs = roots
			cfg.Connection.CircuitBreakerThreshold, cfg.Connection.CircuitBreakerResetTimeout = 2, time.Minute
			harness.Bubble(t, cfg, s.With, func(w *harness.World) {
				s.App.Addr = "wss://raw/canary"
				ca := wstest.NewAuthority(t)
				roots.AddCert(ca.Cert)
				server := &tls.Config{Certificates: []tls.Certificate{ca.Issue(time.Hour, "raw")}}
				w.ServeRaw("raw:443", server, func(conn *harness.RawConn) {
					io.WriteString(conn.Conn.(*tls.Conn).NetConn(), c.junk)
				})
				w.Begin("a")
				harness.After(200 * time.Millisecond)
				errs, _ := s.Failures()
				var he *wsshard.HandshakeError
				if len(errs) < 2 || !c.is(errs[0]) || errors.As(errs[0], &he) {
					t.Errorf("failed with %v", errs)
				}
				if n := w.M.Metrics().CircuitBreakerTrips; n != 1 {
					t.Errorf("the breaker tripped %d times", n)
				}
			})
		})
	}
}

// A port that speaks no TLS gets none of the request.
func TestPlainServerBehindWSS(t *testing.T) {
	s := &harness.Stepper{}
	harness.Bubble(t, harness.DialsOnly(), s.With, func(w *harness.World) {
		s.App.Addr = "wss://raw/canary"
		var heard []byte
		var mu sync.Mutex
		ln := w.Net.Listen("raw:443")
		w.T.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
				b, _ := io.ReadAll(c)
				mu.Lock()
				heard = append(heard, b...)
				mu.Unlock()
				c.Close()
			}
		}()
		w.Begin("a")
		harness.After(200 * time.Millisecond)
		errs, _ := s.Failures()
		var re tls.RecordHeaderError
		if len(errs) != 2 || !errors.As(errs[0], &re) {
			t.Errorf("failed with %v", errs)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(heard) == 0 || strings.Contains(string(heard), "canary") || strings.Contains(string(heard), "GET") {
			t.Errorf("it heard %q", heard)
		}
	})
}

// The certificate runs out while the connection lives: the next one is refused, whatever the session cache holds.
func TestTLSThatExpiresWhileRunning(t *testing.T) {
	cfg, _ := overTLS()
	s := &harness.Stepper{}
	secureWorld(t, cfg, s, func(w *harness.World, ca *wstest.Authority, server *tls.Config, raw *harness.RawServer) {
		w.Start("a")
		harness.After(49 * time.Hour)
		w.WantState(0, wsshard.ShardConnected)
		raw.Conn(0).Conn.(*tls.Conn).NetConn().Close()
		harness.After(150 * time.Millisecond)
		errs, _ := s.Failures()
		var e x509.CertificateInvalidError
		if len(errs) != 2 || !errors.As(errs[1], &e) || e.Reason != x509.Expired {
			t.Errorf("failed with %v", errs)
		}
	})
}

// A client's certificate, where the server asks for one.
func TestTLSClientCertificate(t *testing.T) {
	for _, has := range []bool{true, false} {
		cfg, client := overTLS()
		s := &harness.Stepper{}
		var mine tls.Certificate
		client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &mine, nil }
		secureWorld(t, cfg, s, func(w *harness.World, ca *wstest.Authority, server *tls.Config, raw *harness.RawServer) {
			server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool
			server.MaxVersion = tls.VersionTLS12 // in 1.3 the refusal comes after the handshake, and may be lost with the connection
			if has {
				mine = ca.Issue(time.Hour, "me")
			}
			w.Begin("a")
			harness.After(50 * time.Millisecond)
			errs, _ := s.Failures()
			var oe *net.OpError
			if has && (len(errs) > 0 || w.M.Metrics().ActiveConnections != 1) {
				t.Errorf("failed with %v", errs)
			} else if !has && (len(errs) != 1 || !errors.As(errs[0], &oe) || oe.Op != "remote error") {
				t.Errorf("failed with %v", errs)
			}
		})
	}
}

// The user's config is copied and not touched, the name comes from the URL, and what cannot be upgraded is not offered.
func TestTLSConfigIsOurs(t *testing.T) {
	cfg, client := overTLS()
	client.NextProtos = []string{"h2", "http/1.1"}
	s := &harness.Stepper{}
	secureWorld(t, cfg, s, func(w *harness.World, ca *wstest.Authority, server *tls.Config, raw *harness.RawServer) {
		client.InsecureSkipVerify, client.MinVersion = true, tls.VersionTLS13+1
		var hello *tls.ClientHelloInfo
		server.NextProtos = []string{"h2", "http/1.1"}
		server.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { hello = h; return nil, nil }
		w.Start("a")
		if hello.ServerName != "raw" || !slices.Equal(hello.SupportedProtos, []string{"http/1.1"}) {
			t.Errorf("asked for %q, offers %q", hello.ServerName, hello.SupportedProtos)
		}
		if client.ServerName != "" || client.ClientSessionCache != nil || len(client.NextProtos) != 2 {
			t.Error("the user's config was changed")
		}
	})
}

func TestTLSServerName(t *testing.T) {
	cfg, client := overTLS()
	client.ServerName = "raw"
	s := &harness.Stepper{}
	secureWorld(t, cfg, s, func(w *harness.World, ca *wstest.Authority, server *tls.Config, raw *harness.RawServer) {
		w.ServeRaw("[::1]:443", server, func(c *harness.RawConn) { c.Upgrade(); c.Gone() })
		s.App.Addr = "wss://[::1]/"
		w.Start("a")
	})
	cfg, _ = overTLS()
	secureWorld(t, cfg, s, func(w *harness.World, ca *wstest.Authority, _ *tls.Config, raw *harness.RawServer) {
		server := &tls.Config{Certificates: []tls.Certificate{ca.Issue(time.Hour, "::1")}}
		w.ServeRaw("[::1]:443", server, func(c *harness.RawConn) { c.Upgrade(); c.Gone() })
		s.App.Addr = "wss://[::1]/"
		w.Start("a")
	})
}

// One session cache for all shards: whoever comes after the first resumes.
func TestTLSSessionsAreShared(t *testing.T) {
	cfg, _ := overTLS()
	cfg.MaxSubscriptionsPerShard = 1
	cfg.Connection.MaxConcurrentDials = 1 // one after the other: a ticket serves one dial
	s := &harness.Stepper{}
	secureWorld(t, cfg, s, func(w *harness.World, ca *wstest.Authority, server *tls.Config, raw *harness.RawServer) {
		w.Start("a", "b", "c", "d")
		for i := range 4 {
			if got := raw.Conn(i).Conn.(*tls.Conn).ConnectionState().DidResume; got != (i > 0) {
				t.Errorf("connection %d resumed: %v", i, got)
			}
		}
	})
}

// Neither a peer that does not read nor one that never said goodbye keeps a TLS connection from ending.
func TestTLSConnectionsEnd(t *testing.T) {
	cfg, _ := overTLS()
	s := &harness.Stepper{}
	secureWorld(t, cfg, s, func(w *harness.World, ca *wstest.Authority, server *tls.Config, raw *harness.RawServer) {
		w.Start("a")
		conn := raw.Conn(0).Conn.(*tls.Conn).NetConn()
		conn.Close() // no close_notify
		harness.After(50 * time.Millisecond)
		errs, _ := s.Failures()
		if len(errs) != 1 || !errors.Is(errs[0], io.ErrUnexpectedEOF) && !errors.Is(errs[0], syscall.EPIPE) {
			t.Errorf("lost with %v", errs)
		}
		harness.After(time.Minute)
		w.WantState(0, wsshard.ShardConnected)
		raw.Conn(1).Conn.(*tls.Conn).NetConn().(interface{ StallRead(bool) }).StallRead(true)
		go w.M.Send(context.Background(), 0, wsshard.Text(strings.Repeat("x", 1<<20)))
		harness.After(time.Second)
		stop := time.Now()
		w.M.Stop(context.Background())
		if d := time.Since(stop); d > 2*time.Second {
			t.Errorf("Stop took %v", d)
		}
	})
}

// The same over real sockets.
func TestTLSOverSockets(t *testing.T) {
	up := websocket.Upgrader{}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		for {
			kind, data, err := ws.ReadMessage()
			if err != nil {
				return
			}
			ws.WriteMessage(kind, append([]byte("echo "), data...))
		}
	}))
	defer srv.Close()
	got := make(chan string, 10)
	a := &harness.App{Addr: "wss://" + srv.Listener.Addr().String() + "/"}
	a.Message = func(_ context.Context, msg wsshard.Message, _ wsshard.ConnectionState) { got <- msg.String() }
	m, err := wsshard.New(a, wsshard.Config{Connection: wsshard.ConnectionConfig{TLSConfig: srv.Client().Transport.(*http.Transport).TLSClientConfig}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	m.Subscribe("a")
	m.Start(ctx)
	if err := m.Sync(ctx); err != nil {
		t.Error(err)
	}
	select {
	case text := <-got:
		if text != "echo +a" {
			t.Errorf("got %q", text)
		}
	case <-ctx.Done():
		t.Error("nothing came")
	}
	if err := m.Stop(ctx); err != nil {
		t.Error(err)
	}
}
