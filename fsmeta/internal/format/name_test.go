package format

import (
	"crypto/sha256"
	"encoding/hex"
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
	{strings.Repeat("x", 256), strings.Repeat("x", 190) + "~85e62acd750c4eb56b7b6a1d66dca5bfaac5f062608a1a893410d0288936c09a"},
	{strings.Repeat("/", 86), strings.Repeat("%2F", 63) + "~8253e1c020580e56b673e08d1b2b8a23ba4bbe623a949fb96a50b086c1b44913"},
}

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestNameVectors(t *testing.T) {
	for _, v := range nameVectors {
		entry := EncodeName(v.name)
		if entry != v.entry {
			t.Errorf("EncodeName(%.40q) = %q, want %q", v.name, entry, v.entry)
		}
		wantHashed := strings.Contains(v.entry, "~")
		name, hashed, ok := DecodeName(entry)
		if !ok || hashed != wantHashed || IsHashed(entry) != wantHashed || !hashed && name != v.name {
			t.Errorf("DecodeName(%q) = %.40q, %v, %v", entry, name, hashed, ok)
		}
		if got, ok := ParseLinkTarget(LinkTarget(v.name)); !ok || got != v.entry {
			t.Errorf("ParseLinkTarget(%q) = %q, %v", LinkTarget(v.name), got, ok)
		}
		if hash, ok := HashOfEntry(entry); !ok || hash != HashOfName(v.name) {
			t.Errorf("HashOfEntry(%q) = %x, %v, want %x", entry, hash, ok, HashOfName(v.name))
		}
	}
}

func TestDecodeNameRefuses(t *testing.T) {
	sum := hexSum("x")
	for _, entry := range []string{
		"", ".", "..", ".hidden", "a b", "%2f", "%41", "%", "%2", "a%", "a~b", "%FF", "é", "x\x00",
		strings.Repeat("x", 256),
		"~" + sum, "a~" + sum, // the prefix is too short
		strings.Repeat("x", 187) + "~" + sum,
		strings.Repeat("x", 191) + "~" + sum,
		strings.Repeat("x", 190) + "~" + strings.ToUpper(sum),
		strings.Repeat("x", 190) + "~" + sum[:63] + "g",
		strings.Repeat("x", 189) + " ~" + sum,
		strings.Repeat("x", 187) + "%41~" + sum,
		strings.Repeat("x", 188) + "%2~" + sum,
		"." + strings.Repeat("x", 189) + "~" + sum,
	} {
		if name, hashed, ok := DecodeName(entry); ok || hashed || name != "" || IsHashed(entry) {
			t.Errorf("DecodeName(%q) = %q, %v, %v, want it refused", entry, name, hashed, ok)
		}
		if _, ok := HashOfEntry(entry); ok {
			t.Errorf("HashOfEntry(%q) is ok", entry)
		}
		if got, ok := ParseLinkTarget("../" + entry); ok {
			t.Errorf("ParseLinkTarget of %q = %q", entry, got)
		}
	}
	for _, target := range []string{"", "a", "../", "../../a", "/a", "../a/", "./../a"} {
		if got, ok := ParseLinkTarget(target); ok {
			t.Errorf("ParseLinkTarget(%q) = %q", target, got)
		}
	}
}

func TestCheckName(t *testing.T) {
	for bad, want := range map[string]string{
		"": "is empty", "\xff": "UTF-8", "a\xc3": "UTF-8", strings.Repeat("x", MaxName+1): "32769 bytes",
	} {
		if err := CheckName("key", bad); err == nil || !strings.HasPrefix(err.Error(), "key ") || !strings.Contains(err.Error(), want) {
			t.Errorf("CheckName(%.20q) = %v, want an error about %q", bad, err, want)
		}
	}
	if err := CheckName("key", strings.Repeat("x", MaxName)); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	// SHA-256 of "abc" begins with ba7816bf 8f01cfea.
	if h := HashOfName("abc"); h != 0xba7816bf8f01cfea {
		t.Errorf("HashOfName = %x", h)
	}
	s := &Snapshot{}
	start := Names{Known: true}
	both := start.After([]Change{{"a", nil, s}, {"b", nil, s}})
	if want := (Names{2, HashOfName("a") + HashOfName("b"), true}); both != want {
		t.Errorf("two created: %+v, want %+v", both, want)
	}
	if got := both.After([]Change{{"a", s, s}, {"b", nil, nil}}); got != both {
		t.Errorf("none created: %+v, want %+v", got, both)
	}
	if got := both.After([]Change{{"b", s, nil}, {"a", s, nil}}); got != start {
		t.Errorf("both removed: %+v, want %+v", got, start)
	}
	if got := start.Without(5); got.Count != 0 || got.Sum != 1<<64-5 {
		t.Errorf("one that was not counted is removed: %+v", got)
	}
}

func FuzzName(f *testing.F) {
	for _, v := range nameVectors {
		f.Add(v.name, v.entry)
	}
	f.Fuzz(func(t *testing.T, name, other string) {
		decoded, hashed, ok := DecodeName(other)
		if ok && !hashed && EncodeName(decoded) != other || !ok && (hashed || decoded != "") {
			t.Errorf("DecodeName(%q) = %q, %v, %v, which encodes to %q", other, decoded, hashed, ok, EncodeName(decoded))
		}
		if CheckName("name", name) != nil {
			if utf8.ValidString(name) && name != "" && len(name) <= MaxName {
				t.Errorf("%q refused", name)
			}
			return
		}
		entry := EncodeName(name)
		if len(entry) == 0 || len(entry) > MaxEntry || entry[0] == '.' || strings.ContainsAny(entry, "/\x00\n ") {
			t.Errorf("EncodeName(%q) = %q", name, entry)
		}
		decoded, hashed, ok = DecodeName(entry)
		if !ok || !hashed && decoded != name || hashed && !strings.HasSuffix(entry, hexSum(name)) {
			t.Errorf("%q encodes to %q, which decodes to %q, %v, %v", name, entry, decoded, hashed, ok)
		}
		if hash, ok := HashOfEntry(entry); !ok || hash != HashOfName(name) {
			t.Errorf("HashOfEntry(%q) = %x, %v", entry, hash, ok)
		}
		if CheckName("name", other) == nil && other != name && EncodeName(other) == entry {
			t.Errorf("%q and %q share %q", name, other, entry)
		}
	})
}
