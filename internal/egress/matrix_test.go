package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what is asked of each proxy? goproxy_test.go and parts_test.go say which proxies there are.

const (
	// patience is how long a test waits for what should come at once.
	patience = 30 * time.Second

	user, wrongPassword = "alice", "wr0ng:p@ss"
)

// place is one family of addresses.
type place struct {
	family  string
	host    string // where proxies listen
	source  string // an address of the client's, not its first
	ws, wss string // URLs of the server, by a name that only proxies know
	refused string // one where nobody listens
}

// part is one kind of proxy.
type part struct {
	name     string
	scheme   string
	password string // asked for, with user; empty: it takes none
	start    func(t *testing.T, at place, password string) *running
	cannot   map[string]string // by family: why it cannot serve there
}

// running is a proxy that runs.
type running struct {
	host    string // as its certificate says
	port    string
	kill    func() // without a farewell
	restart func() // on the same port
	saw     func(client string) bool
}

// results is the matrix.
type results struct {
	mu    sync.Mutex
	cells map[string]string // by "part | family | source | scheme | trial"
}

var trials = []string{"ok", "bad password", "target refused", "proxy killed"}

func (r *results) set(cell []string, verdict string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cells == nil {
		r.cells = map[string]string{}
	}
	r.cells[strings.Join(cell, " | ")] = verdict
}

// report logs the matrix, one line for all trials of a cell, and counts.
func (r *results) report(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := map[string]int{}
	rows := map[string][]string{}
	for _, cell := range slices.Sorted(maps.Keys(r.cells)) {
		i := strings.LastIndex(cell, " | ")
		verdict := r.cells[cell]
		rows[cell[:i]] = append(rows[cell[:i]], cell[i+3:]+": "+verdict)
		switch kind, _, _ := strings.Cut(verdict, ":"); kind {
		case "ok", "FAILED":
			counts[kind]++
		default:
			counts["cannot be"]++
		}
	}
	for _, row := range slices.Sorted(maps.Keys(rows)) {
		t.Logf("%s | %s", row, strings.Join(rows[row], ", "))
	}
	t.Logf("%d cells: %d ok, %d cannot be and say why, %d failed", len(r.cells), counts["ok"], counts["cannot be"], counts["FAILED"])
}

