// Package switchover asks: does a hot switchover lose nothing, and say so when it cannot? See harness for what its scripts are made of.
package switchover

import (
	"testing"

	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
