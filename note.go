package wsshard

// This file answers: how is something logged that a lock was held for? A slog.Handler is the application's code.

// note is a line for the log. A list, because a slice would take from a manager that it is comparable, as it is announced.
type note struct {
	say  func()
	next *note // older
}

// noteLocked leaves a line to unlock.
func (m *ShardManager[S]) noteLocked(say func()) { m.notes = &note{say, m.notes} }

// unlock is mu.Unlock for those who may leave notes.
func (m *ShardManager[S]) unlock() {
	notes := m.notes
	m.notes = nil
	m.mu.Unlock()
	notes.tell()
}

// tell says the oldest first.
func (n *note) tell() {
	if n != nil {
		n.next.tell()
		n.say()
	}
}
