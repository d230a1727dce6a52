// Package hook is what the tests of internal/acceptance may do to the library, or see of it, that no application can: their only
// back door. The root registers its functions, and nobody else imports this package but those tests.
//
// This file answers: what is it that no application can, and some test must?
//
// A manager is passed as any, since managers are generic: it must be a *wsshard.ShardManager.
package hook

var (
	// SetSeed makes the jitter of managers made from now on reproducible; 0 ends that.
	SetSeed func(seed uint64)

	// NoteLate has a manager believe that a timer fired far past its due time: that the process had been stopped.
	NoteLate func(manager any)

	// Without has a manager take its handler for one that lacks these capabilities, each named by its field of the root's
	// capabilities. Before Start.
	Without func(manager any, names ...string)

	// HoldsKeys reports whether the live connection of a shard remembers keys, for a switchover or after one.
	HoldsKeys func(manager any, shard int) bool

	// NamedTopics is how many topics a shard remembers data of.
	NamedTopics func(manager any, shard int) int
)
