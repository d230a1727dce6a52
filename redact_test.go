package wsshard_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/seed-829c304d/wsshard"
)

// canary is the secret; it stands wherever an application may have one.
const canary = "c4n4ry"

// ledger is everything that a manager says to the outside, in every form.
type ledger struct {
	mu   sync.Mutex // protects following fields
	log  bytes.Buffer
	said []string
}

func (l *ledger) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(p)
}

// say takes down v as every verb prints it, and all that an error wraps.
func (l *ledger) say(v any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, verb := range []string{"%v", "%+v", "%#v", "%q", "%s"} {
		l.said = append(l.said, fmt.Sprintf(verb, v))
	}
	l.unwrap(v)
}

func (l *ledger) unwrap(v any) {
	switch v := v.(type) {
	case interface{ Unwrap() error }:
		if inner := v.Unwrap(); inner != nil {
			l.said = append(l.said, fmt.Sprintf("%v %+v %#v", inner, inner, inner))
			l.unwrap(inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range v.Unwrap() {
			l.said = append(l.said, fmt.Sprintf("%v %+v %#v", inner, inner, inner))
			l.unwrap(inner)
		}
	}
}

// check looks for the canary, whole or in pieces of another encoding.
func (l *ledger) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.log.Len() == 0 || len(l.said) == 0 {
		t.Errorf("%d bytes of log, %d things said: nothing was looked at", l.log.Len(), len(l.said))
	}
	for _, text := range append(strings.Split(l.log.String(), "\n"), l.said...) {
		if strings.Contains(strings.ToLower(text), canary) || strings.Contains(text, "YzRuNHJ5") {
			t.Errorf("leaks: %s", text)
		}
		for _, secret := range proxySecrets {
			if strings.Contains(text, secret) {
				t.Errorf("leaks %q: %s", secret, text)
			}
		}
	}
}

// New's own errors.
func TestConfigErrorsKeepSecrets(t *testing.T) {
	l := &ledger{}
	for _, proxy := range []string{
		"http://" + canary + ":" + canary + "@/", "ftp://" + canary + "@proxy", "http://" + canary + "%zz@proxy", "http://proxy/" + canary, "http://proxy?" + canary,
		"socks5://" + strings.Repeat(canary, 100) + "@proxy", "http://proxy:" + canary, canary, "http://" + canary + "@proxy:1:2", "http://pro xy" + canary,
	} {
		cfg := wsshard.Config{Logger: slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))}
		cfg.Connection.Proxy = proxy
		cfg.Connection.Header = http.Header{"Authorization": {canary + "\r\n"}}
		_, err := wsshard.New(&app{}, cfg)
		var ce *wsshard.ConfigError
		if !errors.As(err, &ce) {
			t.Errorf("%s: %v", proxy, err)
			continue
		}
		l.say(err)
		for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
			l.say(err)
		}
	}
	l.check(t)
}
