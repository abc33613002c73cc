package fsmeta

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// metadata is one version of one snapshot: what its directory says, and, as the
// before and after of a change, what a journal line says. It never changes once
// it is made, so that versions can be shared without a lock.
type metadata struct {
	id       string
	name     string
	parent   string
	kind     Kind
	readonly bool
	labels   []label // sorted by key
	created  time.Time
	updated  time.Time
	usage    Usage
	txn      uint64 // the transaction that wrote this version, 0 where a person did
}

// label is one label. A snapshot has few, and they are copied for every caller: a slice
// is smaller than a map, and as fast.
type label struct{ key, value string }

// labelsOf returns a map's labels, sorted.
func labelsOf(m map[string]string) []label {
	if len(m) == 0 {
		return nil
	}
	labels := make([]label, 0, len(m))
	for key, value := range m {
		labels = append(labels, label{key, value})
	}
	slices.SortFunc(labels, func(a, b label) int { return strings.Compare(a.key, b.key) })
	return labels
}

// labelMap returns labels as a map of the caller's own, nil where there are none.
func labelMap(labels []label) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	m := make(map[string]string, len(labels))
	for _, l := range labels {
		m[l.key] = l.value
	}
	return m
}

// info returns what callers see, with labels of their own.
func (m *metadata) info() Info {
	return Info{
		ID: m.id, Name: m.name, Parent: m.parent, Kind: m.kind, Readonly: m.readonly,
		Labels: labelMap(m.labels), Created: m.created, Updated: m.updated, Usage: m.usage,
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// appendCRC appends a checksum the way files and lines spell it: eight
// lowercase hexadecimal digits.
func appendCRC(b []byte, sum uint32) []byte {
	const digits = "0123456789abcdef"
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, digits[sum>>shift&15])
	}
	return b
}

// parseCRC is the inverse of appendCRC.
func parseCRC(s string) (uint32, bool) {
	if len(s) != 8 {
		return 0, false
	}
	sum, err := strconv.ParseUint(s, 16, 32)
	return uint32(sum), err == nil
}

// The first line but one of metadata.json. What it covers begins behind it, so
// that the line can be verified, and deleted, without touching the rest.
const (
	crcLineStart = "{\n  \"crc32c\": \""
	crcLineEnd   = "\",\n"
	crcLineLen   = len(crcLineStart) + 8 + len(crcLineEnd)
)

// encodeFile returns the content of metadata.json: indented JSON, whose crc32c
// covers the bytes behind its own line and the parent's name.
func (m *metadata) encodeFile() []byte {
	b := make([]byte, crcLineLen, 640)
	b = append(b, `  "id": `...)
	b = appendString(b, m.id)
	b = append(b, ",\n  \"name\": "...)
	b = appendString(b, m.name)
	b = append(b, ",\n  \"kind\": "...)
	b = appendString(b, m.kind.String())
	b = append(b, ",\n  \"readonly\": "...)
	b = strconv.AppendBool(b, m.readonly)
	b = append(b, ",\n  \"labels\": {"...)
	for i, l := range m.labels {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, "\n    "...)
		b = appendString(b, l.key)
		b = append(b, ": "...)
		b = appendString(b, l.value)
	}
	if len(m.labels) > 0 {
		b = append(b, "\n  "...)
	}
	b = append(b, "},\n  \"created\": \""...)
	b = m.created.AppendFormat(b, time.RFC3339Nano)
	b = append(b, "\",\n  \"updated\": \""...)
	b = m.updated.AppendFormat(b, time.RFC3339Nano)
	b = append(b, "\",\n  \"usage\": {\n    \"inodes\": "...)
	b = strconv.AppendInt(b, m.usage.Inodes, 10)
	b = append(b, ",\n    \"size\": "...)
	b = strconv.AppendInt(b, m.usage.Size, 10)
	b = append(b, "\n  },\n  \"txn\": "...)
	b = strconv.AppendUint(b, m.txn, 10)
	b = append(b, "\n}\n"...)
	head := append(b[:0], crcLineStart...)
	head = appendCRC(head, fileChecksum(b[crcLineLen:], m.parent))
	_ = append(head, crcLineEnd...)
	return b
}

func fileChecksum(rest []byte, parent string) uint32 {
	return crc32.Update(checksum(rest), castagnoli, []byte(parent))
}

// wire is the JSON of metadata, as files and lines have it.
type wire struct {
	CRC      *string           `json:"crc32c"`
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Parent   string            `json:"parent"`
	Kind     Kind              `json:"kind"`
	Readonly bool              `json:"readonly"`
	Labels   map[string]string `json:"labels"`
	Created  time.Time         `json:"created"`
	Updated  time.Time         `json:"updated"`
	Usage    Usage             `json:"usage"`
	Txn      uint64            `json:"txn"`
}

