package wsshard

import (
	"log/slog"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/seed-829c304d/wsshard/internal/wsconn"
)

// This file answers: what do all parts of a manager share?

// core is what New made and nobody changes, with the counters to which everybody adds. The manager, its runs, shards, sessions
// and switchovers hold it, so that they need not hold the manager.
type core[S comparable] struct {
	h        Handler[S]
	caps     capabilities[S]
	cfg      *Config // complete
	log      *slog.Logger
	dialer   *dialer
	pending  *wsconn.Unfinished // unfinished messages of all connections
	asks     *sharedUniform     // when URL is asked again
	checkKey bool               // values of S may be unequal to themselves, or impossible to hash
	seed     uint64             // of jitter; 0: none, as always but in tests
	number   uint64             // of this manager in its process, for the labels of its goroutines
	base     time.Time          // instants count from it

	// Everybody adds to these.
	count     counters
	panics    panicLog
	running   callbacks
	requestID atomic.Uint64
	pausedAt  atomic.Int64 // instant when somebody noticed last that the process had been stopped
}

// testSeed makes jitter reproducible; tests set it before New.
var testSeed uint64

// instant is t on the manager's clock, which is monotonic and counts from New, marked.
func (c *core[S]) instant(t time.Time) int64 { return mark(t.Sub(c.base)) }

// at is the point in time of an instant.
func (c *core[S]) at(instant int64) time.Time { return c.base.Add(clocked(instant)) }

// needsKeyCheck reports whether values of t can be NaN or impossible to hash.
func needsKeyCheck(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Interface, reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return true
	case reflect.Array:
		return needsKeyCheck(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if needsKeyCheck(t.Field(i).Type) {
				return true
			}
		}
	}
	return false
}

// keys returns those of subs that can be found again in a map: what the application's hooks name may be anything.
func (c *core[S]) keys(subs []S) []S {
	if !c.checkKey || !slices.ContainsFunc(subs, func(sub S) bool { return !c.isKey(sub) }) {
		return subs
	}
	return slices.DeleteFunc(slices.Clone(subs), func(sub S) bool { return !c.isKey(sub) })
}

// isKey reports whether sub can be found again in a map.
func (c *core[S]) isKey(sub S) (ok bool) {
	if !c.checkKey {
		return true
	}
	defer func() {
		if recover() != nil { // unhashable
			ok = false
		}
	}()
	_, ok = map[S]struct{}{sub: {}}[sub]
	return ok
}
