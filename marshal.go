package wsshard

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"
)

// This file answers: how do enumerations, errors, events, metrics and a Config look as text, in JSON and in a log?
//
// Enumerations marshal as their String. Errors, Event and Metrics marshal as text that is safe to show: never a header, a body,
// a query, a path or a payload. Fields keep their names; durations are nanoseconds.

// MarshalText returns String.
func (t MessageType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalText returns String.
func (r SequenceRecovery) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// MarshalText returns String.
func (s ShardSelectionStrategy) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalText returns String.
func (s SubscribeStatus) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalText returns String.
func (s ShardState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalText returns String.
func (k EventKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// MarshalText returns Error.
func (e *ConfigError) MarshalText() ([]byte, error) { return []byte(e.Error()), nil }

// MarshalText returns Error.
func (e *DialError) MarshalText() ([]byte, error) { return []byte(e.Error()), nil }

// MarshalText returns Error: neither Header nor Body.
func (e *HandshakeError) MarshalText() ([]byte, error) { return []byte(e.Error()), nil }

// MarshalText returns Error.
func (e *ProxyError) MarshalText() ([]byte, error) { return []byte(e.Error()), nil }

// MarshalText returns Error.
func (e *CloseError) MarshalText() ([]byte, error) { return []byte(e.Error()), nil }

// MarshalText returns Error, without the stack.
func (e *PanicError) MarshalText() ([]byte, error) { return []byte(e.Error()), nil }

// MarshalText returns Error.
func (e *SubscriptionError[S]) MarshalText() ([]byte, error) { return []byte(e.Error()), nil }

// MarshalJSON writes Err as its text, and each of Subs as S marshals, or else as fmt.Sprint shows it.
func (ev Event[S]) MarshalJSON() ([]byte, error) {
	type plain Event[S] // has no MarshalJSON
	return json.Marshal(struct {
		plain
		Err  *string // hides plain's, as Subs does
		Subs []json.RawMessage
	}{plain(ev), errorText(ev.Err), marshalEach(ev.Subs)})
}

// MarshalJSON writes LastError as its text.
func (m ShardMetrics) MarshalJSON() ([]byte, error) {
	type plain ShardMetrics // has no MarshalJSON
	return json.Marshal(struct {
		plain
		LastError *string // hides plain's
	}{plain(m), errorText(m.LastError)})
}

// MarshalJSON writes Shards as ShardMetrics does; none are an empty array.
func (m Metrics) MarshalJSON() ([]byte, error) {
	type plain Metrics // has no MarshalJSON
	if m.Shards == nil {
		m.Shards = []ShardMetrics{}
	}
	return json.Marshal(plain(m))
}

// errorText is nil for nil, so that JSON says null. Sprint survives an Error that panics.
func errorText(err error) *string {
	if err == nil {
		return nil
	}
	text := fmt.Sprint(err)
	return &text
}

func marshalEach[S comparable](subs []S) []json.RawMessage {
	if subs == nil {
		return nil
	}
	all := make([]json.RawMessage, len(subs))
	for i, s := range subs {
		raw, err := json.Marshal(s)
		if err != nil {
			raw, _ = json.Marshal(fmt.Sprint(s)) // a string always marshals
		}
		all[i] = raw
	}
	return all
}

// LogValue shows the fields that are set and differ from their defaults. It shows no credential: a proxy as scheme://host:port;
// of headers and subprotocols how many there are; of text pings, functions and pointers that they are set. fmt and
// encoding/json know nothing of it: give a Config to slog, not to them.
func (c Config) LogValue() slog.Value {
	return slog.GroupValue(changed("", reflect.ValueOf(c), reflect.ValueOf(Config{}.withDefaults(0)))...)
}

// changed lists the fields of c that are neither zero nor what they are in defaults.
func changed(prefix string, c, defaults reflect.Value) (attrs []slog.Attr) {
	for i := range c.NumField() {
		field, value := c.Type().Field(i), c.Field(i)
		switch {
		case !field.IsExported() || value.IsZero():
		case value.Kind() == reflect.Struct:
			attrs = append(attrs, changed(prefix+field.Name+".", value, defaults.Field(i))...)
		case value.Comparable() && value.Kind() != reflect.Interface && value.Equal(defaults.Field(i)):
		default:
			attrs = append(attrs, slog.Attr{Key: prefix + field.Name, Value: shown(field.Name, value)})
		}
	}
	return attrs
}

// shown is a field's value, as far as it is nobody's secret.
func shown(name string, v reflect.Value) slog.Value {
	switch x := v.Interface().(type) {
	case time.Duration:
		return slog.DurationValue(x)
	case fmt.Stringer:
		if v.Kind() == reflect.Int { // an enumeration of ours; a Limiter may print what it likes
			return slog.StringValue(x.String())
		}
	case string:
		return slog.StringValue(shownString(name, x))
	case []string:
		all := make([]string, len(x))
		for i, s := range x {
			all[i] = shownString(name, s)
		}
		return slog.StringValue(strings.Join(all, " "))
	case []int:
		return slog.StringValue(fmt.Sprint(x))
	}
	switch v.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64:
		return slog.AnyValue(v.Interface())
	case reflect.Map, reflect.Slice:
		return slog.IntValue(v.Len())
	}
	return slog.StringValue("set")
}

// shownString shows the strings that are known to be no secret, and of others that they are there.
func shownString(field, s string) string {
	switch field {
	case "Instance":
		return s
	case "SourceIPs":
		if addr, err := parseSource(s); err == nil {
			return addr.String()
		}
	case "Proxy", "Proxies":
		if u, err := parseProxy(s); err == nil {
			return redactProxy(u)
		}
	}
	return "…"
}
