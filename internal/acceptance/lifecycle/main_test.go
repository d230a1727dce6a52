// Package lifecycle asks: how does a manager begin, how does a shard come and stay live, and how does all of it end? See harness for what its scripts are made of.
package lifecycle

import (
	"testing"

	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
