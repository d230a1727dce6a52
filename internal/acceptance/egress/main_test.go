// Package egress asks: which way does a connection take, whom does it trust, and what does it keep to itself? See harness for what its scripts are made of.
package egress

import (
	"testing"

	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
