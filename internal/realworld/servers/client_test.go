package servers

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/gob"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: how does a client run in a process of its own, and how is it told what to do?

// spec says what one manager of a client is to be.
type spec struct {
	URL       string
	Name      string // of its connections, see Options
	Subjects  []string
	PerShard  int
	Sources   []string // addresses
	PerSource int
	Proxy     string
	Roots     []byte // PEM; nil: the system's
	Health    wsshard.HealthConfig
	Hasty     bool // it comes back soon, and replaces its connections often
}

func (sp *spec) config() wsshard.Config {
	cfg := wsshard.Config{
		MaxSubscriptionsPerShard: sp.PerShard,
		Health:                   sp.Health,
		Connection:               wsshard.ConnectionConfig{SourceIPs: sp.Sources, ShardsPerIP: sp.PerSource, Proxy: sp.Proxy},
	}
	if sp.Roots != nil {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(sp.Roots)
		cfg.Connection.TLSConfig = &tls.Config{RootCAs: pool}
	}
	if sp.Hasty {
		cfg.Connection.ConnectTimeout = 3 * time.Second
		cfg.Connection.WriteTimeout = 2 * time.Second
		cfg.Connection.ProactiveReconnectInterval = time.Minute
		cfg.Backoff = wsshard.BackoffConfig{InitialDelay: 50 * time.Millisecond, MaxDelay: time.Second, StableAfter: time.Second}
		cfg.Switchover = wsshard.SwitchoverConfig{Linger: 100 * time.Millisecond, Timeout: 3 * time.Second}
		cfg.Subscribe.AckTimeout = 3 * time.Second
	}
	return cfg
}

// order is what a client is told. Every order is answered by one answer; the first must start it.
type order struct {
	Start       []spec   // one manager each
	Come, Gone  []string // subscribe and unsubscribe these at Manager
	Manager     int
	Reconnect   []int // shards of Manager
	Switchover  []int // shards of Manager, at once
	Wait        bool  // for the switchovers, and say how they ended
	Sync        bool  // wait for all managers to be in sync
	Report      bool  // tell all that was heard
	Stop        bool
	WithDesired bool
}

type answer struct {
	Err      string
	Managers []status

	// after Stop
	Took  time.Duration
	Calls int64    // of HotSwitchover that have not returned
	Left  []string // goroutines, sockets
}

// status is what a client tells of one manager.
type status struct {
	Metrics   wsshard.Metrics // without Shards
	Connected int
	Last      map[string]int // number, by subject
	Troubles  []string       // of the last events that tell of a lost or replaced connection
	Desired   [][]string     // by shard
	Heard     *heard
}

