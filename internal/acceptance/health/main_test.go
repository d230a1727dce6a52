// Package health asks: is a sick connection found, a well one left alone, and both seen? See harness for what its scripts are made of.
package health

import (
	"testing"

	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
