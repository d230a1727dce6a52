package subscriptions

import (
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: are a million topics any different?

// A million topics go over 2,000 shards in one call.
func TestMillionTopics(t *testing.T) {
	shards := harness.Fewer(2000, 20)
	topics := million()[:500*shards]
	m := idle(t, wsshard.Config{MaxSubscriptionsPerShard: 500, MaxShards: shards})
	begin := time.Now()
	results, err := m.Subscribe(topics...)
	t.Logf("%d topics over %d shards took %v", len(topics), m.ShardCount(), time.Since(begin))
	if err != nil {
		t.Fatal(err)
	}
	if n, have := m.TotalSubscriptions(), m.ShardCount(); n != len(topics) || have != shards {
		t.Fatalf("%d topics on %d shards", n, have)
	}
	for id, n := range loads(m) {
		if n != 500 {
			t.Fatalf("shard %d has %d topics", id, n)
		}
	}
	for i, r := range results {
		if r.Status != wsshard.SubscribeAdded || r.Err != nil || r.ShardID < 0 || r.ShardID >= shards {
			t.Fatalf("result %d: %+v", i, r)
		}
	}
	if r, err := m.Subscribe(topics[0], "one more"); r[0].Status != wsshard.SubscribeExisting || r[1].OK() || err == nil {
		t.Errorf("one more than fits: %q, %v", outcome(r), err)
	}
}
