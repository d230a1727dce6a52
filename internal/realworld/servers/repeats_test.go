package servers

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: does the handler remove what two connections brought in different company?

func TestRepeatsAreRemovedMessageByMessage(t *testing.T) {
	msg := func(sid, subject string, number int) string {
		return fmt.Sprintf("MSG %s %s 3\r\n%d x\r\n", subject, sid, number)
	}
	a := func(number int) string { return msg("a", "a", number) }
	b := func(number int) string { return msg("b", "b", number) }
	for _, test := range []struct {
		name              string
		old, next         []string // frames, of what each connection delivers
		received, removed string
	}{
		{"the new one splits", []string{a(1) + b(1)}, []string{a(1), b(1), a(2)}, "a1 b1 a2", "a1 b1"},
		{"the new one packs", []string{a(1), b(1)}, []string{a(1) + b(1) + a(2)}, "a1 b1 a2", "a1 b1"},
		{"both pack", []string{a(1) + b(1), a(2)}, []string{a(1), b(1) + a(2), b(2)}, "a1 b1 a2 b2", "a1 b1 a2"},
		{"nothing twice", []string{a(1), b(4)}, []string{a(2), b(5)}, "a1 b4 a2 b5", ""},
		{"a hole stays a hole", []string{a(1)}, []string{a(5), a(6)}, "a1 a5 a6", ""},
		{"two subscriptions to one subject", []string{msg("a", "a", 1) + msg("*", "a", 1)}, []string{msg("*", "a", 1)}, "a1 a1", "a1"},
		{"no number", []string{"MSG a a 1\r\nx\r\n"}, []string{"MSG a a 1\r\nx\r\n"}, "a0 a0", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var received, removed []string
			said := func(d Delivery) string { return fmt.Sprint(d.Subject, d.Number()) }
			s, err := New(Options{
				Receive: func(d Delivery) { received = append(received, said(d)) },
				Removed: func(d Delivery) { removed = append(removed, said(d)) },
			})
			if err != nil {
				t.Fatal(err)
			}
			for i, frames := range [][]string{test.old, test.next} {
				st := wsshard.ConnectionState{Generation: uint64(i + 1)}
				s.conns[connID{generation: st.Generation}] = &conn{}
				for _, frame := range frames {
					v := s.Inspect(wsshard.Text(frame), st)
					s.OnMessage(t.Context(), wsshard.Message{Value: v.Value}, st)
				}
			}
			if got := strings.Join(received, " "); got != test.received {
				t.Errorf("received %q, want %q", got, test.received)
			}
			if got := strings.Join(removed, " "); got != test.removed {
				t.Errorf("removed %q, want %q", got, test.removed)
			}
		})
	}
}

// Two subscriptions that bring one message have two keys: on one connection neither is a repeat of the other.
func TestKeysNameTheSubscription(t *testing.T) {
	keys := []string{}
	for _, sid := range []string{"a.b", "a.*", "*.b"} {
		v, _, _ := asker(t).hears("MSG a.b " + sid + " 1\r\n7\r\n")
		keys = append(keys, v.Key)
	}
	if slices.Sort(keys); len(slices.Compact(keys)) != 3 {
		t.Errorf("keys %q", keys)
	}
}
