//go:build integration && linux

package servers

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: does a client with 200 connections survive real faults between real programs, and tell of all that it
// missed?
//
// The client is a process with four managers of 50 shards. One connects directly, one through a web server, one through a web
// server and an HTTP proxy, with TLS, and one through a SOCKS proxy; each from several addresses. Storms of faults and calms
// follow each other. In each calm the server's own list of subscriptions must be what is desired, shard by shard; and
// switchovers and a client that stands still for 4 s must cost nothing. In the end every message that was published has been
// delivered once, or lies inside a Gap.
//
//	go test -tags integration -run TestSoak -v -soak 10m -timeout 20m

var (
	soakFor  = flag.Duration("soak", 2*time.Minute, "how long the soak is to last")
	soakSeed = flag.Uint64("soak-seed", 0, "of the soak's faults; 0: one that nobody has chosen")
)

const (
	shardsPerRoute = 50
	staysPerShard  = 10  // subjects that are published to
	poolPerShard   = 2   // subjects that come and go
	perSecond      = 500 // messages a route
	storm          = 15 * time.Second
	calmAgain      = 3 * time.Second // until a connection that was replaced in the storm has drained, or has not
	frozenFor      = 4 * time.Second
	listed         = 30 * time.Second // far less than it takes to replace every connection, which would put right what is wrong
)

// watchful notices soon, but not while the client stands still.
var watchful = wsshard.HealthConfig{
	PingInterval: 2 * time.Second, PongTimeout: 2 * time.Second, FailureThreshold: 1,
	DataTimeout: 3 * time.Second, MessageTimeout: 3 * time.Second,
}

// world is the soak's.
type world struct {
	t                *testing.T
	random           *rand.Rand // owned by the test
	clients, servers *machine
	parts            []*part // the first is the server
	monitor          monitor
	client           *remote
	frozen           sync.Mutex // held by who has stopped the client
	routes           []*route

	mu     sync.Mutex // protects following field
	counts map[string]int
}

// route is one manager, and how it gets to the server.
type route struct {
	spec
	stays, pool []string
	book        *account

	mu     sync.Mutex // held while wanted changes, here and at the client; protects following field
	wanted map[string]bool
}

func (w *world) note(what string) { w.counted(what, 1) }

func (w *world) counted(what string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what] += n
}

// build starts all programs, the client last.
func build(t *testing.T, seed uint64) *world {
	t.Helper()
	if err := program.Find("nginx", "squid", "microsocks", "htpasswd", "ip", "ss", "nsenter", "unshare", "iptables", "ip6tables"); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, random: rand.New(rand.NewPCG(seed, seed)), counts: make(map[string]int)}
	w.clients, w.servers = wire(t)
	w.monitor = monitor{at("127.0.0.1", natsMonitorPort), &http.Client{
		Transport: &http.Transport{DialContext: w.servers.dial, DisableKeepAlives: true}, Timeout: 10 * time.Second,
	}}
	server := launchNATS(t, w.servers)
	web, roots := launchNginx(t, w.servers)
	w.parts = []*part{server, web, launchSquid(t, w.servers), launchMicrosocks(t, w.servers)}

	login := proxyUser + ":" + proxyPassword + "@"
	var specs []spec
	for _, sp := range []spec{
		{Name: "direct", URL: "ws://" + at(webIPv4, natsWebPort), Sources: clientsIPv4},
		{Name: "web", URL: "ws://" + at(webIPv6, nginxPort), Sources: clientsIPv6},
		{Name: "http", URL: "wss://" + at(webIPv4, nginxTLSPort), Sources: clientsIPv4, Proxy: "http://" + login + at(proxyIPv4, squidPort), Roots: roots},
		{Name: "socks", URL: "ws://" + at(webIPv4, nginxPort), Sources: clientsIPv4, Proxy: "socks5://" + login + at(proxyIPv4, socksPort)},
	} {
		rt := &route{
			stays: numbered(sp.Name+".stay", shardsPerRoute*staysPerShard), pool: numbered(sp.Name+".pool", shardsPerRoute*poolPerShard),
			book: newAccount(), wanted: make(map[string]bool),
		}
		sp.Subjects = slices.Concat(rt.stays, rt.pool)
		sp.PerShard, sp.PerSource, sp.Health, sp.Hasty = staysPerShard+poolPerShard, (shardsPerRoute+3)/4, watchful, true
		for _, subject := range sp.Subjects {
			rt.wanted[subject] = true
		}
		rt.spec = sp
		specs = append(specs, sp)
		w.routes = append(w.routes, rt)
	}
	w.client = startClient(t, w.clients.command(os.Args[0]), specs...)
	return w
}

