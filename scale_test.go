package wsshard_test

import (
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// A million topics go over 2,000 shards in one call.
func TestMillionTopics(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a gigabyte for a second or two")
	}
	topics := million()
	m := idle(t, wsshard.Config{MaxSubscriptionsPerShard: 500, MaxShards: 2000})
	begin := time.Now()
	results, err := m.Subscribe(topics...)
	t.Logf("1,000,000 topics over %d shards took %v", m.ShardCount(), time.Since(begin))
	if err != nil {
		t.Fatal(err)
	}
	if n, shards := m.TotalSubscriptions(), m.ShardCount(); n != len(topics) || shards != 2000 {
		t.Fatalf("%d topics on %d shards", n, shards)
	}
	for id, n := range loads(m) {
		if n != 500 {
			t.Fatalf("shard %d has %d topics", id, n)
		}
	}
	for i, r := range results {
		if r.Status != wsshard.SubscribeAdded || r.Err != nil || r.ShardID < 0 || r.ShardID >= 2000 {
			t.Fatalf("result %d: %+v", i, r)
		}
	}
	if r, err := m.Subscribe(topics[0], "one more"); r[0].Status != wsshard.SubscribeExisting || r[1].OK() || err == nil {
		t.Errorf("one more than fits: %q, %v", outcome(r), err)
	}
}
