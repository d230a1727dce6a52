package servers

import (
	"fmt"
	"os"
	"testing"
)

// This file answers: what else can the test binary be? A process of its own is what can be stopped or killed.

// roleVar is the environment variable that makes the test binary something else.
const roleVar = "WSSHARD_ROLE"

var roles = map[string]func() error{"client": runClient, "nats": runNATS}

func TestMain(m *testing.M) {
	role := os.Getenv(roleVar)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := roles[role](); err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
}
