package wsshard

import (
	"cmp"
	"log/slog"
	"reflect"
)

// This file answers: which optional interfaces does the handler implement?

// capabilities are the optional interfaces of a handler, nil where it has them not. They are looked for once.
type capabilities[S comparable] struct {
	initial       InitialSubscriber[S]
	connect       ConnectHandler
	authenticator Authenticator
	disconnect    DisconnectHandler
	failure       ErrorHandler
	unsubscriber  Unsubscriber[S]
	resubscriber  Resubscriber[S]
	limiter       SubscriptionLimiter
	headers       HeaderProvider
	ping          PingMessenger
	heartbeat     HeartbeatDetector
	data          DataDetector
	sequence      SequenceValidator[S]
	acknowledger  Acknowledger[S]
	ready         ReadyDetector
	inspector     Inspector[S]
	observer      EventObserver[S]
}

// findCapabilities also warns of methods that have a capability's name and are not that capability.
func findCapabilities[S comparable](h Handler[S], log *slog.Logger) capabilities[S] {
	var c capabilities[S]
	var found []string
	look(h, &c.initial, &found, log)
	look(h, &c.connect, &found, log)
	look(h, &c.authenticator, &found, log)
	look(h, &c.disconnect, &found, log)
	look(h, &c.failure, &found, log)
	look(h, &c.unsubscriber, &found, log)
	look(h, &c.resubscriber, &found, log)
	look(h, &c.limiter, &found, log)
	look(h, &c.headers, &found, log)
	look(h, &c.ping, &found, log)
	look(h, &c.heartbeat, &found, log)
	look(h, &c.data, &found, log)
	look(h, &c.sequence, &found, log)
	look(h, &c.acknowledger, &found, log)
	look(h, &c.ready, &found, log)
	look(h, &c.inspector, &found, log)
	look(h, &c.observer, &found, log)
	log.Debug("handler", "capabilities", found)
	return c
}

// look asserts h to be a C. If h has only some of C's methods as they should be, look warns of the one that is wrong: of one
// whose signature differs, else of one that is declared on the pointer though the value was passed, else of one that is there
// while another is missing.
func look[C any](h any, to *C, found *[]string, log *slog.Logger) {
	want := reflect.TypeFor[C]()
	if c, ok := h.(C); ok {
		*to = c
		*found = append(*found, want.Name())
		return
	}
	have := reflect.TypeOf(h)
	var differs, onPointer, fine, missing string
	for i := range want.NumMethod() {
		m := want.Method(i)
		of, ok := have.MethodByName(m.Name)
		onValue := ok
		if !ok && have.Kind() != reflect.Pointer {
			of, ok = reflect.PointerTo(have).MethodByName(m.Name)
		}
		switch {
		case !ok:
			missing = m.Name
		case !sameSignature(of.Type, m.Type):
			differs = cmp.Or(differs, m.Name)
		case !onValue:
			onPointer = cmp.Or(onPointer, m.Name)
		default:
			fine = cmp.Or(fine, m.Name)
		}
	}
	name := cmp.Or(differs, onPointer, fine)
	if name == "" {
		return
	}
	of, ok := have.MethodByName(name)
	if !ok {
		of, _ = reflect.PointerTo(have).MethodByName(name)
	}
	needs, _ := want.MethodByName(name)
	attrs := []any{"method", name, "has", of.Type.String(), "interface", want.Name(), "needs", needs.Type.String()}
	if missing != "" {
		attrs = append(attrs, "missing", missing)
	}
	log.Warn("a method of the handler is never called", attrs...)
}

// sameSignature compares a method, whose first parameter is its receiver, with a method of an interface, which has none.
func sameSignature(method, of reflect.Type) bool {
	if method.NumIn() != of.NumIn()+1 || method.NumOut() != of.NumOut() || method.IsVariadic() != of.IsVariadic() {
		return false
	}
	for i := range of.NumIn() {
		if method.In(i+1) != of.In(i) {
			return false
		}
	}
	for i := range of.NumOut() {
		if method.Out(i) != of.Out(i) {
			return false
		}
	}
	return true
}
