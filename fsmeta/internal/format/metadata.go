package format

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// kindNames are the kinds as files and lines spell them.
var kindNames = [...]string{Active: "active", Committed: "committed"}

// String returns "active" or "committed".
func (k Kind) String() string {
	if k == Active || k == Committed {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// LabelsOf returns a map's labels, sorted by key, nil where there are none.
func LabelsOf(m map[string]string) []Label {
	if len(m) == 0 {
		return nil
	}
	labels := make([]Label, 0, len(m))
	for key, value := range m {
		labels = append(labels, Label{key, value})
	}
	sortLabels(labels)
	return labels
}

// LabelMap returns labels as a map that the caller owns, nil where there are none.
func LabelMap(labels []Label) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	m := make(map[string]string, len(labels))
	for _, l := range labels {
		m[l.Key] = l.Value
	}
	return m
}

func sortLabels(labels []Label) {
	slices.SortFunc(labels, func(a, b Label) int { return strings.Compare(a.Key, b.Key) })
}

// disorder returns the index of the first label that does not have a higher key than the one before it,
// -1 where all are in order.
func disorder(labels []Label) int {
	for i := 1; i < len(labels); i++ {
		if labels[i-1].Key >= labels[i].Key {
			return i
		}
	}
	return -1
}

// ParseID reads an identifier: a decimal number from 1 to MaxNumber without leading zeros.
func ParseID(id string) (uint64, error) {
	n, err := strconv.ParseUint(id, 10, 63)
	if err != nil || id[0] == '0' {
		return 0, fmt.Errorf("identifier %.64q is not a decimal number from 1 to %d without leading zeros", id, int64(MaxNumber))
	}
	return n, nil
}

// Check returns an error if s can't be stored. It is the one rule for reading, for the API
// and for imports. Its error has no class: a caller that checks arguments adds one.
func (s *Snapshot) Check() error {
	if err := CheckName("name", s.Name); err != nil {
		return err
	}
	if s.Parent != "" {
		if err := CheckName("parent", s.Parent); err != nil {
			return err
		}
	}
	if s.Parent == s.Name {
		return errors.New("parent is the snapshot itself")
	}
	if _, err := ParseID(s.ID); err != nil {
		return err
	}
	if s.Kind != Active && s.Kind != Committed {
		return fmt.Errorf("kind is %v, want active or committed", s.Kind)
	}
	if err := CheckLabels(s.Labels); err != nil {
		return err
	}
	if !checkYear(s.Created) || !checkYear(s.Updated) {
		return errors.New("created or updated is not in the years 0 to 9999")
	}
	if s.Txn > MaxNumber {
		return fmt.Errorf("transaction %d is above %d", s.Txn, int64(MaxNumber))
	}
	return s.CheckSize()
}

// CheckSize returns an error if the metadata.json of s would exceed MaxFile.
func (s *Snapshot) CheckSize() error {
	size := len(s.Name) + len(s.Parent)
	for _, l := range s.Labels {
		size += len(l.Key) + len(l.Value)
	}
	const fixed, perLabel = 1024, 16 // more than the bytes around the strings
	if maxEscape*size+fixed+perLabel*len(s.Labels) <= MaxFile {
		return nil
	}
	if size <= MaxFile { // else it is too much to encode it
		size = len(EncodeFile(s))
	}
	if size > MaxFile {
		return fmt.Errorf("its metadata.json would have %d bytes or more, the most is %d", size, MaxFile)
	}
	return nil
}

// CheckLabels returns an error if labels can't be stored: a key is like a name, a value any
// valid UTF-8, and the keys are in byte order, none twice.
func CheckLabels(labels []Label) error {
	for _, l := range labels {
		if err := CheckName("label key", l.Key); err != nil {
			return err
		}
		if !utf8.ValidString(l.Value) {
			return fmt.Errorf("the value of label %.64q is not valid UTF-8", l.Key)
		}
	}
	if i := disorder(labels); i >= 0 {
		return fmt.Errorf("label %.64q stands behind %.64q", labels[i].Key, labels[i-1].Key)
	}
	return nil
}

// The first line but one of metadata.json. What it covers begins behind it, so that the line
// can be verified, and deleted, without touching the rest.
const (
	crcLineStart = "{\n  \"crc32c\": \""
	crcLineEnd   = "\",\n"
	crcLineLen   = len(crcLineStart) + crcDigits + len(crcLineEnd)
)

// EncodeFile returns the content of metadata.json: indented JSON, and a crc32c of all bytes
// behind its own line.
func EncodeFile(s *Snapshot) []byte {
	b := make([]byte, crcLineLen, 640)
	b = appendText(b, `  "id": `, s.ID)
	b = appendText(b, ",\n  \"name\": ", s.Name)
	b = appendText(b, ",\n  \"parent\": ", s.Parent)
	b = appendText(b, ",\n  \"kind\": ", s.Kind.String())
	b = strconv.AppendBool(append(b, ",\n  \"readonly\": "...), s.Readonly || s.Kind == Committed)
	b = appendLabels(b, ",\n  \"labels\": {", s.Labels, "\n    ", ": ")
	if len(s.Labels) > 0 {
		b = append(b, "\n  "...)
	}
	b = appendTime(b, "},\n  \"created\": ", s.Created)
	b = appendTime(b, ",\n  \"updated\": ", s.Updated)
	b = appendInteger(b, ",\n  \"usage\": {\n    \"inodes\": ", s.Usage.Inodes)
	b = appendInteger(b, ",\n    \"size\": ", s.Usage.Size)
	b = appendNumber(b, "\n  },\n  \"txn\": ", s.Txn)
	b = append(b, "\n}\n"...)
	head := appendHex(b[:0], crcLineStart, uint64(checksum(b[crcLineLen:])), crcDigits)
	_ = append(head, crcLineEnd...)
	return b
}

// appendImage appends a snapshot as it stands in a line of the journal: compact, and without
// its name, which stands beside it. A nil image is null: there is no snapshot.
func appendImage(b []byte, before string, s *Snapshot) []byte {
	b = append(b, before...)
	if s == nil {
		return append(b, "null"...)
	}
	b = appendText(b, `{"id":`, s.ID)
	b = appendText(b, `,"parent":`, s.Parent)
	b = appendText(b, `,"kind":`, s.Kind.String())
	b = strconv.AppendBool(append(b, `,"readonly":`...), s.Readonly || s.Kind == Committed)
	b = appendLabels(b, `,"labels":{`, s.Labels, "", ":")
	b = appendTime(b, `},"created":`, s.Created)
	b = appendTime(b, `,"updated":`, s.Updated)
	b = appendInteger(b, `,"usage":{"inodes":`, s.Usage.Inodes)
	b = appendInteger(b, `,"size":`, s.Usage.Size)
	b = appendNumber(b, `},"txn":`, s.Txn)
	return append(b, '}')
}

// appendLabels appends literal text, and the members of labels with what stands around each key.
func appendLabels(b []byte, before string, labels []Label, line, colon string) []byte {
	b = append(b, before...)
	for i, l := range labels {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, line, l.Key)
		b = appendText(b, colon, l.Value)
	}
	return b
}

