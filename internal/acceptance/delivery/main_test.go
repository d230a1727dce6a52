// Package delivery asks: does every message reach its handler as it was sent, in order and once? See harness for what its scripts are made of.
package delivery

import (
	"testing"

	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
