package wsshard

import (
	"context"
	"testing"
)

type nobody struct{}

func (nobody) URL(context.Context, ConnectionState) (string, error)       { return "", nil }
func (nobody) SubscriptionMessage(Request[string]) (m Message, err error) { return m, nil }
func (nobody) OnMessage(context.Context, Message, ConnectionState)        {}

// TestMoveOfAShardThatHasEnded: between HotSwitchover's look at the shard and its asking, a whole Stop may pass. Nobody is left
// then to answer, so what is asked for is over at once.
func TestMoveOfAShardThatHasEnded(t *testing.T) {
	m, err := New(nobody{}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := newShard[string](m.core, m, 0)
	before := s.ask(&wish{trigger: triggerCall})
	s.stopped()
	after := s.ask(&wish{trigger: triggerCall})
	for _, mv := range []*wish{before, after} {
		if !isClosed(mv.done) || mv.err != ErrStopped {
			t.Errorf("over: %v, with %v", isClosed(mv.done), mv.err)
		}
	}
	s.leaveWish(after)
}
