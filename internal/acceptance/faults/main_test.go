// Package faults asks: is all well again after each fault, in each phase? See harness for what its scripts are made of.
package faults

import (
	"testing"

	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
