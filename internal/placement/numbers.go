package placement

import "math/bits"

// This file answers: which is the next number of a set?

// numbers is a set of small numbers. Level 0 has a bit for each number, and each level above has a bit for each word
// below that is not zero; so a search skips 64 empty words with one look, and a change goes up only where a word turns
// from or to zero. The zero value is empty.
type numbers [6][]uint64 // 64^6 exceeds all that a position can count

func (n *numbers) has(i int) bool {
	return i>>6 < len(n[0]) && n[0][i>>6]>>(i&63)&1 != 0
}

func (n *numbers) put(i int, in bool) {
	if in {
		n.add(i)
	} else {
		n.remove(i)
	}
}

func (n *numbers) add(i int) {
	for l := range n {
		word, bit := i>>6, uint64(1)<<(i&63)
		for word >= len(n[l]) {
			n[l] = append(n[l], 0)
		}
		before := n[l][word]
		n[l][word] |= bit
		if before != 0 {
			return
		}
		i = word
	}
}

func (n *numbers) remove(i int) {
	if !n.has(i) {
		return
	}
	for l := range n {
		word, bit := i>>6, uint64(1)<<(i&63)
		n[l][word] &^= bit
		if n[l][word] != 0 {
			return
		}
		i = word
	}
}

// next returns the lowest number of the set that is i or above.
func (n *numbers) next(i int) (lowest int, ok bool) {
	for l := range n {
		word := i >> 6
		if word >= len(n[l]) {
			return 0, false
		}
		if rest := n[l][word] >> (i & 63) << (i & 63); rest != 0 {
			i = word<<6 | bits.TrailingZeros64(rest)
			for l--; l >= 0; l-- {
				i = i<<6 | bits.TrailingZeros64(n[l][i])
			}
			return i, true
		}
		i = word + 1
	}
	return 0, false
}