// metadata returns what the JSON says, checked.
func (w *wire) metadata() (*metadata, error) {
	m := &metadata{
		id: w.ID, name: w.Name, parent: w.Parent, kind: w.Kind, labels: labelsOf(w.Labels),
		readonly: w.Readonly || w.Kind == KindCommitted,
		created:  w.Created.UTC(), updated: w.Updated.UTC(), usage: w.Usage, txn: w.Txn,
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

// check says what can't be right. It is nobody's argument: the error is not an
// ErrInvalidName.
func (m *metadata) check() error {
	if err := checkName("name", m.name); err != nil {
		return errors.New(err.Error())
	}
	if _, err := parseID(m.id); err != nil {
		return err
	}
	if m.kind != KindActive && m.kind != KindCommitted {
		return errors.New("kind is missing")
	}
	if m.created.IsZero() || m.updated.IsZero() {
		return errors.New("created or updated is missing")
	}
	return nil
}

// decodeFile is the inverse of encodeFile. The parent's name is what the symlink
// beside the file says. Where the file has a crc32c it must match; a person who
// edits the file deletes that line.
func decodeFile(data []byte, parent string) (*metadata, error) {
	if m := ownFile(data, parent); m != nil {
		return m, nil
	}
	return decodeJSON(data, parent)
}

// decodeJSON is decodeFile for whoever has written it.
func decodeJSON(data []byte, parent string) (*metadata, error) {
	if len(data) == 0 {
		return nil, errors.New("the file is empty")
	}
	if !utf8.Valid(data) {
		return nil, errors.New("not valid UTF-8")
	}
	var w wire
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, err
	}
	if w.CRC != nil {
		want, ok := parseCRC(*w.CRC)
		if !ok || !bytes.HasPrefix(data, []byte(crcLineStart)) || !bytes.HasSuffix(data[:min(crcLineLen, len(data))], []byte(crcLineEnd)) {
			return nil, errors.New("crc32c is not the first line")
		}
		if fileChecksum(data[crcLineLen:], parent) != want {
			return nil, fmt.Errorf("the checksum does not match: the file has changed, or the link to the parent (now %q) was changed or lost", parent)
		}
	} else if err := decodeStrict(data, &wire{}); err != nil {
		return nil, err
	}
	w.Parent = parent
	return w.metadata()
}

// ownFile reads the content of a metadata.json that encodeFile could have written, and
// whose checksum is right; of anything else it makes nil. It is ten times as fast as
// encoding/json, and in a new process a hundred times.
func ownFile(data []byte, parent string) *metadata {
	if !bytes.HasPrefix(data, []byte(crcLineStart)) || !fileVouches(data, parent) {
		return nil
	}
	t := &text{rest: string(data[len(crcLineStart)+8:])}
	m := &metadata{parent: parent}
	m.id = t.quoted(crcLineEnd + `  "id": `)
	m.name = t.quoted(",\n  \"name\": ")
	kind := t.quoted(",\n  \"kind\": ")
	readonly := t.until(",\n  \"readonly\": ", ",")
	t.skip("\n  \"labels\": {")
	for before := "\n    "; strings.HasPrefix(t.rest, before); before = ",\n    " {
		m.labels = append(m.labels, label{t.quoted(before), t.quoted(": ")})
	}
	if len(m.labels) > 0 {
		t.skip("\n  ")
	}
	m.created = t.time("},\n  \"created\": ")
	m.updated = t.time(",\n  \"updated\": ")
	m.usage.Inodes = t.number(",\n  \"usage\": {\n    \"inodes\": ", ",")
	m.usage.Size = t.number("\n    \"size\": ", "\n")
	m.txn = t.count("  },\n  \"txn\": ", "\n")
	m.readonly = readonly == "true"
	sorted := slices.IsSortedFunc(m.labels, func(a, b label) int { return cmp.Or(strings.Compare(a.key, b.key), -1) })
	if m.kind.UnmarshalText([]byte(kind)) != nil || !m.readonly && (readonly != "false" || m.kind == KindCommitted) ||
		t.bad || t.rest != "}\n" || !sorted || m.check() != nil {
		return nil
	}
	return m
}

// text is what is left to read of a text of known form. Once it is bad, it is no use.
type text struct {
	rest string
	bad  bool
}

// skip reads literal text.
func (t *text) skip(literal string) {
	rest, found := strings.CutPrefix(t.rest, literal)
	t.rest, t.bad = rest, t.bad || !found
}

// until reads what is between literal text and end.
func (t *text) until(literal, end string) string {
	t.skip(literal)
	value, rest, found := strings.Cut(t.rest, end)
	t.rest, t.bad = rest, t.bad || !found
	return value
}

// quoted reads a JSON string behind literal text. One with escapes, which is rare, is
// bad.
func (t *text) quoted(literal string) string {
	t.skip(literal)
	t.skip(`"`)
	value := t.until("", `"`)
	t.bad = t.bad || strings.IndexByte(value, '\\') >= 0 || !utf8.ValidString(value)
	return value
}

// number reads a number that is between literal text and end.
func (t *text) number(literal, end string) int64 {
	n, err := strconv.ParseInt(t.until(literal, end), 10, 64)
	t.bad = t.bad || err != nil
	return n
}

// count is number for one that can't be negative.
func (t *text) count(literal, end string) uint64 {
	n := t.number(literal, end)
	t.bad = t.bad || n < 0
	return uint64(max(n, 0))
}

// time reads a time as a JSON string behind literal text.
func (t *text) time(literal string) time.Time {
	at, err := time.Parse(time.RFC3339Nano, t.quoted(literal))
	t.bad = t.bad || err != nil
	return at.UTC()
}

// fileVouches reports whether the checksum in a metadata.json, whatever else is wrong
// there, is right for this parent.
func fileVouches(data []byte, parent string) bool {
	if len(data) < crcLineLen {
		return false
	}
	want, ok := parseCRC(string(data[len(crcLineStart) : len(crcLineStart)+8]))
	return ok && fileChecksum(data[crcLineLen:], parent) == want
}

// vouchedFor returns the snapshot in a metadata.json if its checksum is right for one of the
// parents.
func vouchedFor(data []byte, parents []string) *metadata {
	for _, parent := range parents {
		if !fileVouches(data, parent) {
			continue
		}
		if m, err := decodeFile(data, parent); err == nil {
			return m
		}
	}
	return nil
}

// decodeStrict refuses members that are not known, in what no checksum
// vouches for: a typing error, or a checksum whose own name has rotted.
func decodeStrict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more behind it")
	}
	return nil
}

