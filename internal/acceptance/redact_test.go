package acceptance

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
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

// verbs are all that fmt knows, but %T and %p, which show no value.
var verbs = []string{"%v", "%+v", "%#v", "%q", "%s", "%x", "%X", "% x", "%d", "%t", "%o", "%b", "%c", "%U", "%e", "%g"}

// say takes down v in every form in which an application may show it, and so all that an error wraps.
func (l *ledger) say(v any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.show(v)
	switch v := v.(type) {
	case wsshard.Event[string]:
		l.unwrap(v.Err)
	case wsshard.ShardMetrics:
		l.unwrap(v.LastError)
	case error:
		l.unwrap(v)
	}
}

// show prints v by every verb, as JSON, and by both of slog's handlers.
func (l *ledger) show(v any) {
	for _, verb := range verbs {
		l.said = append(l.said, fmt.Sprintf(verb, v))
	}
	if text, err := json.Marshal(v); err == nil {
		l.said = append(l.said, string(text))
	} else {
		l.said = append(l.said, err.Error())
	}
	var lines bytes.Buffer
	slog.New(slog.NewJSONHandler(&lines, nil)).Info("said", "v", v)
	slog.New(slog.NewTextHandler(&lines, nil)).Info("said", "v", v)
	l.said = append(l.said, lines.String())
}

func (l *ledger) unwrap(err error) {
	if err == nil {
		return
	}
	l.show(err)
	switch err := err.(type) {
	case interface{ Unwrap() error }:
		l.unwrap(err.Unwrap())
	case interface{ Unwrap() []error }:
		for _, inner := range err.Unwrap() {
			l.unwrap(inner)
		}
	}
}

// disguises are the encodings in which the canary may pass: base64 at each of three offsets, hexadecimal, decimal bytes.
var disguises = func() (all []string) {
	for shift := range 3 {
		whole := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("-", shift) + canary + "---"))
		all = append(all, strings.ToLower(whole[shift+1:len(canary)]))
	}
	return append(all, fmt.Sprintf("%x", canary), fmt.Sprintf("% x", canary), strings.Trim(fmt.Sprint([]byte(canary)), "[]"),
		strings.Join(strings.Fields(strings.ReplaceAll(fmt.Sprintf("% #x", canary), " ", ", ")), " "))
}()

// hides reports whether text has the canary in it, whole or in another encoding.
func hides(text string) bool {
	text = strings.ToLower(text)
	return strings.Contains(text, canary) || slices.ContainsFunc(disguises, func(d string) bool { return strings.Contains(text, d) })
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
		if hides(text) {
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
