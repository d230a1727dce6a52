// Package gate asks: when may a dial begin? See harness for what its scripts are made of.
package gate

import (
	"testing"

	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
