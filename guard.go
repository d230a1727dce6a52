package wsshard

import (
	"context"
	"log/slog"
	"path"
	"reflect"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// This file answers: how is the application's code called, and who is inside such a call?

// callbackKey marks the contexts that a manager gives to callbacks; its value is that manager's core.
type callbackKey struct{}

// errGoexit is the Value of a PanicError for a callback that left by runtime.Goexit.
const errGoexit = "runtime.Goexit"

// guard calls the application and survives its panics. A callback that neither returns nor panics (runtime.Goexit, as
// t.Fatal does) ends the goroutine after the deferred calls; left hears of it.
//
// Its frame on the stack also tells that a method was called from inside a callback: onStack finds it by this name.
//
//go:noinline
func (c *core[S]) guard(where string, shard int, f func(), left func(error)) (err error) {
	call := c.running.begin(where, shard)
	returned := false
	defer func() {
		c.running.end(call)
		if returned {
			return
		}
		err = c.panicked(where, recover())
		if _, gone := isGoexit(err); gone && left != nil {
			left(err)
		}
	}()
	f()
	returned = true
	return nil
}

// panicked counts and logs what recover returned; nil means runtime.Goexit.
func (c *core[S]) panicked(where string, value any) error {
	if value == nil {
		value = errGoexit
	}
	err := &PanicError{Value: value, Stack: debug.Stack()}
	c.count.panics.Add(1)
	if c.panics.note(c.log, where, value) {
		c.log.Error("panic in a callback", "callback", where, "panic", value, "stack", string(err.Stack))
	}
	return err
}

func isGoexit(err error) (p *PanicError, ok bool) {
	p, _ = err.(*PanicError)
	return p, p != nil && p.Value == any(errGoexit)
}

// noShard is where a callback is the whole manager's.
const noShard = -1

// apart runs guarded code in a goroutine of its own and waits for it, so that not even runtime.Goexit harms the caller.
func (c *core[S]) apart(where string, shard int, f func()) error {
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() { done <- err }() // also when f left by runtime.Goexit
		err = c.guard(where, shard, f, func(gone error) { err = gone })
	}()
	return <-done
}

// Labels of the goroutines of a manager, for profiles.
const (
	labelLoop    = "wsshard" // read, write, shard, dial, events
	labelManager = "manager" // its number in this process
	labelShard   = "shard"
)

// label marks the goroutine that calls it, and those that it starts, for profiles.
func (c *core[S]) label(ctx context.Context, loop string, shard int) {
	labels := []string{labelLoop, loop, labelManager, strconv.FormatUint(c.number, 10)}
	if shard != noShard {
		labels = append(labels, labelShard, strconv.Itoa(shard))
	}
	pprof.SetGoroutineLabels(pprof.WithLabels(ctx, pprof.Labels(labels...)))
}

// frame is a method of this package that is looked for on the stack.
type frame struct{ typ, method string }

// These are found by their names: whoever renames one must rename it here, and its comment says so.
var (
	inGuard     = frame{"core", "guard"}
	inMessage   = frame{"reader", "message"}    // the read loop's callbacks have no guard of their own
	inHandle    = frame{"guardedLog", "Handle"} // nor have log handlers
	inWriteLoop = frame{"writer", "writeLoop"}
)

// inCallback reports whether waiting here would wait for a callback of this manager: ctx comes from one, or the caller's
// own stack goes through guard. The stack does not say whose guard it is; ctx does, so where ctx names another manager's
// callback, that is believed.
func (c *core[S]) inCallback(ctx context.Context) bool {
	if of := ctx.Value(callbackKey{}); of != nil {
		return of == any(c)
	}
	return onStack(inGuard, inMessage, inHandle)
}

// onStack reports whether one of these methods is among the callers.
func onStack(wanted ...frame) bool {
	var pcs [64]uintptr
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs[:])
		frames := runtime.CallersFrames(pcs[:n])
		for {
			f, more := frames.Next()
			if name, ours := strings.CutPrefix(f.Function, packagePath); ours {
				for _, w := range wanted {
					if w.is(name) {
						return true
					}
				}
			}
			if !more {
				break
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}

// is reports whether a stack calls the method so: "(*core[...]).guard", "guardedLog.Handle".
func (f frame) is(name string) bool {
	typ, ok := strings.CutSuffix(name, f.method)
	if !ok {
		return false
	}
	typ, _ = strings.CutPrefix(typ, "(*")
	rest, ok := strings.CutPrefix(typ, f.typ)
	return ok && (rest == "." || rest == ")." || rest == "[...])." || rest == "[...].")
}

// packagePath is what the functions of this package begin with on a stack, wherever the package lives: there the dots of a path's
// last element are escaped.
var packagePath = func() string {
	dir, last := path.Split(reflect.TypeFor[Config]().PkgPath())
	return dir + strings.ReplaceAll(last, ".", "%2e") + "."
}()

// guardedLimiter is an application's ConnectLimiter, whose panics harm nobody.
type guardedLimiter[S comparable] struct {
	core *core[S]
	l    ConnectLimiter
}

func (g guardedLimiter[S]) Wait(ctx context.Context, host, egress string) (err error) {
	panicked := g.core.guard("ConnectLimiter.Wait", noShard, func() { err = g.l.Wait(ctx, host, egress) }, nil)
	if panicked != nil {
		return panicked
	}
	return err
}

func (g guardedLimiter[S]) Block(host, egress string, until time.Time) {
	g.core.guard("ConnectLimiter.Block", noShard, func() { g.l.Block(host, egress, until) }, nil)
}

// guardedLog is an application's slog.Handler. A panic costs its line only; it is counted, and told to nobody.
type guardedLog struct {
	slog.Handler
	panics *atomic.Uint64
}

func (g guardedLog) Enabled(ctx context.Context, level slog.Level) bool {
	defer g.survive()
	return g.Handler.Enabled(ctx, level)
}

// Handle is a callback, too: onStack finds it by this name.
func (g guardedLog) Handle(ctx context.Context, r slog.Record) error {
	defer g.survive()
	return g.Handler.Handle(ctx, r)
}

func (g guardedLog) WithAttrs(attrs []slog.Attr) (with slog.Handler) {
	defer g.survive()
	with = g
	return guardedLog{g.Handler.WithAttrs(attrs), g.panics}
}

func (g guardedLog) survive() {
	if recover() != nil {
		g.panics.Add(1)
	}
}

// withCallback marks ctx as one that is given to callbacks of this manager.
func (c *core[S]) withCallback(ctx context.Context) context.Context {
	return context.WithValue(ctx, callbackKey{}, c)
}
