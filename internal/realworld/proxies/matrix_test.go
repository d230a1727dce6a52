package proxies

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
	// patience is how long a test waits for what should come at once, on a machine that has much else to do.
	patience = time.Minute

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
}

// running is a proxy that runs.
type running struct {
	host    string // as its certificate says
	port    string
	kill    func() // without a farewell
	restart func() // on the same port
	saw     func(client string) bool
}

// trials are the columns of the matrix.
var trials = []string{"ok", "bad password", "target refused", "proxy killed"}

// results is the matrix.
type results struct {
	mu   sync.Mutex
	rows map[string]map[string]string // by "part | family | source | scheme", then by trial
}

func (r *results) set(row, trial, verdict string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rows == nil {
		r.rows = map[string]map[string]string{}
	}
	if r.rows[row] == nil {
		r.rows[row] = map[string]string{}
	}
	r.rows[row][trial] = verdict
}

// report logs the matrix, and fails for a cell of these many rows that was not run.
func (r *results) report(t *testing.T, rows int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	const line = "%-31s | %-4s | %-17s | %-3s | %-14s | %-14s | %-14s | %s"
	t.Logf(line, "proxy", "", "source", "", "ok", "bad password", "target refused", "proxy killed")
	run, ok := 0, 0
	for _, row := range slices.Sorted(maps.Keys(r.rows)) {
		var fields []any
		for _, f := range strings.Split(row, " | ") {
			fields = append(fields, f)
		}
		for _, trial := range trials {
			verdict, found := r.rows[row][trial]
			switch {
			case !found:
				verdict = "NOT RUN"
			case verdict == "ok":
				ok++
				fallthrough
			default:
				run++
			}
			fields = append(fields, verdict)
		}
		t.Logf(line, fields...)
	}
	want := rows * len(trials)
	t.Logf("%d cells of %d were run: %d ok, %d failed", run, want, ok, run-ok)
	if run != want {
		t.Errorf("%d cells were not run", want-run)
	}
}

// rowsEach is how many rows a part has in one place: with and without a source address, ws and wss.
const rowsEach = 4

// run fills in the part's cells of one place.
func (p part) run(t *testing.T, at place, srv *upstream, roots *x509.CertPool, table *results) {
	kinds := map[string]string{"ws": at.ws, "wss": at.wss}
	each := func(f func(scheme, source, row string)) {
		for _, source := range []string{"", at.source} {
			for _, scheme := range []string{"ws", "wss"} {
				shown := source
				if source == "" {
					shown = "none"
				}
				f(scheme, source, strings.Join([]string{p.name, at.family, shown, scheme}, " | "))
			}
		}
	}
	proxy := p.start(t, at, p.password)
	config := func(source, password string) wsshard.Config {
		u := url.URL{Scheme: p.scheme, Host: net.JoinHostPort(proxy.host, proxy.port)}
		if password != "" {
			u.User = url.UserPassword(user, password)
		}
		cfg := wsshard.Config{
			Connection: wsshard.ConnectionConfig{
				Proxy: u.String(), TLSConfig: &tls.Config{RootCAs: roots}, ConnectTimeout: patience / 2, CircuitBreakerThreshold: -1,
			},
			Backoff: wsshard.BackoffConfig{InitialDelay: 20 * time.Millisecond, MaxDelay: 200 * time.Millisecond},
		}
		if source != "" {
			cfg.Connection.SourceIPs = []string{source}
		}
		return cfg
	}
	verdict := func(row, trial string, err error) {
		if err != nil {
			t.Errorf("%s | %s: %v", row, trial, err)
			table.set(row, trial, "FAILED")
			return
		}
		table.set(row, trial, "ok")
	}

	alive := map[string]*feed{}
	each(func(scheme, source, row string) {
		works := func(topic, password string) (*feed, error) {
			f := newFeed(kinds[scheme], topic)
			err := f.start(t, config(source, password))
			if err == nil {
				err = srv.wait(f.topic, 1)
			}
			if err == nil && source != "" && !proxy.saw(source) {
				err = fmt.Errorf("the proxy never saw %s", source)
			}
			return f, err
		}
		f, err := works(row, p.password)
		verdict(row, "ok", err)
		alive[row] = f

		if p.password == "" { // it asks for none, and is given none, whatever there is
			f, err := works(row+" | given a password", wrongPassword)
			verdict(row, "bad password", err)
			f.stop(t)
		} else {
			verdict(row, "bad password", fails(kinds[scheme], config(source, wrongPassword), "auth"))
		}
		verdict(row, "target refused", fails(strings.Replace(at.refused, "ws:", scheme+":", 1), config(source, p.password), "connect"))
	})

	proxy.kill()
	for _, f := range alive {
		f.wantDown(t)
	}
	proxy.restart()
	each(func(_, _, row string) {
		f := alive[row]
		err := f.sync(t)
		if err == nil {
			err = srv.wait(f.topic, 1) // on one connection, which is a new one
		}
		verdict(row, "proxy killed", err)
		f.stop(t)
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

func (f *feed) stop(t *testing.T) {
	t.Helper()
	if f.m == nil {
		return
	}
	if err := f.m.Stop(context.Background()); err != nil {
		t.Error(err)
	}
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
func fails(target string, cfg wsshard.Config, step string) error {
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
