package wsshard

import "time"

// SetSeed makes the jitter of managers made from now on reproducible; 0 ends that.
func SetSeed(seed uint64) { testSeed = seed }

// NoteLate has m believe that a timer fired far past its due time: that the process had been stopped.
func NoteLate[S comparable](m *ShardManager[S]) { m.late.Store(time.Now().UnixNano()) }