// The members of metadata.json, of an image in a line, and of usage in both.
var (
	fileMembers  = []string{"crc32c", "id", "name", "parent", "kind", "readonly", "labels", "created", "updated", "usage", "txn"}
	imageMembers = []string{"id", "parent", "kind", "readonly", "labels", "created", "updated", "usage", "txn"}
	usageMembers = []string{"inodes", "size"}
)

// DecodeFile is the inverse of EncodeFile. The file may be another program's or a person's:
// where it begins with a crc32c, in the form of EncodeFile to the byte, that must match;
// an edit by hand deletes that line.
func DecodeFile(data []byte) (*Snapshot, error) {
	switch {
	case len(data) == 0:
		return nil, errors.New("the file is empty")
	case len(data) > MaxFile:
		return nil, fmt.Errorf("the file has %d bytes, the most is %d", len(data), MaxFile)
	}
	_, want, sealed := hexTail(data[:min(len(data), crcLineLen)], crcLineStart, crcLineEnd)
	if !sealed {
		s, err := decodeFile(data, []string{"id", "name", "kind", "created", "updated"}, false)
		if err != nil {
			return nil, fmt.Errorf("it has no checksum in its second line, as if edited by hand: %w", err)
		}
		return s, nil
	}
	if have := checksum(data[crcLineLen:]); have != want {
		return nil, fmt.Errorf(`the checksum does not match: it says %08x, the file has %08x (after an edit by hand, delete the line of "crc32c")`, want, have)
	}
	return decodeFile(data, []string{"id", "name", "parent", "kind", "created", "updated"}, true)
}

