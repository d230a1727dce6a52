package lifecycle

import (
	"context"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/acceptance/harness"
)

// This file answers: which optional interfaces has a handler, and which did it miss by a little?

// resolve returns what New logs of a handler.
func resolve(t *testing.T, h wsshard.Handler[string]) *harness.Logbook {
	t.Helper()
	book := harness.NewLogbook()
	if _, err := wsshard.New(h, wsshard.Config{Logger: slog.New(book)}); err != nil {
		t.Fatal(err)
	}
	return book
}

// TestCapabilitiesAreListed: in one debug line; without an Inspector another line says what that means.
func TestCapabilitiesAreListed(t *testing.T) {
	all := []string{
		"InitialSubscriber[string]", "ConnectHandler", "Authenticator", "DisconnectHandler", "ErrorHandler",
		"Unsubscriber[string]", "Resubscriber[string]", "SubscriptionLimiter", "HeaderProvider", "PingMessenger",
		"HeartbeatDetector", "DataDetector", "SequenceValidator[string]", "Acknowledger[string]", "ReadyDetector",
		"EventObserver[string]",
	}
	for _, tc := range []struct {
		h    wsshard.Handler[string]
		want []string
	}{
		{harness.HandlerOnly{}, nil},
		{&harness.HandlerOnly{}, nil},
		{&harness.Every{}, all},
		{harness.Inspecting{Every: &harness.Every{}}, append(slices.Clone(all), "Inspector[string]")},
	} {
		book := resolve(t, tc.h)
		lines := book.From(slog.LevelDebug)
		most := 2
		if slices.Contains(tc.want, "Inspector[string]") {
			most = 1
		}
		if len(lines) != most || lines[0].Level != slog.LevelDebug || most == 2 && (lines[1].Level != slog.LevelInfo || !strings.Contains(lines[1].Msg, "twice")) {
			t.Fatalf("%T: %d lines, want %d: %v", tc.h, len(lines), most, lines)
		}
		got, _ := lines[0].Attrs["capabilities"].([]string)
		slices.Sort(got)
		slices.Sort(tc.want)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%T: %q\nwant %q", tc.h, got, tc.want)
		}
	}
}

// Handlers with one method each that is never called.
type (
	wrongSignature struct{ harness.HandlerOnly }
	wrongTopics    struct{ harness.HandlerOnly }
	wrongResult    struct{ harness.HandlerOnly }
	onPointer      struct{ harness.HandlerOnly }
	halfSequence   struct{ harness.HandlerOnly }
	allWrong       struct{ harness.HandlerOnly }
)

func (wrongSignature) OnDisconnect(error) {}

func (wrongTopics) UnsubscriptionMessage(wsshard.Request[int]) (wsshard.Message, error) {
	return wsshard.Message{}, nil
}

func (wrongResult) IsHeartbeat(wsshard.Message) int { return 0 }

func (*onPointer) OnConnect(context.Context, wsshard.ConnectionState) ([]wsshard.Message, error) {
	return nil, nil
}

func (halfSequence) ValidateSequence(wsshard.Message, wsshard.ConnectionState) (v wsshard.SequenceValidation[string]) {
	return v
}

// Interfaces with two methods, of which one is right.
type (
	wrongReset    struct{ halfSequence }
	wrongValidate struct{ harness.HandlerOnly }
	pointerReset  struct{ halfSequence }
	variadic      struct{ harness.HandlerOnly }
)

func (wrongReset) ResetSequenceState(wsshard.ConnectionState) error { return nil }

func (wrongValidate) ResetSequenceState(wsshard.ConnectionState) {}
func (wrongValidate) ValidateSequence(wsshard.Message) (v wsshard.SequenceValidation[string]) {
	return v
}

func (*pointerReset) ResetSequenceState(wsshard.ConnectionState) {}

func (variadic) Subscriptions(...string) []string { return nil }

func (allWrong) ValidateSequence()         {}
func (allWrong) ResetSequenceState()       {}
func (allWrong) Subscriptions()            {}
func (allWrong) OnConnect()                {}
func (allWrong) Login()                    {}
func (allWrong) OnDisconnect()             {}
func (allWrong) OnError()                  {}
func (allWrong) UnsubscriptionMessage()    {}
func (allWrong) ResubscriptionMessage()    {}
func (allWrong) MaxSubscriptionsPerShard() {}
func (allWrong) ConnectionHeaders()        {}
func (allWrong) PingMessage()              {}
func (allWrong) IsHeartbeat()              {}
func (allWrong) IsDataMessage()            {}
func (allWrong) Acknowledge()              {}
func (allWrong) IsReady()                  {}
func (allWrong) Inspect()                  {}
func (allWrong) OnEvent()                  {}

