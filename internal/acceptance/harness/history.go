package harness

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what was a handler told?

// Opened names a connection.
type Opened struct {
	Shard int
	Gen   uint64
}

// History is what a handler was told.
type History struct {
	*Ledger
	Got    map[string][]int // numbers by topic, as they came
	Causes map[Opened][]error
	Events []wsshard.Event[string]
	errs   []failure
}

// failure is what OnError heard.
type failure struct {
	Err error
	At  time.Time
}

// Message is told what OnMessage heard.
func (h *History) Message(msg wsshard.Message) {
	topic, number, _ := strings.Cut(msg.String(), ":")
	n, err := strconv.Atoi(number)
	h.Mu.Lock()
	defer h.Mu.Unlock()
	if err == nil {
		h.Got[topic] = append(h.Got[topic], n)
	}
}

// Disconnected is told what OnDisconnect heard.
func (h *History) Disconnected(cause error, st wsshard.ConnectionState) {
	h.Say(cause)
	h.Mu.Lock()
	defer h.Mu.Unlock()
	k := Opened{st.ShardID, st.Generation}
	h.Causes[k] = append(h.Causes[k], cause)
}

// Failed is told what OnError heard.
func (h *History) Failed(err error, st wsshard.ConnectionState) {
	h.Say(err)
	h.Say(st)
	h.Mu.Lock()
	defer h.Mu.Unlock()
	h.errs = append(h.errs, failure{err, time.Now()})
}

// Event is told what OnEvent heard.
func (h *History) Event(ev wsshard.Event[string]) {
	h.Say(ev)
	h.Mu.Lock()
	defer h.Mu.Unlock()
	h.Events = append(h.Events, ev)
}

// Failures returns what OnError heard so far.
func (h *History) Failures() []failure {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	return slices.Clone(h.errs)
}

// Cause is what OnDisconnect heard of a connection; nil: nothing yet.
func (h *History) Cause(k Opened) error {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	if len(h.Causes[k]) == 0 {
		return nil
	}
	return h.Causes[k][0]
}

// Heard is how many events of a kind were heard.
func (h *History) Heard(kind wsshard.EventKind) (n int) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	for _, ev := range h.Events {
		if ev.Kind == kind {
			n++
		}
	}
	return n
}
