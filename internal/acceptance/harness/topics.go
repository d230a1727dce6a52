package harness

import (
	"strings"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: whose handlers know their topics, keys and acknowledgements?

// AsTopics encodes a request as the server of topics reads it.
func AsTopics(sign string, req wsshard.Request[string]) (wsshard.Message, error) {
	return wsshard.Text(sign + strings.Join(req.Subs, ",")), nil
}

// Snapshots is an app that asks for fresh snapshots by a message of its own.
type Snapshots struct{ *App }

func (h Snapshots) ResubscriptionMessage(req wsshard.Request[string]) (wsshard.Message, error) {
	return h.Request("=", req)
}

// Tagged is an app with an Inspector. A message is "topic:payload"; one whose payload begins with k has its text as key.
type Tagged struct{ *App }

func (Tagged) Inspect(msg wsshard.Message, _ wsshard.ConnectionState) (v wsshard.Verdict[string]) {
	text := msg.String()
	topic, payload, ok := strings.Cut(text, ":")
	switch {
	case text == "maintenance":
		v.Switchover, v.NoData = true, true
	case topic == "ack" || topic == "nack" || !ok:
		v.NoData = true
	default:
		v.Subs = []string{topic}
		if strings.HasPrefix(payload, "k") {
			v.Key = text
		}
	}
	return v
}

// AckOf reads "ack:+a,b", as wstest.Topics sends it, and "nack:a,b".
func AckOf(msg wsshard.Message) (a wsshard.Ack[string], ok bool) {
	kind, list, _ := strings.Cut(msg.String(), ":")
	switch subs := strings.Split(strings.TrimLeft(list, "+="), ","); kind {
	case "ack":
		a.Confirmed = subs
	case "nack":
		a.Rejected = subs
	default:
		return a, false
	}
	return a, !strings.HasPrefix(list, "-")
}

// TaggedAcks is Tagged, and its topics are proven by answers.
type TaggedAcks struct{ Tagged }

func (TaggedAcks) Acknowledge(msg wsshard.Message, _ wsshard.ConnectionState) (wsshard.Ack[string], bool) {
	return AckOf(msg)
}

// WithTags wraps an App in Tagged; WithTagAcks wraps it in TaggedAcks.
func WithTags(a *App) wsshard.Handler[string]    { return Tagged{a} }
func WithTagAcks(a *App) wsshard.Handler[string] { return TaggedAcks{Tagged{a}} }
