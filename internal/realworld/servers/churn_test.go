package servers

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: does the server list exactly what is desired, whatever has happened?

// kills are the ways in which a test ends a connection of a running manager.
var kills = []struct {
	name string
	kill func(n *natsServer, s *Subscriber, open *sockets, random *rand.Rand) bool
}{
	{"the server disconnects it", func(n *natsServer, s *Subscriber, _ *sockets, random *rand.Rand) bool {
		clients := n.clients()[random.IntN(s.Manager.ShardCount())]
		return len(clients) > 0 && n.DisconnectClientByID(clients[0].CID) == nil
	}},
	{"the socket is reset", func(_ *natsServer, s *Subscriber, open *sockets, random *rand.Rand) bool {
		return open.reset(random.IntN(s.Manager.ShardCount()))
	}},
	{"Reconnect", func(_ *natsServer, s *Subscriber, _ *sockets, random *rand.Rand) bool {
		return s.Manager.Reconnect(random.IntN(s.Manager.ShardCount())) == nil
	}},
}

// churn is a random change of what is wanted, beside subjects that stay.
type churn struct {
	t      *testing.T
	s      *Subscriber
	random *rand.Rand
	pool   []string // what comes and goes
	want   map[string]bool
}

func (c *churn) subjects() []string { return slices.Sorted(maps.Keys(c.want)) }

// step subscribes some of the pool and unsubscribes others.
func (c *churn) step() {
	var come, gone []string
	for range 1 + c.random.IntN(200) {
		subject := c.pool[c.random.IntN(len(c.pool))]
		if slices.Contains(come, subject) {
			c.flush(&come, &gone)
		}
		if c.want[subject] {
			gone = append(gone, subject)
			delete(c.want, subject)
		} else {
			come = append(come, subject)
			c.want[subject] = true
		}
		if c.random.IntN(50) == 0 || len(come) > 0 && len(gone) > 0 && c.random.IntN(4) == 0 {
			c.flush(&come, &gone)
		}
	}
	c.flush(&come, &gone)
}

// flush calls both, so that a subject may go and come again within a moment.
func (c *churn) flush(come, gone *[]string) {
	if err := c.s.Manager.Unsubscribe(*gone...); err != nil {
		c.t.Error(err)
	}
	if _, err := c.s.Manager.Subscribe(*come...); err != nil {
		c.t.Error(err)
	}
	*come, *gone = nil, nil
}

func TestTheServerListsWhatIsDesired(t *testing.T) {
	for _, test := range []struct {
		name   string
		server func(*natsServer)
	}{{"plain", func(*natsServer) {}}, {"tls", secured}} {
		t.Run(test.name, func(t *testing.T) {
			const seed = 1
			n, book, open := startNATS(t, test.server), newAccount(), &sockets{}
			stay := numbered("stay", 2_000)
			c := &churn{t: t, random: rand.New(rand.NewPCG(seed, seed)), pool: numbered("pool", 10_000), want: map[string]bool{}}
			for _, subject := range slices.Concat(stay, c.pool[:8_000]) {
				c.want[subject] = true
			}
			c.s = n.subscriber(book, wsshard.Config{
				MaxSubscriptionsPerShard: 500,
				Connection:               wsshard.ConnectionConfig{NetDialContext: open.dial},
			}, c.subjects()...)
			s := c.s
			n.wantSubscriptions(s, c.subjects())
			p := &publisher{nc: n.dial(), book: book}
			endTraffic := p.background(rounds(s.Manager, stay), 5_000)

			// Changes alone; then with kills, of one connection and of many at once.
			killed := make(map[string]int)
			for step := range 60 {
				c.step()
				for range []int{0, 1, 1, 10}[step%4] {
					if how := kills[c.random.IntN(len(kills))]; how.kill(n, s, open, c.random) {
						killed[how.name]++
					}
				}
				c.step()
				if step%10 == 9 {
					synced(t, s)
					n.wantSubscriptions(s, c.subjects())
				}
			}
			// The server goes and comes again, and the set changes meanwhile.
			for range 2 {
				n.stop()
				program.Eventually(t, "every shard has noticed", func() bool { return s.Manager.Health(1).Connected == 0 })
				c.step()
				n.start()
				c.step()
				synced(t, s)
				n.wantSubscriptions(s, c.subjects())
			}
			endTraffic()
			program.Eventually(t, "the publisher is back", func() bool { return p.round(stay...) })
			book.caughtUp(t)

			sum := book.close(t)
			t.Logf("seed %d, killed %v, 2 restarts, %d Gap events: %v", seed, killed, len(book.Gaps), sum)
			t.Logf("subscriptions as the server lists them: equal to the desired set on each of %d shards", s.Manager.ShardCount())
			if sum.missing != 0 || sum.again+sum.keyed != 0 {
				t.Errorf("%v", sum)
			}
			if sum.received < sum.published/2 || len(killed) != len(kills) {
				t.Errorf("the test has proven nothing: killed %v, %v", killed, sum)
			}
		})
	}
}

// A subject that the server refuses fails alone, and by name.
func TestARefusedSubjectFailsAlone(t *testing.T) {
	n, book := startNATS(t, refusing), newAccount()
	s := n.subscriber(book, wsshard.Config{}, numbered("good", 150)...)
	if _, err := s.Manager.Subscribe("secret.plan", "good.too", "secret.name"); err != nil {
		t.Fatal(err)
	}
	err := s.Manager.Sync(t.Context())
	failed := failures(err)
	if want := []string{"secret.name", "secret.plan"}; fmt.Sprint(failed) != fmt.Sprint(want) {
		t.Errorf("Sync returned %v, want failures of %v", err, want)
	}
	p := &publisher{nc: n.dial(), book: book}
	p.round(append(numbered("good", 150), "good.too")...)
	book.caughtUp(t)
	if sum, want := book.close(t), 151; sum.received != want {
		t.Errorf("%v, want %d received", sum, want)
	}
	if book.count(wsshard.EventDisconnected) != 0 {
		t.Error("a connection ended for a refused subject")
	}
}
