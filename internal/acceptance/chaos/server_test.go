package chaos

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/seed-829c304d/wsshard/internal/wstest"
)

// This file answers: how does the server of chaos answer? All of it runs in synctest bubbles.

// textPong reports whether a text answers the application's pings, and so the server may send heartbeats of its own. In the other
// runs heartbeats answer, and each does: nobody could tell it from another.
func (c *chaos) textPong() bool { return c.trait.Ping == "messages" && c.seed%2 == 0 }

func (c *chaos) answerToPing() string {
	if c.textPong() {
		return "pong"
	}
	return "heartbeat"
}

// serve has the server answer as the trait Proof says.
func (c *chaos) serve() {
	if c.skew > 0 {
		c.topics.Lag(c.honour, func(p *wstest.Peer) time.Duration { return time.Duration(p.Index()%3) * c.skew })
	}
	c.topics.Other(func(p *wstest.Peer, text string) {
		if text == "ping" {
			p.Send(c.answerToPing())
		}
	})
	switch c.trait.Proof {
	case "topic", "request", "partial", "late":
		c.topics.Answer(c.answer)
	case "flaky":
		c.topics.Refuse(c.refuse)
		c.topics.Answer(c.answer)
	case "ready":
		c.topics.Answer(func(p *wstest.Peer, _ string, _ []string) {
			c.mu.Lock()
			c.honoured[p]++
			n := c.honoured[p]
			c.mu.Unlock()
			p.Send(fmt.Sprint("ready:", n))
		})
	}
}

// refuse rejects one topic in twenty.
func (c *chaos) refuse(p *wstest.Peer, topic string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.honest || c.answers.IntN(20) > 0 {
		return false
	}
	c.refusals[topic] = append(c.refusals[topic], refusal{time.Now(), p})
	return true
}

// answer is one for a whole request, topic by topic, in parts, too late, or none. The request's number follows "#".
func (c *chaos) answer(p *wstest.Peer, request string, refused []string) {
	text, id, _ := strings.Cut(request, "#")
	whole := []string{"whole:" + id}
	c.mu.Lock()
	honest, dice := c.honest, c.answers.IntN(100)
	wait := time.Duration(c.answers.Int64N(int64(3 * chaosAck / 2)))
	c.mu.Unlock()
	switch topics := strings.Split(text[1:], ","); {
	case len(refused) > 0:
		c.drove.note("a topic was rejected")
		p.Send("rejected:" + id + ":" + strings.Join(refused, ","))
	case c.trait.Proof == "topic" || c.trait.Proof == "late" && dice%2 == 0:
		if whole = nil; text[0] != '-' { // else it would answer the next subscription too
			whole = []string{"topics:" + strings.Join(topics, ",")}
		}
	case c.trait.Proof == "partial" && len(topics) > 1 && text[0] != '-':
		c.drove.note("a part of a request was answered")
		half := len(topics) / 2
		whole = []string{"part:" + id + ":" + strings.Join(topics[:half], ","), "part:" + id + ":" + strings.Join(topics[half:], ",")}
	}
	switch {
	case len(refused) > 0 || len(whole) == 0:
	case c.trait.Proof == "late" && !honest && dice < 50:
		c.drove.note("an answer came late")
		time.AfterFunc(wait, func() { p.Send(whole[0]) })
	case c.trait.Proof == "flaky" && !honest && dice < 15:
		c.drove.note("an answer was missing")
	case len(whole) == 2:
		p.Send(whole[0])
		time.AfterFunc(wait/20, func() { p.Send(whole[1]) })
	default:
		p.Send(whole[0])
	}
}

// prompt reports whether what the server does with a request is told at once, always.
func (c *chaos) prompt() bool { return c.trait.Proof != "late" && c.trait.Proof != "flaky" }

// byAnswers reports whether an Acknowledger hears of each topic.
func (c *chaos) byAnswers() bool {
	return slices.Contains([]string{"topic", "request", "partial", "late", "flaky"}, c.trait.Proof)
}

// chaosRefusals are the answers to a handshake that is refused.
var chaosRefusals = []int{401, 403, 407, 418, 429, 500, 502, 503}

// reject refuses handshakes for a while.
func (c *chaos) reject(status int, retryAfter string, d time.Duration) {
	h := http.Header{}
	if retryAfter != "" {
		h.Set("Retry-After", retryAfter)
	}
	c.srv.Reject(func(*http.Request) (int, http.Header, string) {
		c.drove.note(fmt.Sprint("refused with ", status))
		return status, h, ""
	})
	time.Sleep(d)
	c.srv.Reject(nil)
}
