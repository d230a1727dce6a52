package wsshard

import (
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

// look asserts h to be a C.
func look[C any](h any, to *C, found *[]string, log *slog.Logger) {
	want := reflect.TypeFor[C]()
	if c, ok := h.(C); ok {
		*to = c
		*found = append(*found, want.Name())
		return
	}
	have := reflect.TypeOf(h)
	for i := range want.NumMethod() {
		m := want.Method(i)
		of, ok := have.MethodByName(m.Name)
		if !ok && have.Kind() != reflect.Pointer { // declared on the pointer, and the value was passed
			of, ok = reflect.PointerTo(have).MethodByName(m.Name)
		}
		if ok {
			log.Warn("a method of the handler is never called", "method", m.Name, "has", of.Type.String(), "interface", want.Name(), "needs", m.Type.String())
			return
		}
	}
}
