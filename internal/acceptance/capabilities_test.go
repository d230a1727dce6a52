package acceptance

import (
	"context"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/seed-829c304d/wsshard"
)

// handlerOnly implements Handler and nothing else, on the value.
type handlerOnly struct{}

func (handlerOnly) URL(context.Context, wsshard.ConnectionState) (string, error) {
	return "ws://srv/", nil
}

func (handlerOnly) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("+" + strings.Join(req.Subs, ",")), nil
}

func (handlerOnly) OnMessage(context.Context, wsshard.Message, wsshard.ConnectionState) {}

// resolve returns what New logs of a handler.
func resolve(t *testing.T, h wsshard.Handler[string]) *logbook {
	t.Helper()
	book := newLogbook()
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
		{handlerOnly{}, nil},
		{&handlerOnly{}, nil},
		{&every{}, all},
		{inspecting{&every{}}, append(slices.Clone(all), "Inspector[string]")},
	} {
		book := resolve(t, tc.h)
		lines := book.from(slog.LevelDebug)
		most := 2
		if slices.Contains(tc.want, "Inspector[string]") {
			most = 1
		}
		if len(lines) != most || lines[0].level != slog.LevelDebug || most == 2 && (lines[1].level != slog.LevelInfo || !strings.Contains(lines[1].msg, "twice")) {
			t.Fatalf("%T: %d lines, want %d: %v", tc.h, len(lines), most, lines)
		}
		got, _ := lines[0].attrs["capabilities"].([]string)
		slices.Sort(got)
		slices.Sort(tc.want)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%T: %q\nwant %q", tc.h, got, tc.want)
		}
	}
}

// Handlers with one method each that is never called.
type (
	wrongSignature struct{ handlerOnly }
	wrongTopics    struct{ handlerOnly }
	wrongResult    struct{ handlerOnly }
	onPointer      struct{ handlerOnly }
	halfSequence   struct{ handlerOnly }
	allWrong       struct{ handlerOnly }
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
	wrongValidate struct{ handlerOnly }
	pointerReset  struct{ halfSequence }
	variadic      struct{ handlerOnly }
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
		{onPointer{}, "OnConnect", "ConnectHandler", "*acceptance.onPointer", "context.Context, wsshard.ConnectionState"},
		{halfSequence{}, "ValidateSequence", "SequenceValidator[string]", "SequenceValidation[string]", "SequenceValidation[string]"},
		{wrongReset{}, "ResetSequenceState", "SequenceValidator[string]", "ConnectionState) error", "func(wsshard.ConnectionState)"},
		{wrongValidate{}, "ValidateSequence", "SequenceValidator[string]", "wsshard.Message) wsshard", "wsshard.ConnectionState) wsshard"},
		{pointerReset{}, "ResetSequenceState", "SequenceValidator[string]", "*acceptance.pointerReset", "func(wsshard.ConnectionState)"},
		{variadic{}, "Subscriptions", "InitialSubscriber[string]", "...string", "func() []string"},
	} {
		lines := resolve(t, tc.h).from(slog.LevelWarn)
		if len(lines) != 1 {
			t.Errorf("%T: %d warnings, want 1: %v", tc.h, len(lines), lines)
			continue
		}
		l := lines[0]
		if l.text("method") != tc.method || l.text("interface") != tc.iface {
			t.Errorf("%T: it warns of %v", tc.h, l.attrs)
		}
		if !strings.Contains(l.text("has"), tc.hasIn) || !strings.Contains(l.text("needs"), tc.needsIn) {
			t.Errorf("%T: it has %q and needs %q", tc.h, l.text("has"), l.text("needs"))
		}
	}
	if l := resolve(t, halfSequence{}).from(slog.LevelWarn)[0]; l.text("missing") != "ResetSequenceState" {
		t.Errorf("what is missing is %q", l.text("missing"))
	}
	if l := resolve(t, wrongReset{}).from(slog.LevelWarn)[0]; l.text("missing") != "" {
		t.Errorf("%q is missing", l.text("missing"))
	}
	if lines := resolve(t, &onPointer{}).from(slog.LevelWarn); len(lines) != 0 {
		t.Errorf("a handler that is right: %v", lines)
	}
}

// TestEveryCapabilityIsLookedAt: no capability is left out, of New or of this test.
func TestEveryCapabilityIsLookedAt(t *testing.T) {
	lines := resolve(t, allWrong{}).from(slog.LevelWarn)
	var warned []string
	for _, l := range lines {
		warned = append(warned, l.text("method"))
	}
	h := reflect.TypeFor[allWrong]()
	for i := range h.NumMethod() {
		name := h.Method(i).Name
		if _, base := reflect.TypeFor[handlerOnly]().MethodByName(name); base {
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
	bubble(t, wsshard.Config{}, func(*app) wsshard.Handler[string] { return handlerOnly{} }, func(w *world) {
		w.start("a")
		w.wantTopics("a")
		if w.m.Handler() != wsshard.Handler[string](handlerOnly{}) {
			t.Errorf("Handler returned %v", w.m.Handler())
		}
	})
}