// runClient does what it is told on standard input and answers on standard output.
func runClient() error {
	c := &clientProcess{}
	in, out := gob.NewDecoder(bufio.NewReader(os.Stdin)), gob.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		a := answer{}
		if err := c.obey(o, &a); err != nil {
			a.Err = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

type clientProcess struct {
	all   []*clientManager
	calls atomic.Int64
}

type clientManager struct {
	*Subscriber
	record *record

	mu       sync.Mutex // protects following field
	troubles []string
}

func (c *clientProcess) obey(o order, a *answer) error {
	for _, sp := range o.Start {
		m, err := startClientManager(sp)
		if err != nil {
			return err
		}
		c.all = append(c.all, m)
	}
	ctx, cancel := context.WithTimeout(context.Background(), program.Limit)
	defer cancel()
	if len(o.Come) > 0 || len(o.Gone) > 0 {
		m := c.all[o.Manager].Manager
		if _, err := m.Subscribe(o.Come...); err != nil {
			return err
		}
		if err := m.Unsubscribe(o.Gone...); err != nil {
			return err
		}
	}
	for _, shard := range o.Reconnect {
		if err := c.all[o.Manager].Manager.Reconnect(shard); err != nil {
			return err
		}
	}
	if err := c.switchover(o); err != nil {
		return err
	}
	for i, m := range c.all {
		if o.Sync {
			if err := m.Manager.Sync(ctx); err != nil {
				return fmt.Errorf("manager %d: %w", i, err)
			}
		}
		if o.Stop {
			begin := time.Now()
			if err := m.Manager.Stop(ctx); err != nil {
				return fmt.Errorf("manager %d: Stop: %w", i, err)
			}
			a.Took = max(a.Took, time.Since(begin))
		}
		a.Managers = append(a.Managers, m.status(o))
	}
	if o.Stop {
		a.Calls, a.Left = c.leftovers()
	}
	return nil
}

// leftovers waits a little for the last ones on their way out.
func (c *clientProcess) leftovers() (calls int64, left []string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * time.Second); ; <-tick.C {
		calls, left = c.calls.Load(), append(goroutines(), openSockets()...)
		if calls == 0 && len(left) == 0 || time.Now().After(end) {
			return calls, left
		}
	}
}

func (c *clientProcess) switchover(o order) error {
	errs := make(chan error, len(o.Switchover))
	for _, shard := range o.Switchover {
		c.calls.Add(1)
		go func() {
			err := c.all[o.Manager].Manager.HotSwitchover(context.Background(), shard)
			if err != nil {
				err = fmt.Errorf("manager %d, shard %d: %w", o.Manager, shard, err)
			}
			c.calls.Add(-1)
			errs <- err
		}()
	}
	if !o.Wait {
		return nil
	}
	for range o.Switchover {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

func startClientManager(sp spec) (*clientManager, error) {
	m := &clientManager{record: newRecord()}
	s, err := New(Options{
		URL: sp.URL, Name: sp.Name, Config: sp.config(),
		Receive: m.record.receive, Removed: m.record.removed, Observe: m.observe,
	})
	if err != nil {
		return nil, err
	}
	m.Subscriber = s
	if _, err := s.Manager.Subscribe(sp.Subjects...); err != nil {
		return nil, err
	}
	return m, s.Manager.Start(context.Background())
}

func (m *clientManager) observe(ev wsshard.Event[string]) {
	m.record.event(ev)
	if ev.Kind == wsshard.EventConnecting || ev.Kind == wsshard.EventConnected {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.troubles = append(m.troubles, fmt.Sprint(ev.Time.Format("15:04:05.000 "), ev.Kind, " of shard ", ev.ShardID, " ", ev.Err))
	if len(m.troubles) > 100 {
		m.troubles = m.troubles[50:]
	}
}

func (m *clientManager) status(o order) (st status) {
	st.Metrics, st.Connected = m.Manager.Metrics(), m.Manager.Health(1).Connected
	st.Metrics.Shards = nil
	st.Last = m.record.lasts()
	m.mu.Lock()
	st.Troubles = append(st.Troubles, m.troubles...)
	m.mu.Unlock()
	if o.WithDesired {
		for shard := range m.Manager.ShardCount() {
			st.Desired = append(st.Desired, m.Manager.ShardSubscriptions(shard))
		}
	}
	if o.Report {
		st.Heard = m.record.all()
	}
	return st
}

// openSockets names the process's sockets, where the system tells.
func openSockets() (open []string) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.HasPrefix(to, "socket:") {
			open = append(open, "descriptor "+e.Name()+" is "+to)
		}
	}
	return open
}

// remote is the client as its master sees it.
type remote struct {
	*program.Peer
	t *testing.T

	mu  sync.Mutex // held for an order and its answer; protects following fields
	in  *gob.Encoder
	out *gob.Decoder
}

// startClient starts a process that does what it is told. command runs the test binary, maybe somewhere else. It ends with
// the test.
func startClient(t *testing.T, command *exec.Cmd, start ...spec) *remote {
	t.Helper()
	command.Env = append(os.Environ(), roleVar+"=client")
	p := program.Talk(t, "the client", command)
	r := &remote{Peer: p, t: t, in: gob.NewEncoder(p.In), out: gob.NewDecoder(bufio.NewReader(p.Out))}
	r.tell(order{Start: start})
	r.tell(order{Sync: true})
	return r
}

// ask gives an order and returns the answer.
func (r *remote) ask(o order) (a answer, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err = r.in.Encode(o); err == nil {
		err = r.out.Decode(&a)
	}
	if err == nil && a.Err != "" {
		err = fmt.Errorf("the client: %s", a.Err)
	}
	return a, err
}

// tell is ask where nothing may go wrong.
func (r *remote) tell(o order) answer {
	r.t.Helper()
	a, err := r.ask(o)
	if err != nil {
		for i, m := range a.Managers {
			r.t.Logf("manager %d: %s", i, strings.Join(m.Troubles, "\n"))
		}
		r.t.Fatal(err)
	}
	return a
}
