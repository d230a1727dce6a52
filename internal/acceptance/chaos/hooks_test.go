package chaos

import (
	"runtime"
	"slices"
	"time"

	"github.com/seed-829c304d/wsshard"
)

// This file answers: what goes wrong in the application's own code?

// chaosHookNames are the callbacks that panic, or take their goroutine away.
var chaosHookNames = []string{
	"URL", "ConnectionHeaders", "Login", "OnConnect", "OnDisconnect", "OnError", "OnEvent", "SubscriptionMessage", "UnsubscriptionMessage",
	"ResubscriptionMessage", "PingMessage", "Inspect", "IsHeartbeat", "IsDataMessage", "Acknowledge", "IsReady", "ValidateSequence",
	"ResetSequenceState", "OnMessage",
}

// chaosRareHooks are those that few runs have, or that are called for few requests.
var chaosRareHooks = []string{"ResubscriptionMessage", "IsHeartbeat", "IsDataMessage", "IsReady"}

// chaosNext is what the next call of the handler does.
type chaosNext struct {
	slow     time.Duration
	behind   bool            // what spoils OnMessage comes when slow is over, with what came meanwhile unread
	spoiled  map[string]bool // the callbacks that panic, or, where true, leave by runtime.Goexit
	sequence wsshard.SequenceValidation[string]
	call     int // a method that OnMessage calls, plus 1
	forbid   bool
}

// hooks are those that this run's handler has.
func (c *chaos) hooks() []string {
	lacks := map[string][]string{
		"unsubscriber": {"UnsubscriptionMessage"}, "resubscriber": {"ResubscriptionMessage"}, "ping": {"PingMessage"}, "acknowledger": {"Acknowledge"},
		"ready": {"IsReady"}, "sequence": {"ValidateSequence", "ResetSequenceState"}, "inspector": {"Inspect"},
	}
	list := slices.Clone(chaosHookNames)
	gone := c.lacks()
	for _, name := range gone {
		list = slices.DeleteFunc(list, func(hook string) bool { return slices.Contains(lacks[name], hook) })
	}
	if !slices.Contains(gone, "inspector") {
		list = slices.DeleteFunc(list, func(hook string) bool { return hook == "IsHeartbeat" || hook == "IsDataMessage" })
	}
	for _, hook := range list { // few runs have them, or few requests
		if slices.Contains(chaosRareHooks, hook) {
			list = append(list, slices.Repeat([]string{hook}, 5)...)
		}
	}
	return list
}

// lacks names the capabilities that this run's handler has not.
func (c *chaos) lacks() (list []string) {
	add := func(name string, lacks bool) {
		if lacks {
			list = append(list, name)
		}
	}
	add("unsubscriber", !c.unsubscribes())
	add("resubscriber", c.trait.Unsub != "both" && c.trait.Unsub != "resubscriber")
	add("sequence", c.trait.Seq == "none")
	add("ping", c.trait.Ping == "frames")
	add("acknowledger", !c.byAnswers())
	add("ready", c.trait.Proof != "ready")
	add("inspector", c.trait.Proof != "data" && c.trait.Keys == "none")
	return list
}

func (c *chaos) unsubscribes() bool {
	return c.trait.Unsub == "both" || c.trait.Unsub == "unsubscriber"
}

// dropsToRefresh reports whether the library asks again by "-X, +X".
func (c *chaos) dropsToRefresh() bool { return c.trait.Unsub == "unsubscriber" }

// hook panics, or takes the goroutine away, when it is the turn of this callback, which costs the message that it is about.
func (c *chaos) hook(where, text string) {
	c.mu.Lock()
	exit, now := c.next.spoiled[where]
	if now = now && !(where == "OnMessage" && c.next.behind); now {
		delete(c.next.spoiled, where)
		c.spoilLocked(where, text, exit)
	}
	c.mu.Unlock()
	if now {
		spoil(where, exit)
	}
}

func (c *chaos) spoilLocked(where, text string, exit bool) {
	c.panicCount++
	if text != "" {
		c.panicked[text] = true
	}
	if exit {
		c.drove.note("Goexit in " + where)
	} else {
		c.drove.note("panic in " + where)
	}
}

func spoil(where string, exit bool) {
	if exit {
		runtime.Goexit()
	}
	panic("chaos in " + where)
}
