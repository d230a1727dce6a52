package wsshard

// This file answers: how is something logged that a lock was held for? A slog.Handler is the application's code.

// note is a line for the log. A list, because a slice would take from a manager that it is comparable, as it is announced.
type note struct {
	say  func()
	next *note // older
}

// tell says the oldest first.
func (n *note) tell() {
	if n != nil {
		n.next.tell()
		n.say()
	}
}
