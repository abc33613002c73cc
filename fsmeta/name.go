package fsmeta

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	maxName  = 32768 // bytes in a snapshot's name
	maxEntry = 255   // bytes in a directory entry
	hexUpper = "0123456789ABCDEF"

	// Entries of names too long for their escaped form end in hashMark and the
	// SHA-256 of the name. The mark is never part of an escaped name.
	hashMark = '~'
	hashTail = 1 + 2*sha256.Size
)

// checkName reports whether name can name a snapshot. The error says which
// argument it was and wraps ErrInvalidName.
func checkName(argument, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is empty: %w", argument, ErrInvalidName)
	case len(name) > maxName:
		return fmt.Errorf("%s %.32q… has %d bytes, the most is %d: %w", argument, name, len(name), maxName, ErrInvalidName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%s %q is not valid UTF-8: %w", argument, name, ErrInvalidName)
	}
	return nil
}

// keptByte reports whether byte c of a name stands for itself in an entry.
func keptByte(c byte, first bool) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	case c == '.':
		return !first
	}
	return strings.IndexByte("_:@+=,-", c) >= 0
}

// encodeName returns the directory entry that holds the snapshot name. No two
// names share an entry, and no entry leaves its directory.
func encodeName(name string) string {
	plain := true
	for i := 0; i < len(name) && plain; i++ {
		plain = keptByte(name[i], i == 0)
	}
	if plain && len(name) <= maxEntry {
		return name
	}
	var b strings.Builder
	cut := 0 // where the escaped form would be cut to make room for the hash
	for i := 0; i < len(name); i++ {
		if c := name[i]; keptByte(c, i == 0) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hexUpper[c>>4])
			b.WriteByte(hexUpper[c&15])
		}
		if b.Len() <= maxEntry-hashTail {
			cut = b.Len()
		}
		if b.Len() > maxEntry {
			sum := sha256.Sum256([]byte(name))
			return b.String()[:cut] + string(hashMark) + hex.EncodeToString(sum[:])
		}
	}
	return b.String()
}

// decodeName is the inverse of encodeName. For an entry that ends in a hash it
// returns hashed and no name: the name is in the snapshot's metadata. For an
// entry that encodeName never returns it returns ok == false.
func decodeName(entry string) (name string, hashed, ok bool) {
	if len(entry) > hashTail && entry[len(entry)-hashTail] == hashMark {
		return "", true, len(entry) <= maxEntry
	}
	var b strings.Builder
	for i := 0; i < len(entry); i++ {
		c := entry[i]
		if c != '%' {
			b.WriteByte(c)
			continue
		}
		if i+2 >= len(entry) {
			return "", false, false
		}
		hi, lo := strings.IndexByte(hexUpper, entry[i+1]), strings.IndexByte(hexUpper, entry[i+2])
		if hi < 0 || lo < 0 {
			return "", false, false
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	name = b.String()
	return name, false, checkName("name", name) == nil && encodeName(name) == entry
}

// isHashed reports whether an entry stands for a name that it does not spell out.
func isHashed(entry string) bool {
	_, hashed, _ := decodeName(entry)
	return hashed
}
