package harness

import (
	"bytes"
	"strings"
	"testing"
)

// This file answers: are the frames that servers say by hand read as they were meant?

func TestRawBytes(t *testing.T) {
	for _, n := range []int{0, 125, 126, 65535, 65536} {
		raw := RawBytes(Fin|OpText, strings.Repeat("x", n))
		masked := append([]byte{raw[0], raw[1] | 0x80}, raw[2:len(raw)-n]...)
		masked = append(append(masked, 0, 0, 0, 0), raw[len(raw)-n:]...)
		f, err := ReadRaw(bytes.NewReader(masked))
		if err != nil || !f.Fin || f.Op != OpText || len(f.Payload) != n {
			t.Errorf("%d bytes: %v %d bytes, %v", n, f.Op, len(f.Payload), err)
		}
	}
}
