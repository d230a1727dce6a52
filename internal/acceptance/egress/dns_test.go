package egress

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
	"golang.org/x/net/dns/dnsmessage"
)

// This file answers: what if a name has many addresses, or none, or its resolver is silent?

// nameServer answers for every name what the test says at the time.
type nameServer struct {
	unheard chan struct{} // cap 1; gets a token when somebody asks in vain

	mu     sync.Mutex // protects following fields
	addrs  []string   // none: there is no such name
	silent bool
}

// resolve makes ns the resolver of the process until the test ends.
func (ns *nameServer) resolve(t *testing.T) {
	ns.unheard = make(chan struct{}, 1)
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: ns.dial}
	t.Cleanup(func() { net.DefaultResolver = before })
}

func (ns *nameServer) set(silent bool, addrs ...string) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.silent, ns.addrs = silent, addrs
}

// dial is the Dial of a net.Resolver.
func (ns *nameServer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ns.mu.Lock()
	silent := ns.silent
	ns.mu.Unlock()
	if silent {
		select {
		case ns.unheard <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	client, server := net.Pipe()
	go ns.serve(server)
	return client, nil
}

// serve speaks DNS as over TCP: each message has its length before it.
func (ns *nameServer) serve(c net.Conn) {
	defer c.Close()
	size := make([]byte, 2)
	for {
		if _, err := io.ReadFull(c, size); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		reply := ns.reply(query)
		c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
	}
}

func (ns *nameServer) reply(query []byte) []byte {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	var msg dnsmessage.Message
	if msg.Unpack(query) != nil {
		return nil
	}
	msg.Header.Response, msg.Additionals = true, nil
	if len(ns.addrs) == 0 {
		msg.Header.RCode = dnsmessage.RCodeNameError
	}
	q := msg.Questions[0]
	for _, addr := range ns.addrs {
		if q.Type == dnsmessage.TypeA {
			msg.Answers = append(msg.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
				Body:   &dnsmessage.AResource{A: [4]byte(net.ParseIP(addr).To4())},
			})
		}
	}
	reply, _ := msg.Pack()
	return reply
}

// Names are resolved anew for each dial, all their addresses are tried, and a resolver that is silent costs no more than
// ConnectTimeout, and Stop nothing.
func TestNames(t *testing.T) {
	lns := make(map[string]net.Listener)
	port := "0"
	for _, ip := range []string{"127.0.0.1", "127.0.0.2"} {
		ln, err := net.Listen("tcp4", net.JoinHostPort(ip, port))
		if err != nil {
			t.Skip("needs two loopback addresses:", err)
		}
		defer ln.Close()
		_, port, _ = net.SplitHostPort(ln.Addr().String())
		lns[ip] = ln
	}
	reached := make(chan string, 100)
	for ip, ln := range lns {
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil); err == nil {
				reached <- ip
				for err == nil {
					_, _, err = ws.ReadMessage()
				}
				ws.Close()
			}
		})}
		go srv.Serve(ln)
		defer srv.Close()
	}
	ns := &nameServer{}
	ns.resolve(t)

	failed := make(chan error, 1)
	a := &harness.App{Addr: "ws://feed.test:" + port + "/"}
	a.Judge = func(err error) bool {
		select {
		case failed <- err:
		default:
		}
		return true
	}
	cfg := wsshard.Config{Backoff: wsshard.BackoffConfig{InitialDelay: time.Millisecond, MaxDelay: time.Millisecond}}
	cfg.Connection.CircuitBreakerResetTimeout = -1
	m, err := wsshard.New(a, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	want := func(ip string) {
		t.Helper()
		select {
		case got := <-reached:
			if got != ip {
				t.Errorf("reached %s, want %s", got, ip)
			}
		case <-ctx.Done():
			t.Fatal("reached nobody")
		}
		if err := m.Sync(ctx); err != nil {
			t.Fatal(err)
		}
	}
	m.Subscribe("a")
	m.Start(ctx)
	var no *net.DNSError
	var de *wsshard.DialError
	if err := <-failed; !errors.As(err, &no) || !no.IsNotFound || !errors.As(err, &de) {
		t.Errorf("failed with %v", err)
	}
	ns.set(false, "127.0.0.1")
	want("127.0.0.1")

	ns.set(false, "127.0.0.3", "127.0.0.2") // moved, and one of two is dead
	m.Reconnect(0)
	want("127.0.0.2")

	ns.set(true)
	m.Reconnect(0)
	<-ns.unheard
	if err := m.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

func TestSilentResolver(t *testing.T) {
	ns := &nameServer{}
	ns.set(true)
	ns.resolve(t)
	failed := make(chan error, 1)
	a := &harness.App{Addr: "ws://feed.test/", Judge: func(err error) bool { failed <- err; return false }}
	cfg := wsshard.Config{}
	cfg.Connection.ConnectTimeout = 50 * time.Millisecond
	m, err := wsshard.New(a, cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.Start(context.Background())
	if err := <-failed; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("failed with %v", err)
	}
	if err := m.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}
