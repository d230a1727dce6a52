package gate

import "testing"

// This file answers: which switchovers wait for a turn?

// MaxConcurrent bounds switchovers, but for those that wait for nobody: the host has given notice, the old connection is silent, or
// lost. They stay free of it when they go to another door, or fail.
func TestTurns(t *testing.T) {
	for name, free := range map[string]func(g *Gate, t *Ticket){
		"noticed": (*Gate).Noticed,
		"silent":  (*Gate).SkipTurn,
		"lost":    func(g *Gate, t *Ticket) { g.Raise(t, Down) },
	} {
		t.Run(name, func(t *testing.T) {
			gateTest(t, Rules{}, func(s *street) {
				s.come("", Down).leave(Up)
				s.g.Resize(10, 1)
				first, second, third := s.come("first", Asked), s.come("second", Asked), s.come("third", Routine)
				all := []*guest{first, second, third}
				s.wantIn(all, "first")
				free(s.g, third.Ticket)
				s.wantIn(all, "first", "third")
				third.leave(Failed)
				s.g.Join(s.t.Context(), third.Ticket, s.key)
				s.wantIn(all, "first", "third")
				third.leave(Up)
				s.g.ReturnTurn(third.Ticket) // it had none
				s.wantIn(all, "first")

				free(s.g, first.Ticket) // which has the turn, and fails
				first.leave(Failed)
				s.wantIn(all, "second")
				s.g.Join(s.t.Context(), first.Ticket, s.key)
				s.wantIn(all, "first", "second")
			})
		})
	}
}
