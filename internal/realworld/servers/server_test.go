package servers

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: how does a test run a NATS server, and what does the server itself say of its clients?

// natsServer is a server in this process. Its ports stay the same when it is started again.
type natsServer struct {
	*server.Server
	t     *testing.T
	opts  *server.Options
	roots *x509.CertPool // nil: it speaks no TLS
}

// startNATS starts a server; adjust may change its options.
func startNATS(t *testing.T, adjust ...func(*natsServer)) *natsServer {
	t.Helper()
	n := &natsServer{t: t, opts: &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT,
		HTTPHost: "127.0.0.1", HTTPPort: server.RANDOM_PORT,
		Websocket: server.WebsocketOpts{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoTLS: true},
		NoLog:     true, NoSigs: true,
	}}
	for _, f := range adjust {
		f(n)
	}
	n.start()
	t.Cleanup(n.stop)
	port := func(addr net.Addr) int { return addr.(*net.TCPAddr).Port }
	n.opts.Port, n.opts.HTTPPort = port(n.Addr()), port(n.MonitorAddr())
	if _, err := fmt.Sscanf(n.url()[strings.LastIndex(n.url(), ":"):], ":%d", &n.opts.Websocket.Port); err != nil {
		t.Fatal(err)
	}
	return n
}

// secured gives the server a certificate for its WebSocket listener.
func secured(n *natsServer) {
	ts := httptest.NewTLSServer(nil)
	defer ts.Close()
	n.roots = x509.NewCertPool()
	n.roots.AddCert(ts.Certificate())
	n.opts.Websocket.NoTLS = false
	n.opts.Websocket.TLSConfig = &tls.Config{Certificates: ts.TLS.Certificates}
}

func compressing(n *natsServer) { n.opts.Websocket.Compression = true }

// start starts the server, again if need be: somebody's outgoing connection may sit on a port for a moment.
func (n *natsServer) start() {
	n.t.Helper()
	for range 20 {
		s, err := server.NewServer(n.opts.Clone())
		if err != nil {
			n.t.Fatal(err)
		}
		s.Start()
		if n.Server = s; s.ReadyForConnections(3 * time.Second) {
			return
		}
		n.stop()
	}
	n.t.Fatal("the NATS server does not start")
}

func (n *natsServer) stop() {
	n.Shutdown()
	n.WaitForShutdown()
}

func (n *natsServer) url() string { return n.WebsocketURL() }

func (n *natsServer) dial() *nats.Conn {
	n.t.Helper()
	return dialNATS(n.t, n.ClientURL())
}

// dialNATS connects a client over plain TCP. It comes back by itself, and keeps nothing to be sent later.
func dialNATS(t *testing.T, url string, more ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, append(more, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0), nats.ReconnectBufSize(-1))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// client is a connection as the monitoring page shows it.
type client struct {
	CID           uint64   `json:"cid"`
	Name          string   `json:"name"`
	TLS           string   `json:"tls_version"`
	Subscriptions []string `json:"subscriptions_list"`
}

// monitor reads a server's monitoring page.
type monitor struct {
	addr string
	http *http.Client
}

// clients asks for all connections, by name; "&subs=1" lists their subscriptions too.
func (m monitor) clients(query string) (map[string][]client, error) {
	resp, err := m.http.Get(fmt.Sprintf("http://%s/connz?limit=10000%s", m.addr, query))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var page struct {
		Connections []client `json:"connections"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		return nil, err
	}
	named := make(map[string][]client)
	for _, c := range page.Connections {
		named[c.Name] = append(named[c.Name], c)
	}
	return named, nil
}

// differ says in what the server's list differs from what is desired, by the name of a connection; "": in nothing.
func (m monitor) differ(desired map[string][]string) string {
	listed, err := m.clients("&subs=1")
	if err != nil {
		return err.Error()
	}
	for name, want := range desired {
		clients := listed[name]
		if len(clients) != 1 {
			return fmt.Sprintf("%s has %d connections", name, len(clients))
		}
		if got := clients[0].Subscriptions; !sameSet(got, want) {
			return fmt.Sprintf("%s: the server lists %d subscriptions, %d are desired", name, len(got), len(want))
		}
	}
	for name := range listed {
		if _, ok := desired[name]; !ok && name != "" {
			return name + " should not be there"
		}
	}
	return ""
}

// clients are the shards' connections.
func (n *natsServer) clients() map[int][]client {
	n.t.Helper()
	named, err := n.monitor().clients("")
	if err != nil {
		n.t.Fatal(err)
	}
	shards := make(map[int][]client)
	for name, clients := range named {
		var shard int
		if _, err := fmt.Sscanf(name, "shard %d", &shard); err == nil {
			shards[shard] = clients
		}
	}
	return shards
}

func (n *natsServer) monitor() monitor { return monitor{n.MonitorAddr().String(), http.DefaultClient} }

// wantSubscriptions waits until the server lists, shard by shard, one connection with exactly what is desired there; and
// that, all together, must be want.
func (n *natsServer) wantSubscriptions(s *Subscriber, want []string) {
	n.t.Helper()
	desired := make(map[string][]string)
	var all []string
	for shard := range s.Manager.ShardCount() {
		subs := s.Manager.ShardSubscriptions(shard)
		desired[fmt.Sprint("shard ", shard)] = subs
		all = append(all, subs...)
	}
	if !sameSet(all, want) {
		n.t.Fatalf("%d subjects are desired, want %d", len(all), len(want))
	}
	differ := ""
	defer func() {
		if differ != "" {
			n.t.Log(differ)
		}
	}()
	program.Eventually(n.t, "the server lists what is desired", func() bool {
		differ = n.monitor().differ(desired)
		return differ == ""
	})
}

// sameSet compares without order; what is twice in one must be twice in the other.
func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// subscriber starts a Subscriber with these subjects, whose deliveries and events go into book. It is stopped with the test.
func (n *natsServer) subscriber(book *account, cfg wsshard.Config, subjects ...string) *Subscriber {
	n.t.Helper()
	if n.roots != nil {
		cfg.Connection.TLSConfig = &tls.Config{RootCAs: n.roots}
	}
	if cfg.Backoff == (wsshard.BackoffConfig{}) {
		cfg.Backoff = wsshard.BackoffConfig{InitialDelay: 5 * time.Millisecond, MaxDelay: 100 * time.Millisecond}
	}
	s, err := New(Options{URL: n.url(), Name: "shard", Config: cfg, Receive: book.receive, Removed: book.record.removed, Observe: book.event})
	if err != nil {
		n.t.Fatal(err)
	}
	if _, err := s.Manager.Subscribe(subjects...); err != nil {
		n.t.Fatal(err)
	}
	if err := s.Manager.Start(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { stop(n.t, s) })
	synced(n.t, s)
	return s
}

// refusing denies some subjects to all clients.
func refusing(n *natsServer) {
	n.opts.NoAuthUser = "any"
	n.opts.Users = []*server.User{{Username: "any", Password: "any", Permissions: &server.Permissions{
		Subscribe: &server.SubjectPermission{Deny: []string{"secret.>"}},
	}}}
}

// failures lists the topics that an error of Sync names.
func failures(err error) (subs []string) {
	var one *wsshard.SubscriptionError[string]
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range many.Unwrap() {
			subs = append(subs, failures(err)...)
		}
	} else if errors.As(err, &one) {
		subs = append(subs, one.Sub)
	}
	slices.Sort(subs)
	return subs
}
