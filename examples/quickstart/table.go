package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/seed-829c304d/wsshard"
	"github.com/seed-829c304d/wsshard/internal/feed"
)

// This file answers: what is shown meanwhile?

// maxRows of the table: what scrolled away could not be redrawn.
const maxRows = 16

// screen shows a table that is redrawn in place on a terminal, and lines elsewhere.
type screen struct {
	out   io.Writer
	tty   bool
	began time.Time

	mu       sync.Mutex // protects following, and the order of what is printed
	table    string     // what is on the terminal now, below the lines
	received map[int]uint64
	drawn    time.Time
}

func newScreen(out io.Writer, began time.Time) *screen {
	return &screen{out: out, tty: isTerminal(out), began: began, received: make(map[int]uint64), drawn: began}
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

func (s *screen) interval() time.Duration {
	if s.tty {
		return 500 * time.Millisecond
	}
	return time.Second
}

// say prints a line that stays, above the table.
func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.print(wrap(fmt.Sprintf("%7.3fs  %s", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...)), 10), s.table)
}

// event prints a change of state. On a terminal the table shows it.
func (s *screen) event(ev wsshard.Event[string]) {
	if s.tty {
		return
	}
	switch ev.Kind {
	case wsshard.EventConnected:
		s.say("shard %d: connected (connection %d)", ev.ShardID, ev.Generation)
	case wsshard.EventDisconnected:
		if !errors.Is(ev.Err, wsshard.ErrStopped) {
			s.say("shard %d: connection lost: %v", ev.ShardID, ev.Err)
		}
	case wsshard.EventSwitchoverStarted, wsshard.EventSwitchoverDone, wsshard.EventSwitchoverFailed:
		trigger := ""
		if ev.Switchover != nil {
			trigger = " (" + ev.Switchover.Trigger + ")"
		}
		what := strings.TrimPrefix(ev.Kind.String(), "switchover-")
		s.say("shard %d: switchover %s%s", ev.ShardID, what, trigger)
	case wsshard.EventBreakerOpen:
		s.say("dials wait for %v: %v", ev.Delay.Round(time.Millisecond), ev.Err)
	case wsshard.EventBreakerClosed:
		s.say("the feed takes connections again")
	case wsshard.EventParked, wsshard.EventSubscriptionRejected:
		s.say("shard %d: %v: %v", ev.ShardID, ev.Kind, ev.Err)
	}
}

// draw shows how the shards are now.
// unsent is what the feed could not send.
func (s *screen) draw(m wsshard.Metrics, seen feed.Totals, unsent uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	past := max(now.Sub(s.drawn).Seconds(), 0.001)
	s.drawn = now
	rates := make(map[int]float64, len(m.Shards))
	total := 0.0
	for _, sh := range m.Shards {
		rates[sh.ShardID] = float64(sh.MessagesReceived-s.received[sh.ShardID]) / past
		total += rates[sh.ShardID]
		s.received[sh.ShardID] = sh.MessagesReceived
	}
	line := wrap(fmt.Sprintf("%7.3fs  %d of %d connected, %.0f/s, not sent: %d, lost: %d",
		now.Sub(s.began).Seconds(), m.ActiveConnections, len(m.Shards), total, unsent, lost(seen.Missed, unsent)), 10)
	if s.tty {
		s.print("", rows(m.Shards, rates)+line)
	} else {
		s.print(line, "")
	}
}

// print replaces the table by text and a new table.
func (s *screen) print(text, table string) {
	erase := ""
	if n := strings.Count(s.table, "\n"); n > 0 {
		erase = fmt.Sprintf("\x1b[%dA\r\x1b[J", n)
	}
	shown := table
	if s.tty { // a line that is cut, not wrapped, on a narrow terminal: the next erase counts lines
		shown = "\x1b[?7l" + table + "\x1b[?7h"
	}
	_, _ = io.WriteString(s.out, erase+text+shown)
	s.table = table
}

// width is what every line keeps to, so that a narrow terminal and half a screen show all of it.
const width = 60

// wrap breaks text at spaces into lines of width, the later ones indented. A word that is longer stands alone.
func wrap(text string, indent int) string {
	var b strings.Builder
	for len([]rune(text)) > width {
		at := strings.LastIndex(string([]rune(text)[:width+1]), " ")
		if len(strings.TrimSpace(text[:max(at, 0)])) == 0 {
			at = strings.Index(strings.TrimLeft(text, " "), " ") + len(text) - len(strings.TrimLeft(text, " "))
			if !strings.Contains(strings.TrimLeft(text, " "), " ") {
				break
			}
		}
		b.WriteString(text[:at] + "\n")
		text = strings.Repeat(" ", indent) + strings.TrimLeft(text[at:], " ")
	}
	return b.String() + text + "\n"
}

// lost is what was missed beyond what the feed could not send: what was sent and is on its way counts until it arrives.
func lost(missed, unsent uint64) uint64 {
	if missed <= unsent {
		return 0
	}
	return missed - unsent
}

func rows(shards []wsshard.ShardMetrics, rates map[int]float64) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "shard\tstate\ttopics\tmsg/s\tRTT\tconnection\t")
	for i, sh := range shards {
		if i == maxRows {
			break
		}
		fmt.Fprintf(w, "%d\t%v\t%d\t%.0f\t%s\t%d\t\n",
			sh.ShardID, sh.State, sh.SubscriptionCount, rates[sh.ShardID], rtt(sh.RTT), sh.Generation)
	}
	_ = w.Flush()
	if more := len(shards) - maxRows; more > 0 {
		fmt.Fprintf(&b, "and %d more\n", more)
	}
	return b.String()
}

func rtt(d time.Duration) string {
	if d == 0 {
		return "-" // no ping was answered yet
	}
	return d.Round(10 * time.Microsecond).String()
}
