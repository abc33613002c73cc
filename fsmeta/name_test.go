package fsmeta

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// nameVectors are those of layout.md.
var nameVectors = []struct{ name, entry string }{
	{"sha256:4f53cda18c2baa0c", "sha256:4f53cda18c2baa0c"},
	{"default/12/extract-81 sha256:ab", "default%2F12%2Fextract-81%20sha256:ab"},
	{".", "%2E"},
	{"..", "%2E."},
	{"../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"},
	{"a.b", "a.b"},
	{"%2F", "%252F"},
	{"~", "%7E"},
	{"A", "A"},
	{"a", "a"},
	{"-n", "-n"},
	{"a!*'()b", "a%21%2A%27%28%29b"},
	{"\x00\n", "%00%0A"},
	{"é", "%C3%A9"},
	{strings.Repeat("x", 255), strings.Repeat("x", 255)},
	{strings.Repeat("x", 256), strings.Repeat("x", 190) + "~" + hexSum(strings.Repeat("x", 256))},
	{strings.Repeat("/", 86), strings.Repeat("%2F", 63) + "~" + hexSum(strings.Repeat("/", 86))},
}

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestNameVectors(t *testing.T) {
	for _, v := range nameVectors {
		entry := encodeName(v.name)
		if entry != v.entry {
			t.Errorf("encodeName(%.40q) = %q, want %q", v.name, entry, v.entry)
		}
		name, hashed, ok := decodeName(entry)
		if !ok || hashed != strings.Contains(v.entry, "~") || !hashed && name != v.name {
			t.Errorf("decodeName(%q) = %.40q, %v, %v", entry, name, hashed, ok)
		}
	}
}

func TestDecodeRefusesWhatIsNeverEncoded(t *testing.T) {
	for _, entry := range []string{"", ".", "..", ".hidden", "a b", "%2f", "%41", "%", "%2", "a%", "a~b", "%FF", "é", "x\x00"} {
		if name, hashed, ok := decodeName(entry); ok && !hashed {
			t.Errorf("decodeName(%q) = %q, want it refused", entry, name)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, bad := range []string{"", "\xff", "a\xc3", strings.Repeat("x", maxName+1)} {
		if err := checkName("key", bad); !errors.Is(err, ErrInvalidName) {
			t.Errorf("checkName(%.20q) = %v, want ErrInvalidName", bad, err)
		}
	}
	if err := checkName("key", strings.Repeat("x", maxName)); err != nil {
		t.Error(err)
	}
}

func FuzzName(f *testing.F) {
	for _, v := range nameVectors {
		f.Add(v.name, v.entry)
	}
	f.Fuzz(func(t *testing.T, name, other string) {
		// Whatever stands in the directory is refused or decodes to what
		// encodes to it.
		if decoded, hashed, ok := decodeName(other); ok && !hashed && encodeName(decoded) != other {
			t.Errorf("decodeName(%q) = %q, which encodes to %q", other, decoded, encodeName(decoded))
		}
		if checkName("name", name) != nil {
			if utf8.ValidString(name) && name != "" && len(name) <= maxName {
				t.Errorf("%q refused", name)
			}
			return
		}
		entry := encodeName(name)
		if len(entry) == 0 || len(entry) > maxEntry || entry[0] == '.' || strings.ContainsAny(entry, "/\x00\n ") {
			t.Errorf("encodeName(%q) = %q", name, entry)
		}
		decoded, hashed, ok := decodeName(entry)
		if !ok || !hashed && decoded != name || hashed && !strings.HasSuffix(entry, hexSum(name)) {
			t.Errorf("%q encodes to %q, which decodes to %q, %v, %v", name, entry, decoded, hashed, ok)
		}
		if checkName("name", other) == nil && other != name && encodeName(other) == entry {
			t.Errorf("%q and %q share %q", name, other, entry)
		}
	})
}