// appendImage appends the metadata as it stands in a journal line: compact, with
// the parent's name and without its own, which stands beside it. A nil image, of
// a snapshot that is not there, is null.
func appendImage(b []byte, m *metadata) []byte {
	if m == nil {
		return append(b, "null"...)
	}
	b = append(b, `{"id":`...)
	b = appendString(b, m.id)
	b = append(b, `,"parent":`...)
	b = appendString(b, m.parent)
	b = append(b, `,"kind":`...)
	b = appendString(b, m.kind.String())
	b = append(b, `,"readonly":`...)
	b = strconv.AppendBool(b, m.readonly)
	b = append(b, `,"labels":{`...)
	for i, l := range m.labels {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, l.key)
		b = append(b, ':')
		b = appendString(b, l.value)
	}
	b = append(b, `},"created":"`...)
	b = m.created.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","updated":"`...)
	b = m.updated.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","usage":{"inodes":`...)
	b = strconv.AppendInt(b, m.usage.Inodes, 10)
	b = append(b, `,"size":`...)
	b = strconv.AppendInt(b, m.usage.Size, 10)
	b = append(b, `},"txn":`...)
	b = strconv.AppendUint(b, m.txn, 10)
	return append(b, '}')
}

// appendString appends s, valid UTF-8, as a JSON string that is safe to show in a
// terminal: what does not print is escaped. The standard library's encoder would
// escape <, > and & too, and leave terminal controls beyond ASCII alone.
func appendString(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	for i, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case ' ' <= r && r < 0x7f:
			b = append(b, byte(r))
		case escaped(r):
			b = append(b, '\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
		default:
			b = append(b, s[i:i+utf8.RuneLen(r)]...)
		}
	}
	return append(b, '"')
}

// escaped reports whether a character is escaped: controls, and what turns or hides
// the text around it.
func escaped(r rune) bool {
	switch {
	case r < ' ', 0x7f <= r && r <= 0x9f,
		0x200b <= r && r <= 0x200f, 0x2028 <= r && r <= 0x202e, 0x2060 <= r && r <= 0x206f, r == 0xfeff:
		return true
	}
	return false
}

// maxID is the highest identifier, and the highest nextID.
const maxID = math.MaxInt64

// parseID reads an identifier: a decimal number from 1, without leading zeros.
func parseID(id string) (uint64, error) {
	n, err := strconv.ParseUint(id, 10, 63)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != id {
		return 0, fmt.Errorf("identifier %q is not a decimal number from 1", id)
	}
	return n, nil
}
