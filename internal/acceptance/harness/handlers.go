package harness

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what else may a handler be able to do?

// Courtier is a handler whose server answers "ack 7 +a,b -c !why": request 7 (0: by topic), confirmed, rejected, error.
// Requests carry their id in the app's ids.
type Courtier struct {
	*App
	Acknowledges
	resubscribes
}

// NewCourtier has a handler for answers by request: "ack 1 +a -b !" confirms a, rejects b, with an error.
func NewCourtier(a *App) wsshard.Handler[string] {
	return Courtier{a,
		func(m wsshard.Message, _ wsshard.ConnectionState) (ack wsshard.Ack[string], ok bool) {
			words := strings.Fields(m.String())
			if len(words) == 0 || words[0] != "ack" {
				return ack, false
			}
			ack.Request, _ = strconv.ParseUint(words[1], 10, 64)
			for _, word := range words[2:] {
				switch topics := strings.Split(word[1:], ","); word[0] {
				case '+':
					ack.Confirmed = topics
				case '-':
					ack.Rejected = topics
				case '!':
					ack.Err = ErrWhy
				}
			}
			return ack, true
		},
		func(req wsshard.Request[string]) (wsshard.Message, error) { return a.Request("=", req) },
	}
}

// ErrWhy is why a Courtier says that something was rejected.
var ErrWhy = errors.New("why")

// HandlerOnly implements Handler and nothing else, on the value.
type HandlerOnly struct{}

func (HandlerOnly) URL(context.Context, wsshard.ConnectionState) (string, error) {
	return "ws://srv/", nil
}

func (HandlerOnly) SubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text("+" + strings.Join(req.Subs, ",")), nil
}

func (HandlerOnly) OnMessage(context.Context, wsshard.Message, wsshard.ConnectionState) {}

// Stepper is an app whose part of connecting a test decides on.
type Stepper struct {
	*App
	URLStep    func(ctx context.Context) (string, error)
	HeaderStep func(ctx context.Context) (http.Header, error)
	LoginStep  func(ctx context.Context, conn wsshard.LoginConn) error

	mu   sync.Mutex
	errs []error
	at   []time.Time
}

func (s *Stepper) URL(ctx context.Context, st wsshard.ConnectionState) (string, error) {
	if s.URLStep != nil {
		return s.URLStep(ctx)
	}
	return s.App.URL(ctx, st)
}

func (s *Stepper) ConnectionHeaders(ctx context.Context, _ wsshard.ConnectionState) (http.Header, error) {
	if s.HeaderStep != nil {
		return s.HeaderStep(ctx)
	}
	return nil, nil
}

func (s *Stepper) Login(ctx context.Context, conn wsshard.LoginConn, _ wsshard.ConnectionState) error {
	if s.LoginStep != nil {
		return s.LoginStep(ctx, conn)
	}
	return nil
}

func (s *Stepper) OnError(_ context.Context, err error, _ wsshard.ConnectionState) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, err)
	s.at = append(s.at, time.Now())
	return true
}

// Failures returns what OnError heard, and when.
func (s *Stepper) Failures() ([]error, []time.Time) {
	After(0)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.errs, s.at
}

func (s *Stepper) With(a *App) wsshard.Handler[string] {
	s.App = a
	return s
}

// Single capabilities, to be embedded beside *app: a handler has exactly those that it embeds.
type (
	Inspects     func(wsshard.Message, wsshard.ConnectionState) wsshard.Verdict[string]
	Heartbeats   func(wsshard.Message) bool
	DetectsData  func(wsshard.Message) bool
	Acknowledges func(wsshard.Message, wsshard.ConnectionState) (wsshard.Ack[string], bool)
	Readies      func(wsshard.Message, wsshard.ConnectionState) bool
	PingsWith    func(wsshard.ConnectionState) wsshard.Message
	resubscribes func(wsshard.Request[string]) (wsshard.Message, error)
	Validates    struct {
		Ask   func(wsshard.Message, wsshard.ConnectionState) wsshard.SequenceValidation[string]
		Reset func(wsshard.ConnectionState)
	}
)

func (f Inspects) Inspect(m wsshard.Message, st wsshard.ConnectionState) wsshard.Verdict[string] {
	return f(m, st)
}
func (f Heartbeats) IsHeartbeat(m wsshard.Message) bool    { return f(m) }
func (f DetectsData) IsDataMessage(m wsshard.Message) bool { return f(m) }
func (f Acknowledges) Acknowledge(m wsshard.Message, st wsshard.ConnectionState) (wsshard.Ack[string], bool) {
	return f(m, st)
}
func (f Readies) IsReady(m wsshard.Message, st wsshard.ConnectionState) bool { return f(m, st) }
func (f PingsWith) PingMessage(st wsshard.ConnectionState) wsshard.Message   { return f(st) }
func (f resubscribes) ResubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return f(req)
}
func (f Validates) ValidateSequence(m wsshard.Message, st wsshard.ConnectionState) wsshard.SequenceValidation[string] {
	return f.Ask(m, st)
}
func (f Validates) ResetSequenceState(st wsshard.ConnectionState) {
	if f.Reset != nil {
		f.Reset(st)
	}
}

// ByTopic tells whose data a message of wstest.Topics is.
func ByTopic(m wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	if topic, _, ok := strings.Cut(m.String(), ":"); ok && topic != "ack" {
		v.Subs = []string{topic}
	}
	return v
}

// IsText says whether a message is one of these.
func IsText(texts ...string) func(wsshard.Message) bool {
	return func(m wsshard.Message) bool {
		for _, text := range texts {
			if m.String() == text {
				return true
			}
		}
		return false
	}
}

// AcksOfTopics understands what wstest.Topics answers: "ack:+a,b" confirms a and b.
func AcksOfTopics(m wsshard.Message, _ wsshard.ConnectionState) (ack wsshard.Ack[string], ok bool) {
	text, ok := strings.CutPrefix(m.String(), "ack:")
	if ok && text[0] != '-' {
		ack.Confirmed = strings.Split(text[1:], ",")
	}
	return ack, ok
}

// LoginFunc is a Login.
type LoginFunc = func(ctx context.Context, conn wsshard.LoginConn, st wsshard.ConnectionState) error

// LoginWorld is Bubble with a Login.
func LoginWorld(t *testing.T, cfg wsshard.Config, login LoginFunc, script func(w *World)) {
	t.Helper()
	Bubble(t, cfg, func(a *App) wsshard.Handler[string] { return &loggingIn{App: a, login: login} }, script)
}

// loggingIn is an app with a Login.
type loggingIn struct {
	*App
	login LoginFunc
}

func (l *loggingIn) Login(ctx context.Context, conn wsshard.LoginConn, st wsshard.ConnectionState) error {
	return l.login(ctx, conn, st)
}

// NoAnswer is a network that never answers.
func NoAnswer(ctx context.Context, _ int, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}
