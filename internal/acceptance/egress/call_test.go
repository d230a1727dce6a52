package egress

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: how does a test call a server, and see that no secret is shown?

// call runs a manager with one topic until it has been greeted, or has failed. It returns the greeting and how the
// connection was described.
func call(t *testing.T, url string, cfg wsshard.Config) (greeting string, st wsshard.ConnectionState, failed error) {
	t.Helper()
	h := harness.NewCaller(url)
	m, err := wsshard.New[string](h, cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.Subscribe("a")
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	select {
	case failed = <-h.Failed:
		return "", st, failed
	case st = <-h.Opened:
	case <-time.After(harness.Patience):
		t.Fatal("neither connected nor failed")
	}
	select {
	case greeting = <-h.Got:
	case failed = <-h.Failed:
	case <-time.After(harness.Patience):
		t.Fatal("connected, but never greeted")
	}
	return greeting, st, failed
}

// wantNoCanary looks for the credentials in what text says of an error, in each way that fmt can print it.
func wantNoCanary(t *testing.T, what string, values ...any) {
	t.Helper()
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
			text := fmt.Sprintf(verb, v)
			for _, secret := range harness.ProxySecrets {
				for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret)))} {
					if strings.Contains(text, form) {
						t.Errorf("%s shows %q by %s: %s", what, secret, verb, text)
						return
					}
				}
			}
		}
	}
}

// chain lists an error and all that it wraps.
func chain(err error) (all []any) {
	for ; err != nil; err = errors.Unwrap(err) {
		all = append(all, err)
	}
	return all
}