// inNamespace dials for a publisher.
type inNamespace struct{ *machine }

func (d inNamespace) Dial(network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return d.dial(ctx, network, addr)
}

// publish begins to publish to each route, next to the server, where no fault but the server's own gets in between.
func (w *world) publish() (end func()) {
	w.t.Helper()
	var ends []func()
	for i, m := range w.client.tell(order{WithDesired: true}).Managers {
		rt, shardOf := w.routes[i], make(map[string]int)
		for shard, subjects := range m.Desired {
			for _, subject := range subjects {
				shardOf[subject] = shard
			}
		}
		p := &publisher{nc: dialNATS(w.t, "nats://"+at("127.0.0.1", natsPort), nats.SetCustomDialer(inNamespace{w.servers})), book: rt.book}
		stop := p.background(roundsOver(rt.stays, func(subject string) int { return shardOf[subject] }), perSecond)
		ends = append(ends, func() {
			stop()
			program.Eventually(w.t, "the publisher is back", func() bool { return p.round(rt.stays...) })
		})
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// settled waits until the server lists what is desired, what is desired is what is wanted, and data flows everywhere.
func (w *world) settled() {
	w.t.Helper()
	w.client.tell(order{Sync: true})
	differ := ""
	defer func() {
		if differ != "" {
			w.t.Log(differ)
		}
	}()
	program.Within(w.t, listed, 100*time.Millisecond, "the server lists what is desired", func() bool {
		desired := make(map[string][]string)
		for i, m := range w.client.tell(order{WithDesired: true}).Managers {
			rt := w.routes[i]
			for shard, subjects := range m.Desired {
				desired[fmt.Sprint(rt.Name, " ", shard)] = subjects
			}
			if differ = rt.unwanted(slices.Concat(m.Desired...)); differ != "" {
				return false
			}
		}
		differ = w.monitor.differ(desired)
		return differ == ""
	})
	w.caughtUp()
}

// unwanted says in what desired differs from what the test wants; "": in nothing.
func (rt *route) unwanted(desired []string) string {
	var wanted []string
	for subject, yes := range rt.wanted {
		if yes {
			wanted = append(wanted, subject)
		}
	}
	if !sameSet(wanted, desired) {
		return fmt.Sprintf("%s: %d subjects are desired, want %d", rt.Name, len(desired), len(wanted))
	}
	return ""
}

// caughtUp waits until all that was published by now has come, or later messages have.
func (w *world) caughtUp() {
	w.t.Helper()
	var published []map[string]int
	for _, rt := range w.routes {
		published = append(published, rt.book.published())
	}
	missing := ""
	defer func() {
		if missing != "" {
			w.t.Log("behind:", missing)
		}
	}()
	program.Within(w.t, program.Limit, 100*time.Millisecond, "data flows everywhere", func() bool {
		for i, m := range w.client.tell(order{}).Managers {
			if missing = behind(published[i], m.Last); missing != "" {
				return false
			}
		}
		return true
	})
}

// calm is when nothing goes wrong. Then changes, switchovers and a pause of the client cost nothing.
func (w *world) calm() {
	w.t.Helper()
	w.settled()
	for i := range w.routes {
		w.churn(i, w.random)
	}
	w.settled()
	<-time.After(calmAgain)
	before := w.client.tell(order{})
	for i := range w.routes {
		w.client.tell(order{Manager: i, Switchover: somewhere(w.random), Wait: true})
	}
	w.client.freeze(frozenFor)
	<-time.After(watchful.PingInterval + watchful.PongTimeout)
	w.settled()
	for i, m := range w.client.tell(order{}).Managers {
		was, is := before.Managers[i].Metrics, m.Metrics
		// A dial that was under way may have run out of time meanwhile. That costs nothing either.
		if is.Gaps != was.Gaps || is.HealthFailures != was.HealthFailures {
			w.t.Errorf("%s, when all was well: %d Gap events, %d health failures; the last troubles: %q", w.routes[i].Name,
				is.Gaps-was.Gaps, is.HealthFailures-was.HealthFailures, m.Troubles[max(0, len(m.Troubles)-20):])
		}
	}
}

func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	w, began, storms := build(t, seed), time.Now(), 0
	end := w.publish()
	w.calm()
	for time.Since(began) < *soakFor {
		w.rage(w.draw(storm))
		w.calm()
		storms++
		t.Logf("storm %d is over at %v", storms, time.Since(began).Round(time.Second))
	}
	end()
	w.settled()

	told := w.client.tell(order{Report: true})
	stopped := w.client.tell(order{Stop: true})
	t.Logf("%d storms in %v, seed %d", storms, time.Since(began).Round(time.Second), seed)
	w.judge(told.Managers, stopped, time.Since(began))
}

// judge closes the books.
func (w *world) judge(told []status, stopped answer, lasted time.Duration) {
	t := w.t
	t.Helper()
	var sum totals
	var all wsshard.Metrics
	var inGaps time.Duration
	proofs, triggers := make(map[string]int), make(map[string]int)
	for i, m := range told {
		rt := w.routes[i]
		rt.book.take(m.Heard)
		one := rt.book.close(t)
		sum = sum.plus(one)
		t.Logf("%-6s %d connections, %d Gap events: %v", rt.Name, m.Metrics.Connections, m.Metrics.Gaps, one)
		all.Connections += m.Metrics.Connections
		all.Reconnections += m.Metrics.Reconnections
		all.HotSwitchovers += m.Metrics.HotSwitchovers
		all.HotSwitchoverFailures += m.Metrics.HotSwitchoverFailures
		all.HealthFailures += m.Metrics.HealthFailures
		all.CircuitBreakerTrips += m.Metrics.CircuitBreakerTrips
		all.DuplicatesDropped += m.Metrics.DuplicatesDropped
		all.Gaps += m.Metrics.Gaps
		all.HandlerPanics += m.Metrics.HandlerPanics
		for _, gap := range m.Heard.Gaps {
			inGaps += gap.To.Sub(gap.From)
		}
		for _, r := range m.Heard.Reports {
			proofs[r.Proof]++
			triggers[r.Trigger]++
		}
	}
	for _, what := range slices.Sorted(maps.Keys(w.counts)) {
		t.Logf("%-20s %d", what, w.counts[what])
	}
	t.Logf("together: %v", sum)
	t.Logf("reconnects %d, switchovers %d by trigger %v with proof %v, failed switchovers %d, Gap events %d, health failures %d, breaker trips %d, duplicates dropped by the library %d",
		all.Reconnections-all.HotSwitchovers, all.HotSwitchovers, triggers, proofs, all.HotSwitchoverFailures, all.Gaps, all.HealthFailures, all.CircuitBreakerTrips, all.DuplicatesDropped)
	t.Logf("of a shard's time, %.1f %% lies in Gap events, which last %v on average",
		100*inGaps.Seconds()/(lasted.Seconds()*shardsPerRoute*float64(len(w.routes))), (inGaps / time.Duration(max(1, all.Gaps))).Round(time.Millisecond))
	t.Logf("Stop took %v and left %d", stopped.Took.Round(time.Millisecond), len(stopped.Left))
	if sum.missing != 0 || sum.again != 0 || sum.keyed != 0 {
		t.Errorf("missing outside Gap events %d, duplicates %d, not dropped for their keys %d", sum.missing, sum.again, sum.keyed)
	}
	if len(stopped.Left) > 0 || stopped.Calls > 0 || all.HandlerPanics > 0 {
		t.Errorf("after Stop: %d switchovers have not returned, %d panics, left %q", stopped.Calls, all.HandlerPanics, stopped.Left)
	}
	if sum.received < sum.published/2 || all.Gaps == 0 || all.HotSwitchovers == 0 {
		t.Errorf("the soak has proven nothing: %v", sum)
	}
}
