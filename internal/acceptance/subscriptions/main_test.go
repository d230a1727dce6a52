// Package subscriptions asks: is what is wanted on the server, each topic once, within its limits? See harness for what its scripts are made of.
package subscriptions

import (
	"testing"

	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
