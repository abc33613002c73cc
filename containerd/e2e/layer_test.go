//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// kind is what an entry of a layer is.
type kind byte

const (
	directory kind = iota
	file
	symlink
	hardlink
	whiteout // the path is deleted
	opaque   // what lower layers have in the directory is hidden
)

// entry is a line of a layer.
type entry struct {
	kind     kind
	path     string // without a slash at the beginning
	mode     int64
	uid, gid int
	content  []byte // of a file
	target   string // of a link
}

// layer is a list of entries, each after the directories that it is in.
type layer []entry

// modified is the time of modification of all entries.
var modified = time.Unix(1_700_000_000, 0)

// header returns the entry as an archive has it.
func (e entry) header() *tar.Header {
	h := &tar.Header{Name: e.path, Mode: e.mode, Uid: e.uid, Gid: e.gid, ModTime: modified}
	switch e.kind {
	case directory:
		h.Typeflag, h.Name = tar.TypeDir, e.path+"/"
	case file:
		h.Typeflag, h.Size = tar.TypeReg, int64(len(e.content))
	case symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.target
	case hardlink:
		h.Typeflag, h.Linkname = tar.TypeLink, e.target
	case whiteout:
		h.Typeflag, h.Name = tar.TypeReg, path.Join(path.Dir(e.path), ".wh."+path.Base(e.path))
	case opaque:
		h.Typeflag, h.Name = tar.TypeReg, e.path+"/.wh..wh..opq"
	}
	return h
}

// blob is a layer as an image has it.
type blob struct {
	data   []byte        // compressed
	diffID digest.Digest // of what it is uncompressed
}

func (l layer) blob(t testing.TB) blob {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range l {
		must(t, w.WriteHeader(e.header()))
		_, err := w.Write(e.content)
		must(t, err)
	}
	must(t, w.Close())
	return newBlob(t, out.Bytes())
}

// newBlob returns a blob with an archive.
func newBlob(t testing.TB, archive []byte) blob {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(archive)
	must(t, err)
	must(t, w.Close())
	return blob{data: out.Bytes(), diffID: digest.FromBytes(archive)}
}

// baseLayer is a system that runs: busybox, its applets, and what it expects.
func baseLayer(t testing.TB) layer {
	t.Helper()
	program, err := os.ReadFile(busybox)
	must(t, err)
	applets, err := exec.Command(busybox, "--list").Output()
	must(t, err)
	l := layer{
		{kind: directory, path: "bin", mode: 0o755},
		{kind: file, path: "bin/busybox", mode: 0o755, content: program},
	}
	for name := range strings.FieldsSeq(string(applets)) {
		if name != "busybox" {
			l = append(l, entry{kind: symlink, path: "bin/" + name, mode: 0o777, target: "busybox"})
		}
	}
	for _, name := range []string{"dev", "etc", "proc", "run", "sys", "var"} {
		l = append(l, entry{kind: directory, path: name, mode: 0o755})
	}
	return append(l,
		entry{kind: directory, path: "tmp", mode: 0o1777},
		entry{kind: directory, path: "root", mode: 0o700},
		entry{kind: file, path: "etc/passwd", mode: 0o644, content: []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")},
		entry{kind: file, path: "etc/group", mode: 0o644, content: []byte("root:x:0:\nuser:x:1000:\n")},
	)
}

// changingLayers are a base and layers on it that add, replace, delete and hide what is
// in those below, and change owners and modes.
func changingLayers(t testing.TB) []layer {
	return []layer{
		baseLayer(t),
		{
			{kind: directory, path: "data", mode: 0o755},
			{kind: file, path: "data/kept", mode: 0o644, content: []byte("kept\n")},
			{kind: hardlink, path: "data/linked", mode: 0o644, target: "data/kept"},
			{kind: file, path: "data/deleted", mode: 0o644, content: []byte("deleted\n")},
			{kind: file, path: "data/replaced", mode: 0o644, content: []byte("old\n")},
			{kind: directory, path: "data/tree", mode: 0o755},
			{kind: file, path: "data/tree/leaf", mode: 0o644, content: []byte("leaf\n")},
			{kind: directory, path: "hidden", mode: 0o755},
			{kind: file, path: "hidden/below", mode: 0o644, content: []byte("below\n")},
			{kind: directory, path: "hidden/deep", mode: 0o755},
			{kind: file, path: "hidden/deep/below", mode: 0o644, content: []byte("deep\n")},
			{kind: file, path: "owned", mode: 0o644, content: []byte("owned\n")},
		},
		{
			{kind: whiteout, path: "data/deleted"},
			{kind: whiteout, path: "data/tree"},
			{kind: file, path: "data/replaced", mode: 0o600, content: []byte("new, and longer\n")},
		},
		{
			{kind: directory, path: "hidden", mode: 0o711, uid: 7},
			{kind: opaque, path: "hidden"},
			{kind: file, path: "hidden/above", mode: 0o644, content: []byte("above\n")},
		},
		{
			{kind: file, path: "owned", mode: 0o4750, uid: 1000, gid: 1001, content: []byte("owned\n")},
			{kind: directory, path: "data", mode: 0o2770, uid: 1000, gid: 1000},
			{kind: symlink, path: "data/pointer", mode: 0o777, uid: 1000, gid: 1000, target: "/owned"},
			{kind: file, path: "data/tree", mode: 0o444, content: []byte("a file where a directory was\n")},
		},
		{
			{kind: file, path: "data/deleted", mode: 0o640, gid: 5, content: []byte("back again\n")},
			{kind: file, path: "data/empty", mode: 0o000},
		},
	}
}

// manyLayers are a base and n-1 layers on it. Each has some small files, one of a hundred
// kilobytes or more, replaces one of the layer below, and deletes another.
func manyLayers(t testing.TB, n int) []layer {
	layers := []layer{baseLayer(t)}
	for i := 1; i < n; i++ {
		dir := fmt.Sprintf("layer%d", i)
		l := layer{{kind: directory, path: dir, mode: 0o755}}
		for j := range 4 {
			l = append(l, entry{kind: file, path: fmt.Sprintf("%s/%d", dir, j), mode: 0o644, content: fmt.Appendf(nil, "%s has file %d\n", dir, j)})
		}
		l = append(l, entry{kind: file, path: dir + "/large", mode: 0o644, uid: i, content: text(i, 100_000+1000*i)})
		if i > 1 {
			below := fmt.Sprintf("layer%d", i-1)
			l = append(l,
				entry{kind: directory, path: below, mode: 0o755},
				entry{kind: file, path: below + "/0", mode: 0o600, gid: i, content: fmt.Appendf(nil, "replaced by %s\n", dir)},
				entry{kind: whiteout, path: below + "/1"})
		}
		layers = append(layers, l)
	}
	return layers
}

// text returns so many bytes that differ for each i and are compressed like text.
func text(i, size int) []byte {
	var b bytes.Buffer
	for n := 0; b.Len() < size; n++ {
		fmt.Fprintf(&b, "line %d of %d is %s\n", n, i, digest.FromString(fmt.Sprint(i, n/3)).Encoded()[:24])
	}
	return b.Bytes()[:size]
}
