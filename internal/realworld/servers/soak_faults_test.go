//go:build integration && linux

package servers

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// This file answers: what goes wrong in the soak, and when?

// fault is something that goes wrong for a while.
type fault struct {
	kind   string
	at, to time.Duration // since the storm's begin
	begin  func() (end func())
}

// draw makes a storm of faults. All that is random about them is drawn here, before anything happens.
func (w *world) draw(storm time.Duration) (faults []fault) {
	r := w.random
	for range 3 + r.IntN(6) {
		f := breakages[r.IntN(len(breakages))]
		at := time.Duration(r.Int64N(int64(storm)))
		last := min(f.most, storm-at)
		faults = append(faults, fault{f.kind, at, at + time.Duration(r.Int64N(int64(last))), f.draw(w, r)})
	}
	for _, c := range calls {
		for range 1 + r.IntN(2) {
			at := time.Duration(r.Int64N(int64(storm)))
			do := c.draw(w, r)
			faults = append(faults, fault{c.kind, at, at, func() func() {
				do()
				return func() {}
			}})
		}
	}
	return faults
}

// rage lets a storm happen, and returns when all is as it was.
func (w *world) rage(faults []fault) {
	begin := time.Now()
	var all sync.WaitGroup
	for _, f := range faults {
		all.Go(func() {
			<-time.After(f.at)
			w.note(f.kind)
			end := f.begin()
			<-time.After(f.to - time.Since(begin))
			end()
		})
	}
	all.Wait()
}

// breakages are what can be done to others. draw says on what; most is for how long at most.
var breakages = []struct {
	kind string
	most time.Duration
	draw func(w *world, r *rand.Rand) (begin func() (end func()))
}{
	{"kill -9", 3 * time.Second, func(w *world, r *rand.Rand) func() func() {
		return w.killed(w.parts[r.IntN(len(w.parts))], syscall.SIGKILL)
	}},
	{"server told to end", 3 * time.Second, func(w *world, r *rand.Rand) func() func() {
		return w.killed(w.parts[0], syscall.SIGTERM)
	}},
	{"SIGSTOP", 6 * time.Second, func(w *world, r *rand.Rand) func() func() {
		d := w.parts[r.IntN(len(w.parts))]
		return func() func() {
			d.turn.Lock()
			d.Signal(syscall.SIGSTOP)
			return func() {
				d.Signal(syscall.SIGCONT)
				d.turn.Unlock()
			}
		}
	}},
	{"client SIGSTOP", 4 * time.Second, func(w *world, r *rand.Rand) func() func() {
		return func() func() {
			w.frozen.Lock()
			w.client.Signal(syscall.SIGSTOP)
			return func() {
				w.client.Signal(syscall.SIGCONT)
				w.frozen.Unlock()
			}
		}
	}},
	{"packets dropped", 8 * time.Second, func(w *world, r *rand.Rand) func() func() {
		addr, share := w.address(r), fmt.Sprintf("%.2f", 0.05+0.3*r.Float64())
		return func() func() {
			return w.servers.filter(addr, "INPUT", "-s", addr, "-m", "statistic", "--mode", "random", "--probability", share, "-j", "DROP")
		}
	}},
	{"black hole", 8 * time.Second, func(w *world, r *rand.Rand) func() func() {
		addr := w.address(r)
		return func() func() {
			in := w.servers.filter(addr, "INPUT", "-s", addr, "-j", "DROP")
			out := w.servers.filter(addr, "OUTPUT", "-d", addr, "-j", "DROP")
			return func() { in(); out() }
		}
	}},
	{"port rejects", 4 * time.Second, func(w *world, r *rand.Rand) func() func() {
		addr, port := w.address(r), []int{natsWebPort, nginxPort, nginxTLSPort, squidPort, socksPort}[r.IntN(5)]
		return func() func() {
			return w.servers.filter(addr, "INPUT", "-s", addr, "-p", "tcp", "--dport", fmt.Sprint(port), "-j", "REJECT", "--reject-with", "tcp-reset")
		}
	}},
	{"ss -K", time.Millisecond, func(w *world, r *rand.Rand) func() func() {
		m, addr := w.clients, w.address(r)
		if strings.Contains(addr, ":") {
			addr = "[" + addr + "]"
		}
		which := []string{"src", addr}
		if r.IntN(2) == 0 {
			m, which = w.servers, []string{"dst", addr}
		}
		return func() func() {
			out, err := m.run("ss", append([]string{"-K", "-H", "-t", "-n"}, which...)...)
			if err != nil {
				w.t.Error(err)
			}
			w.counted("sockets destroyed", strings.Count(out, "\n"))
			return func() {}
		}
	}},
	{"address gone", 4 * time.Second, func(w *world, r *rand.Rand) func() func() {
		addr := clientsIPv6[r.IntN(len(clientsIPv6))]
		if r.IntN(2) == 0 {
			addr = clientsIPv4[1+r.IntN(len(clientsIPv4)-1)] // the first takes the others along
		}
		return func() func() {
			w.clients.run("ip", "addr", "del", addr, "dev", "cable") // it may be gone already
			return func() { w.clients.addAddress(addr) }
		}
	}},
	{"cable down", 3 * time.Second, func(w *world, r *rand.Rand) func() func() {
		return func() func() { // of the servers: the clients' would forget its IPv6 addresses
			w.servers.must("ip", "link", "set", "cable", "down")
			return func() {
				w.servers.must("ip", "link", "set", "cable", "up")
				w.servers.addAddress(webIPv6)
			}
		}
	}},
}

