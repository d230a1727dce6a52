package harness

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// This file answers: is a secret found in every disguise, and is nothing else taken for one?

func TestHides(t *testing.T) {
	for n := range 6 {
		text := strings.Repeat("x", n) + Canary + strings.Repeat("y", n)
		for _, said := range []string{
			text, strings.ToUpper(text), fmt.Sprintf("%x", text), fmt.Sprintf("% X", text), fmt.Sprintf("%#v", []byte(text)), fmt.Sprint([]byte(text)),
			base64.StdEncoding.EncodeToString([]byte(text)), base64.RawURLEncoding.EncodeToString([]byte(text)),
		} {
			if !Hides(said) {
				t.Errorf("not found in %s", said)
			}
		}
	}
	// Four characters of base64 in a certificate are these ones by chance once in a thousand times.
	for _, disguise := range disguises {
		if len(disguise) < 7 {
			t.Errorf("%q stands anywhere by chance", disguise)
		}
	}
}