// run fills in the part's cells of one place.
func (p part) run(t *testing.T, at place, srv *upstream, roots *x509.CertPool, table *results) {
	kinds := map[string]string{"ws": at.ws, "wss": at.wss}
	each := func(f func(scheme, source string, cell []string)) {
		for _, source := range []string{"", at.source} {
			for _, scheme := range []string{"ws", "wss"} {
				shown := "source " + source
				if source == "" {
					shown = "no source"
				}
				f(scheme, source, []string{p.name, at.family, shown, scheme})
			}
		}
	}
	if why := p.cannot[at.family]; why != "" {
		each(func(_, _ string, cell []string) {
			for _, trial := range trials {
				table.set(append(cell, trial), "cannot: "+why)
			}
		})
		return
	}
	proxy := p.start(t, at, p.password)
	config := func(source, password string) wsshard.Config {
		u := url.URL{Scheme: p.scheme, Host: net.JoinHostPort(proxy.host, proxy.port)}
		if p.password != "" {
			u.User = url.UserPassword(user, password)
		}
		cfg := wsshard.Config{
			Connection: wsshard.ConnectionConfig{
				Proxy: u.String(), TLSConfig: &tls.Config{RootCAs: roots}, ConnectTimeout: 10 * time.Second, CircuitBreakerThreshold: -1,
			},
			Backoff: wsshard.BackoffConfig{InitialDelay: 20 * time.Millisecond, MaxDelay: 200 * time.Millisecond},
		}
		if source != "" {
			cfg.Connection.SourceIPs = []string{source}
		}
		return cfg
	}
	verdict := func(cell []string, trial string, err error) {
		if err != nil {
			t.Errorf("%s | %s: %v", strings.Join(cell, " | "), trial, err)
			table.set(append(cell, trial), "FAILED: "+err.Error())
			return
		}
		table.set(append(cell, trial), "ok")
	}

	alive := map[string]*feed{}
	each(func(scheme, source string, cell []string) {
		f := newFeed(kinds[scheme], strings.Join(cell, "/"))
		err := f.start(t, config(source, p.password))
		if err == nil {
			err = srv.wait(f.topic, 1)
		}
		if err == nil && source != "" && !proxy.saw(source) {
			err = fmt.Errorf("the proxy never saw %s", source)
		}
		verdict(cell, "ok", err)
		alive[strings.Join(cell, "/")] = f

		if p.password == "" {
			table.set(append(cell, "bad password"), "cannot: it takes none")
		} else {
			verdict(cell, "bad password", fails(t, kinds[scheme], config(source, wrongPassword), "auth"))
		}
		refused := at.refused
		if scheme == "wss" {
			refused = strings.Replace(refused, "ws:", "wss:", 1)
		}
		verdict(cell, "target refused", fails(t, refused, config(source, p.password), "connect"))
	})

	proxy.kill()
	for _, f := range alive {
		f.wantDown(t)
	}
	proxy.restart()
	each(func(_, _ string, cell []string) {
		f := alive[strings.Join(cell, "/")]
		err := f.sync(t)
		if err == nil {
			err = srv.wait(f.topic, 1) // on one connection, which is a new one
		}
		verdict(cell, "proxy killed", err)
		if err := f.m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// feed is a manager with one topic.
type feed struct {
	url, topic string
	m          *wsshard.ShardManager[string]
	down       chan error // of OnDisconnect
	failed     chan error // of OnError
	park       bool
}

func newFeed(url, topic string) *feed {
	return &feed{url: url, topic: topic, down: make(chan error, 1000), failed: make(chan error, 100_000)}
}

func (f *feed) URL(context.Context, wsshard.ConnectionState) (string, error) { return f.url, nil }

func (f *feed) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("+" + strings.Join(req.Subs, ",")), nil
}

func (f *feed) OnMessage(context.Context, wsshard.Message, wsshard.ConnectionState) {}

func (f *feed) OnDisconnect(_ context.Context, cause error, _ wsshard.ConnectionState) {
	f.down <- cause
}

func (f *feed) OnError(_ context.Context, err error, _ wsshard.ConnectionState) bool {
	f.failed <- err
	return !f.park
}

func (f *feed) start(t *testing.T, cfg wsshard.Config) (err error) {
	if f.m, err = wsshard.New[string](f, cfg); err != nil {
		return err
	}
	f.m.Subscribe(f.topic)
	if err := f.m.Start(context.Background()); err != nil {
		return err
	}
	return f.sync(t)
}

func (f *feed) sync(t *testing.T) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := f.m.Sync(ctx)
	if err == nil {
		return nil
	}
	for {
		select {
		case failed := <-f.failed:
			err = errors.Join(err, failed)
		default:
			return err
		}
	}
}

// wantDown waits until the connection is lost and the proxy was seen to be gone.
func (f *feed) wantDown(t *testing.T) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-f.down:
	case <-late.C:
		t.Errorf("%s: its connection outlived the proxy", f.topic)
		return
	}
	for {
		select {
		case err := <-f.failed:
			var pe *wsshard.ProxyError
			if errors.As(err, &pe) && pe.Step == "dial" {
				return
			}
		case <-late.C:
			t.Errorf("%s: no attempt failed to dial the proxy", f.topic)
			return
		}
	}
}

// fails dials once and wants it to fail at this step of the proxy's.
func fails(t *testing.T, target string, cfg wsshard.Config, step string) error {
	f := newFeed(target, "x")
	f.park = true
	m, err := wsshard.New[string](f, cfg)
	if err != nil {
		return err
	}
	m.Subscribe("x")
	if err := m.Start(context.Background()); err != nil {
		return err
	}
	defer m.Stop(context.Background())
	select {
	case err = <-f.failed:
	case <-time.After(patience):
		return errors.New("it neither failed nor could it connect")
	}
	var pe *wsshard.ProxyError
	if !errors.As(err, &pe) || pe.Step != step {
		return fmt.Errorf("%w; want a ProxyError of step %s", err, step)
	}
	if u, _ := url.Parse(cfg.Connection.Proxy); u.User != nil {
		password, _ := u.User.Password()
		for _, text := range []string{fmt.Sprintf("%v %+v %#v", err, err, err), fmt.Sprintf("%#v", pe), fmt.Sprintf("%#v", pe.Err)} {
			if strings.Contains(text, password) || strings.Contains(text, u.User.String()) {
				return fmt.Errorf("a password is shown: %s", text)
			}
		}
	}
	return nil
}