func (w *world) killed(d *part, sig syscall.Signal) func() func() {
	return func() func() {
		d.turn.Lock()
		d.End(sig)
		w.note("kill of " + d.Name)
		return func() {
			defer d.turn.Unlock()
			if err := d.Start(); err != nil {
				w.t.Error(err)
			}
		}
	}
}

func (w *world) address(r *rand.Rand) string {
	all := slices.Concat(clientsIPv4, clientsIPv6)
	return all[r.IntN(len(all))]
}

// calls are what the application does meanwhile.
var calls = []struct {
	kind string
	draw func(w *world, r *rand.Rand) (do func())
}{
	{"Reconnect", func(w *world, r *rand.Rand) func() {
		o := order{Manager: r.IntN(len(w.routes)), Reconnect: somewhere(r)}
		return func() { w.order(o) }
	}},
	{"HotSwitchover", func(w *world, r *rand.Rand) func() {
		o := order{Manager: r.IntN(len(w.routes)), Switchover: somewhere(r)}
		return func() { w.order(o) }
	}},
	{"churn", func(w *world, r *rand.Rand) func() {
		n, seed := r.IntN(len(w.routes)), r.Uint64()
		return func() { w.churn(n, rand.New(rand.NewPCG(seed, 0))) }
	}},
}

// churn has some subjects of a route come and others go.
func (w *world) churn(n int, r *rand.Rand) {
	rt := w.routes[n]
	rt.mu.Lock() // the client must hear of it in the same order
	defer rt.mu.Unlock()
	var come, gone []string
	for _, i := range r.Perm(len(rt.pool))[:1+r.IntN(50)] {
		subject := rt.pool[i]
		if rt.wanted[subject] {
			gone = append(gone, subject)
		} else {
			come = append(come, subject)
		}
		rt.wanted[subject] = !rt.wanted[subject]
	}
	w.order(order{Manager: n, Gone: gone}) // it makes room for what comes
	w.order(order{Manager: n, Come: come})
}

// somewhere names up to ten shards of one manager.
func somewhere(r *rand.Rand) []int {
	return r.Perm(shardsPerRoute)[:1+r.IntN(10)]
}

// order is for the middle of a storm: the answer comes when the client is not stopped.
func (w *world) order(o order) {
	if _, err := w.client.ask(o); err != nil {
		w.t.Error(err)
	}
}