// TestMethodThatIsNeverCalled: a capability's name with another signature, or on the pointer when the value was passed, gives
// one warning that names both.
func TestMethodThatIsNeverCalled(t *testing.T) {
	for _, tc := range []struct {
		h                             wsshard.Handler[string]
		method, iface, hasIn, needsIn string
	}{
		{wrongSignature{}, "OnDisconnect", "DisconnectHandler", "error)", "context.Context, error, wsshard.ConnectionState)"},
		{&wrongSignature{}, "OnDisconnect", "DisconnectHandler", "error)", "context.Context, error, wsshard.ConnectionState)"},
		{wrongTopics{}, "UnsubscriptionMessage", "Unsubscriber[string]", "Request[int]", "Request[string]"},
		{wrongResult{}, "IsHeartbeat", "HeartbeatDetector", "int", "bool"},
		{onPointer{}, "OnConnect", "ConnectHandler", "*lifecycle.onPointer", "context.Context, wsshard.ConnectionState"},
		{halfSequence{}, "ValidateSequence", "SequenceValidator[string]", "SequenceValidation[string]", "SequenceValidation[string]"},
		{wrongReset{}, "ResetSequenceState", "SequenceValidator[string]", "ConnectionState) error", "func(wsshard.ConnectionState)"},
		{wrongValidate{}, "ValidateSequence", "SequenceValidator[string]", "wsshard.Message) wsshard", "wsshard.ConnectionState) wsshard"},
		{pointerReset{}, "ResetSequenceState", "SequenceValidator[string]", "*lifecycle.pointerReset", "func(wsshard.ConnectionState)"},
		{variadic{}, "Subscriptions", "InitialSubscriber[string]", "...string", "func() []string"},
	} {
		lines := resolve(t, tc.h).From(slog.LevelWarn)
		if len(lines) != 1 {
			t.Errorf("%T: %d warnings, want 1: %v", tc.h, len(lines), lines)
			continue
		}
		l := lines[0]
		if l.Text("method") != tc.method || l.Text("interface") != tc.iface {
			t.Errorf("%T: it warns of %v", tc.h, l.Attrs)
		}
		if !strings.Contains(l.Text("has"), tc.hasIn) || !strings.Contains(l.Text("needs"), tc.needsIn) {
			t.Errorf("%T: it has %q and needs %q", tc.h, l.Text("has"), l.Text("needs"))
		}
	}
	if l := resolve(t, halfSequence{}).From(slog.LevelWarn)[0]; l.Text("missing") != "ResetSequenceState" {
		t.Errorf("what is missing is %q", l.Text("missing"))
	}
	if l := resolve(t, wrongReset{}).From(slog.LevelWarn)[0]; l.Text("missing") != "" {
		t.Errorf("%q is missing", l.Text("missing"))
	}
	if lines := resolve(t, &onPointer{}).From(slog.LevelWarn); len(lines) != 0 {
		t.Errorf("a handler that is right: %v", lines)
	}
}

// TestEveryCapabilityIsLookedAt: no capability is left out, of New or of this test.
func TestEveryCapabilityIsLookedAt(t *testing.T) {
	lines := resolve(t, allWrong{}).From(slog.LevelWarn)
	var warned []string
	for _, l := range lines {
		warned = append(warned, l.Text("method"))
	}
	h := reflect.TypeFor[allWrong]()
	for i := range h.NumMethod() {
		name := h.Method(i).Name
		if _, base := reflect.TypeFor[harness.HandlerOnly]().MethodByName(name); base {
			continue
		}
		if name == "ResetSequenceState" { // its interface warns of the first method only
			name = "ValidateSequence"
		}
		if !slices.Contains(warned, name) && !(name == "ValidateSequence" && slices.Contains(warned, "ResetSequenceState")) {
			t.Errorf("no warning of %s; warned of %q", name, warned)
		}
	}
	if len(lines) != 17 {
		t.Errorf("%d warnings, want 17, one a capability: %q", len(lines), warned)
	}
}

// TestValueHandler: a handler need not be a pointer, nor a struct.
func TestValueHandler(t *testing.T) {
	harness.Bubble(t, wsshard.Config{}, func(*harness.App) wsshard.Handler[string] { return harness.HandlerOnly{} }, func(w *harness.World) {
		w.Start("a")
		w.WantTopics("a")
		if w.M.Handler() != wsshard.Handler[string](harness.HandlerOnly{}) {
			t.Errorf("Handler returned %v", w.M.Handler())
		}
	})
}
