package egress

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: do New's errors keep secrets?

// New's own errors.
func TestConfigErrorsKeepSecrets(t *testing.T) {
	l := &harness.Ledger{}
	for _, proxy := range []string{
		"http://" + harness.Canary + ":" + harness.Canary + "@/", "ftp://" + harness.Canary + "@proxy", "http://" + harness.Canary + "%zz@proxy", "http://proxy/" + harness.Canary, "http://proxy?" + harness.Canary,
		"socks5://" + strings.Repeat(harness.Canary, 100) + "@proxy", "http://proxy:" + harness.Canary, harness.Canary, "http://" + harness.Canary + "@proxy:1:2", "http://pro xy" + harness.Canary,
	} {
		cfg := wsshard.Config{Logger: slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))}
		cfg.Connection.Proxy = proxy
		cfg.Connection.Header = http.Header{"Authorization": {harness.Canary + "\r\n"}}
		_, err := wsshard.New(&harness.App{}, cfg)
		var ce *wsshard.ConfigError
		if !errors.As(err, &ce) {
			t.Errorf("%s: %v", proxy, err)
			continue
		}
		l.Say(err)
		for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
			l.Say(err)
		}
	}
	l.Check(t)
}
