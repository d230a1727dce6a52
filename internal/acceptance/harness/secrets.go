package harness

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: does anything that is said show a secret?

// The credentials that no error, log line or metric may show.
const CanaryUser, CanaryPassword = "alice-canary", "s3cret:p@ss/w?rd#"

// CanaryURL is their userinfo in a proxy's URL, percent-encoded.
const CanaryURL = "alice%2Dcanary:s3cret%3Ap%40ss%2Fw%3Frd%23@"

// ProxySecrets are the forms in which they could be seen.
var ProxySecrets = []string{
	CanaryUser, CanaryPassword, CanaryURL, "s3cret",
	base64.StdEncoding.EncodeToString([]byte(CanaryUser + ":" + CanaryPassword)),
}

// Canary is the secret; it stands wherever an application may have one.
const Canary = "c4n4ry"

// Ledger is everything that a manager says to the outside, in every form.
type Ledger struct {
	Mu   sync.Mutex // protects following fields
	Log  bytes.Buffer
	said []string
}

func (l *Ledger) Write(p []byte) (int, error) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	return l.Log.Write(p)
}

// verbs are all that fmt knows, but %T and %p, which show no value.
var verbs = []string{"%v", "%+v", "%#v", "%q", "%s", "%x", "%X", "% x", "%d", "%t", "%o", "%b", "%c", "%U", "%e", "%g"}

// Say takes down v in every form in which an application may show it, and so all that an error wraps.
func (l *Ledger) Say(v any) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
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
func (l *Ledger) show(v any) {
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

func (l *Ledger) unwrap(err error) {
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
		whole := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("-", shift) + Canary + "---"))
		// Those of its characters that the secret alone decides. Fewer would stand in a certificate by chance.
		all = append(all, strings.ToLower(whole[(8*shift+5)/6:8*(shift+len(Canary))/6]))
	}
	return append(all, fmt.Sprintf("%x", Canary), fmt.Sprintf("% x", Canary), strings.Trim(fmt.Sprint([]byte(Canary)), "[]"),
		strings.Join(strings.Fields(strings.ReplaceAll(fmt.Sprintf("% #x", Canary), " ", ", ")), " "))
}()

// Hides reports whether text has the canary in it, whole or in another encoding.
func Hides(text string) bool {
	text = strings.ToLower(text)
	return strings.Contains(text, Canary) || slices.ContainsFunc(disguises, func(d string) bool { return strings.Contains(text, d) })
}

// Check looks for the canary, whole or in pieces of another encoding.
func (l *Ledger) Check(t *testing.T) {
	t.Helper()
	l.Mu.Lock()
	defer l.Mu.Unlock()
	if l.Log.Len() == 0 || len(l.said) == 0 {
		t.Errorf("%d bytes of log, %d things said: nothing was looked at", l.Log.Len(), len(l.said))
	}
	for _, text := range append(strings.Split(l.Log.String(), "\n"), l.said...) {
		if Hides(text) {
			t.Errorf("leaks: %s", text)
		}
		for _, secret := range ProxySecrets {
			if strings.Contains(text, secret) {
				t.Errorf("leaks %q: %s", secret, text)
			}
		}
	}
}
