package format

import (
	"crypto/sha256"
	"encoding/binary"
)

// Names is how many snapshots there are, and a digest of their names that does not depend on
// their order: the sum modulo 2^64 of HashOfName of each. A reader that lists the snapshots
// compares, and so finds out that one is missing.
//
// Known is false only where a person wrote a header without it. A line and a sealed header
// always state both numbers: their writer counts first.
type Names struct {
	Count uint64
	Sum   uint64
	Known bool
}

// HashOfName is a name's share of the digest: the first eight bytes of its SHA-256, as a big
// endian number.
func HashOfName(name string) uint64 {
	sum := sha256.Sum256([]byte(name))
	return binary.BigEndian.Uint64(sum[:])
}

// HashOfEntry is HashOfName of the name that an entry stands for. An entry of the hashed
// form carries it. For an entry that EncodeName never returns, ok is false.
func HashOfEntry(entry string) (hash uint64, ok bool) {
	name, hashed, ok := DecodeName(entry)
	switch {
	case !ok:
		return 0, false
	case hashed:
		return parseHex(entry[len(entry)-hashTail+1:][:namesDigits], namesDigits)
	}
	return HashOfName(name), true
}

// With returns the names after one is added.
func (n Names) With(hash uint64) Names {
	n.Count++
	n.Sum += hash
	return n
}

// Without returns the names after one is removed. The count stops at 0: it was wrong before
// (a directory was added by hand), and the sum goes on to say so.
func (n Names) Without(hash uint64) Names {
	if n.Count > 0 {
		n.Count--
	}
	n.Sum -= hash
	return n
}

// Minus returns by how much n differs from o: equal changes of both leave that.
func (n Names) Minus(o Names) Names { return Names{n.Count - o.Count, n.Sum - o.Sum, true} }

// After returns the names after changes: a change without a before-image adds its name, one
// without an after-image removes it.
func (n Names) After(changes []Change) Names {
	for _, c := range changes {
		switch {
		case c.Before == nil && c.After != nil:
			n = n.With(HashOfName(c.Name))
		case c.Before != nil && c.After == nil:
			n = n.Without(HashOfName(c.Name))
		}
	}
	return n
}
