package format

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

const (
	hexUpper = "0123456789ABCDEF"

	// Where the escaped form of a name is too long, its entry ends in hashMark and the SHA-256
	// of the name. The mark is in no escaped name.
	hashMark  = '~'
	hashTail  = 1 + 2*sha256.Size
	maxPrefix = MaxEntry - hashTail // bytes of the escaped form that stand before the mark
)

// CheckName returns an error if name can't name a snapshot (nor be the key of a label, for
// which the rule is the same). The error begins with argument.
func CheckName(argument, name string) error {
	switch {
	case name == "":
		return errors.New(argument + " is empty")
	case len(name) > MaxName:
		return fmt.Errorf("%s %.32q… has %d bytes, the most is %d", argument, name, len(name), MaxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%s %.64q is not valid UTF-8", argument, name)
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

// EncodeName returns the directory entry of a name. No two names share an entry, and no
// entry leaves its directory.
func EncodeName(name string) string {
	plain := true
	for i := 0; i < len(name) && plain; i++ {
		plain = keptByte(name[i], i == 0)
	}
	if plain && len(name) <= MaxEntry {
		return name
	}
	b := make([]byte, 0, MaxEntry+3)
	cut := 0 // the end of the prefix, if the escaped form proves too long
	for i := 0; i < len(name); i++ {
		if c := name[i]; keptByte(c, i == 0) {
			b = append(b, c)
		} else {
			b = append(b, '%', hexUpper[c>>4], hexUpper[c&15])
		}
		if len(b) <= maxPrefix {
			cut = len(b)
		}
		if len(b) > MaxEntry {
			sum := sha256.Sum256([]byte(name))
			return string(hex.AppendEncode(append(b[:cut], hashMark), sum[:]))
		}
	}
	return string(b)
}

// DecodeName is the inverse of EncodeName. For an entry of the hashed form it returns hashed
// and no name: the name is in the snapshot's metadata.json. For an entry that EncodeName
// never returns it returns ok == false.
func DecodeName(entry string) (name string, hashed, ok bool) {
	if len(entry) > MaxEntry {
		return "", false, false
	}
	if cut := len(entry) - hashTail; cut > 0 && entry[cut] == hashMark {
		// The next byte of the name did not fit: it takes three bytes, or one.
		start, err := url.PathUnescape(entry[:cut])
		_, isHash := parseHex(entry[cut+1:], 2*sha256.Size)
		ok = err == nil && cut > maxPrefix-3 && EncodeName(start) == entry[:cut] && isHash
		return "", ok, ok
	}
	name, err := url.PathUnescape(entry)
	if err != nil || CheckName("name", name) != nil || EncodeName(name) != entry {
		return "", false, false
	}
	return name, false, true
}

// IsHashed reports whether an entry is of the hashed form: it does not spell its name out.
func IsHashed(entry string) bool {
	_, hashed, _ := DecodeName(entry)
	return hashed
}

// LinkTarget returns the target of the symlink "parent" of a snapshot that stands on parent.
func LinkTarget(parent string) string { return "../" + EncodeName(parent) }

// ParseLinkTarget returns the parent's entry; ok is false for a target that LinkTarget never
// returns.
func ParseLinkTarget(target string) (entry string, ok bool) {
	entry, _ = strings.CutPrefix(target, "../")
	if _, _, ok = DecodeName(entry); !ok || len(entry) == len(target) {
		return "", false
	}
	return entry, true
}
