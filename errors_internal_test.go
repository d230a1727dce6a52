package wsshard

import (
	"strings"
	"testing"
)

// What a peer says is shown in one line of at most 200 of its bytes, and never with half a character.
func TestPrintable(t *testing.T) {
	for said, want := range map[string]string{
		"":                              "",
		"bye":                           "bye",
		"a\r\nb\x1b[2J\x00\"\\":         `a\r\nb\x1b[2J\x00\"\\`,
		"\xff\u202e":                    `\xff\u202e`,
		strings.Repeat("x", 200):        strings.Repeat("x", 200),
		strings.Repeat("x", 201):        strings.Repeat("x", 200) + "…",
		strings.Repeat("x", 199) + "€":  strings.Repeat("x", 199) + "…",
		strings.Repeat("x", 197) + "€y": strings.Repeat("x", 197) + "€…",
	} {
		if got := printable(said); got != want {
			t.Errorf("%q is shown as %q, want %q", said, got, want)
		}
	}
}
