package fsmeta

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

func exampleMetadata() *metadata {
	return &metadata{
		id: "7", name: "default/12/web", parent: "sha256:9a0c", kind: KindActive,
		labels:  []label{{"containerd.io/gc.root", "2026"}, {"odd", "\x1b[31m \"\\ \u202e é <&>"}},
		created: time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC), updated: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC),
		usage: Usage{Inodes: 3, Size: 4096}, txn: 12,
	}
}

func TestMetadataRoundTrip(t *testing.T) {
	plain := &metadata{id: "1", name: "a", kind: KindCommitted, readonly: true, created: time.Unix(1, 0).UTC(), updated: time.Unix(1, 0).UTC()}
	for _, m := range []*metadata{exampleMetadata(), plain} {
		got, err := decodeFile(m.encodeFile(), m.parent)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("decodeFile = %+v, %v, want %+v", got, err, m)
		}
	}
}

func TestMetadataFileIsFitForATerminal(t *testing.T) {
	data := exampleMetadata().encodeFile()
	if !json.Valid(data) {
		t.Errorf("not JSON: %s", data)
	}
	if i := bytes.IndexFunc(data, func(r rune) bool { return r != '\n' && r < ' ' || r == 0x7f || r == '\u202e' }); i >= 0 {
		t.Errorf("%q at %d would reach the terminal", data[i], i)
	}
}

func TestMetadataDamage(t *testing.T) {
	whole := exampleMetadata().encodeFile()
	edited := bytes.Replace(whole, []byte(`"size": 4096`), []byte(`"size": 4097`), 1)
	byHand := append([]byte("{\n"), edited[bytes.IndexByte(edited, ',')+2:]...)
	for _, c := range []struct {
		what, data, parent, want string
	}{
		{"empty", "", "sha256:9a0c", "empty"},
		{"cut", string(whole[:100]), "sha256:9a0c", "JSON"},
		{"zeros", strings.Repeat("\x00", 300), "sha256:9a0c", "invalid"},
		{"another parent", string(whole), "sha256:9a0d", "checksum"},
		{"no parent", string(whole), "", "checksum"},
		{"edited", string(edited), "sha256:9a0c", "checksum"},
		{"edited by hand, checksum deleted", string(byHand), "sha256:9a0c", ""},
		{"checksum elsewhere", strings.Replace(string(whole), "{\n  \"crc32c\"", "{\n \"crc32c\"", 1), "sha256:9a0c", "first line"},
		{"no id", `{"name":"a","kind":"active","created":"2026-01-01T00:00:00Z","updated":"2026-01-01T00:00:00Z"}`, "", "identifier"},
		{"id zero", `{"id":"0","name":"a","kind":"active","created":"2026-01-01T00:00:00Z","updated":"2026-01-01T00:00:00Z"}`, "", "identifier"},
		{"no kind", `{"id":"1","name":"a","created":"2026-01-01T00:00:00Z","updated":"2026-01-01T00:00:00Z"}`, "", "kind"},
		{"unknown kind", `{"id":"1","name":"a","kind":"view"}`, "", "kind"},
		{"no times", `{"id":"1","name":"a","kind":"active"}`, "", "created"},
		{"not UTF-8", "{\"id\":\"1\",\"name\":\"\xff\"}", "", "UTF-8"},
	} {
		t.Run(c.what, func(t *testing.T) {
			m, err := decodeFile([]byte(c.data), c.parent)
			if c.want == "" {
				if err != nil || m.usage.Size != 4097 {
					t.Errorf("decodeFile = %+v, %v", m, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("decodeFile = %+v, %v, want an error about %q", m, err, c.want)
			}
		})
	}
}

// Every byte of the file counts, wherever it is flipped.
func TestMetadataChecksumSeesEveryByte(t *testing.T) {
	m := exampleMetadata()
	whole := m.encodeFile()
	for i := range whole {
		data := bytes.Clone(whole)
		data[i] ^= 4
		if got, err := decodeFile(data, m.parent); err == nil {
			t.Errorf("byte %d flipped from %q: read as %+v", i, whole[i], got)
		}
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add(exampleMetadata().encodeFile(), "sha256:9a0c")
	f.Add([]byte(`{"id":"1","name":"a","kind":"committed","created":"2026-01-01T00:00:00Z","updated":"2026-01-01T00:00:00Z","labels":{"a":"b"}}`), "")
	f.Add([]byte(`{"crc32c":""}`), "")
	f.Fuzz(func(t *testing.T, data []byte, parent string) {
		if parent != "" && checkName("parent", parent) != nil {
			return
		}
		m, err := decodeFile(data, parent)
		slow, slowErr := decodeJSON(data, parent)
		if (err == nil) != (slowErr == nil) || err == nil && !reflect.DeepEqual(m, slow) {
			t.Errorf("%q is read as %+v, %v, and as JSON as %+v, %v", data, m, err, slow, slowErr)
		}
		if err != nil {
			return
		}
		again, err := decodeFile(m.encodeFile(), parent)
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("%q was read as %+v, written, and read as %+v, %v", data, m, again, err)
		}
	})
}
