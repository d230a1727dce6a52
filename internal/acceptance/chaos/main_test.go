// Package chaos asks: is all well again after all faults together? See harness for what its scripts are made of.
package chaos

import (
	"testing"

	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
