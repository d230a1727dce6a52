package wsshard

import "context"

// This file answers: how does the application's own message reach a connection?

// Send writes msg to the shard's live connection, within the pace; nil means written to the socket. While that one is read
// to its end in a switchover, the next is meant, and what waits for the pace when it is replaced is written there, in its
// order. What it does on the server does not survive a reconnect or a switchover.
// ErrNotConnected, with ErrShardParked when the shard gave up; ErrUnknownShard, ErrStopped, ErrInvalidMessage, the cause of
// ctx; ErrInCallback from inside the callback that encodes a request: it is queued. msg.Data passes to the library.
func (m *ShardManager[S]) Send(ctx context.Context, shardID int, msg Message) error {
	s, err := m.shardOf(shardID)
	if err != nil {
		return err
	}
	if err := checkMessage(msg); err != nil {
		return err
	}
	c := s.live.Load()
	if c == nil {
		return s.whyDown()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	writer := onStack(inWriteLoop)
	out := &send{ctx: ctx, msg: msg, done: make(chan error, 1)}
	for {
		err := c.out.send(out)
		if err == nil {
			break
		}
		if c = c.heir.Load(); c == nil {
			return err
		}
	}
	poke(c.wake)
	if writer {
		return ErrInCallback
	}
	select {
	case err := <-out.done:
		if err == ErrNotConnected && s.run.ctx.Err() != nil {
			return ErrStopped
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