func decodeFile(data []byte, required []string, sealed bool) (*Snapshot, error) {
	r := newReader(data)
	s := r.snapshot(fileMembers, required, sealed)
	if err := r.end(); err != nil {
		return nil, err
	}
	s.pack()
	if err := s.Check(); err != nil {
		return nil, err
	}
	return s, nil
}

// snapshot reads the members of a snapshot in one of two forms. With sealed, a checksum has
// vouched for them: unknown ones are read over.
func (r *reader) snapshot(known, required []string, sealed bool) *Snapshot {
	s := &Snapshot{}
	r.object(known, required, sealed, func(name string) {
		switch name {
		case "crc32c":
			if r.hex(crcDigits); !sealed {
				r.failValue(`must be the second line of the file, written as   "crc32c": "xxxxxxxx", (after an edit by hand, delete it)`)
			}
		case "id":
			s.ID = r.string()
		case "name":
			s.Name = r.string()
		case "parent":
			s.Parent = r.string()
		case "kind":
			s.Kind = r.snapshotKind()
		case "readonly":
			s.Readonly = r.boolean()
		case "labels":
			s.Labels = r.labels()
		case "created":
			s.Created = r.time()
		case "updated":
			s.Updated = r.time()
		case "usage":
			s.Usage = r.usage(sealed)
		case "txn":
			s.Txn = r.number()
		}
	})
	s.Readonly = s.Readonly || s.Kind == Committed
	return s
}

func (r *reader) snapshotKind() Kind {
	text := r.string()
	i := slices.Index(kindNames[:], text)
	if i <= 0 {
		r.failValue("is %.64q, want active or committed", text)
	}
	return Kind(max(i, 0))
}

// labels reads an object of strings.
func (r *reader) labels() []Label {
	var labels []Label
	r.members(func(key string) {
		if labels == nil {
			labels = make([]Label, 0, 4)
		}
		labels = append(labels, Label{key, r.string()})
	})
	if disorder(labels) >= 0 {
		sortLabels(labels)
	}
	if i := disorder(labels); i >= 0 {
		r.fail("member %.64q stands twice", labels[i].Key)
	}
	return labels
}

func (r *reader) usage(ignore bool) (u Usage) {
	r.object(usageMembers, nil, ignore, func(name string) {
		switch name {
		case "inodes":
			u.Inodes = r.integer()
		case "size":
			u.Size = r.integer()
		}
	})
	return u
}

// pack copies the strings of a snapshot into one, and its labels into a slice of their size.
// A decoded snapshot may be kept for long: it keeps only its own bytes of the text.
func (s *Snapshot) pack() {
	size := len(s.ID) + len(s.Name) + len(s.Parent)
	for _, l := range s.Labels {
		size += len(l.Key) + len(l.Value)
	}
	var b strings.Builder
	b.Grow(size)
	move := func(from string) string {
		b.WriteString(from)
		return b.String()[b.Len()-len(from):]
	}
	s.ID, s.Name, s.Parent = move(s.ID), move(s.Name), move(s.Parent)
	labels := make([]Label, len(s.Labels))
	for i, l := range s.Labels {
		labels[i] = Label{move(l.Key), move(l.Value)}
	}
	if s.Labels = labels; len(labels) == 0 {
		s.Labels = nil
	}
}

// NameIn returns the member "name" of a metadata.json, in other respects damaged or not, or ""
// where it can't be read. The caller compares it with the entry, which for a hashed name proves it.
func NameIn(data []byte) (name string) {
	text := string(data)
	r := reader{text: text}
	r.members(func(member string) {
		if member == "name" && name == "" {
			name = r.string()
			return
		}
		r.skip()
	})
	for CheckName("name", name) != nil {
		// Damage stands before it: take the first member of that name, at whatever depth.
		_, rest, ok := strings.Cut(text, `"name"`)
		if !ok {
			return ""
		}
		text = rest
		r := reader{text: text}
		if r.peek() == ':' {
			r.pos++
			name = r.string()
		}
	}
	return strings.Clone(name)
}
