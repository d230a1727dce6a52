// Package gaps asks: is each hole that nobody could fill announced, and nothing else? See harness for what its scripts are made of.
package gaps

import (
	"testing"

	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
