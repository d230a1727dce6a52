package delivery

import (
	"fmt"
	"testing"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what does the delivery of a message take?

// What the library adds to the bytes that a socket hands over.
func BenchmarkDelivery(b *testing.B) {
	for _, mode := range []struct {
		name string
		cfg  wsshard.ConnectionConfig
	}{
		{"default", wsshard.ConnectionConfig{}},
		{"low-latency", wsshard.ConnectionConfig{LowLatencyMode: true}},
	} {
		for _, size := range []int{64, 256, 1 << 10, 16 << 10} {
			b.Run(fmt.Sprintf("%s/%dB", mode.name, size), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(size))
				around := []func(){b.ResetTimer, b.StopTimer}
				deliver(b, mode.cfg, size, b.N, func() {
					around[0]()
					around = around[1:]
				})
			})
		}
	}
}
