package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// writeFiles makes a directory with these files, by path and content.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// makeTar makes a tar file of the headers; the content of files is their name.
func makeTar(t *testing.T, zip bool, headers ...tar.Header) string {
	t.Helper()
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	for _, header := range headers {
		if header.Typeflag == tar.TypeReg {
			header.Mode, header.Size = 0o644, int64(len(header.Name))
		}
		if err := archive.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg {
			if _, err := archive.Write([]byte(header.Name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	content := buffer.Bytes()
	if zip {
		var zipped bytes.Buffer
		writer := gzip.NewWriter(&zipped)
		writer.Write(content)
		if err := writer.Close(); err != nil {
			t.Fatal(err)
		}
		content = zipped.Bytes()
	}
	path := filepath.Join(t.TempDir(), "layer.tar")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustRun(t *testing.T, root string, layers ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), append([]string{"-store", root}, layers...), &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	return out.String()
}

// snapshots returns what is in the store, in the order of creation, and fails
// the test unless each has its content, and no content is without a snapshot.
func snapshots(t *testing.T, root string) []fsmeta.Info {
	t.Helper()
	store, err := fsmeta.Open(filepath.Join(root, "meta"), fsmeta.ReadOnly())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var infos []fsmeta.Info
	var ids []string
	for info, err := range store.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		infos = append(infos, info)
		ids = append(ids, info.ID)
	}
	slices.SortFunc(infos, func(a, b fsmeta.Info) int { return a.Created.Compare(b.Created) })
	folders, err := os.ReadDir(filepath.Join(root, "content"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, folder := range folders {
		names = append(names, folder.Name())
	}
	slices.Sort(ids)
	slices.Sort(names)
	if !slices.Equal(ids, names) {
		t.Errorf("snapshots %q, but content of %q", ids, names)
	}
	return infos
}

// lookup reads a file as the container would, from the directories of the mount
// command in overlay's order: the upper one, then the lower ones from the left.
func lookup(t *testing.T, output, name string) string {
	t.Helper()
	match := regexp.MustCompile(`lowerdir=([^,]+),upperdir=([^,]+),workdir=([^, ]+) `).FindStringSubmatch(output)
	if match == nil {
		t.Fatalf("no overlay mount in:\n%s", output)
	}
	if info, err := os.Stat(match[3]); err != nil || !info.IsDir() {
		t.Errorf("workdir: %v, %v", info, err)
	}
	for _, dir := range append([]string{match[2]}, strings.Split(match[1], ":")...) {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			return string(content)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	t.Fatalf("%s is in no directory of the mount in:\n%s", name, output)
	return ""
}

func TestRunTwice(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	base := writeFiles(t, map[string]string{"a": "base", "b": "base", "dir/c": "base"})
	if err := os.Symlink("/nowhere", filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(base, "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	middle := makeTar(t, true,
		tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "a commit"}},
		tar.Header{Typeflag: tar.TypeDir, Name: "./"},
		tar.Header{Typeflag: tar.TypeReg, Name: "./b"},
		tar.Header{Typeflag: tar.TypeReg, Name: "deep/er/file"},
		tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "./deep/er/file"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "twice", Linkname: "../.."},
		tar.Header{Typeflag: tar.TypeReg, Name: "twice"})
	top := writeFiles(t, map[string]string{"dir/c": "top"})

	first := mustRun(t, root, base, middle, top)
	before := snapshots(t, root)
	if len(before) != 4 {
		t.Fatalf("%d snapshots, want 3 layers and a container: %v", len(before), before)
	}
	parent := ""
	for i, info := range before {
		kind := fsmeta.KindCommitted
		if i == 3 {
			kind = fsmeta.KindActive
		}
		if info.Kind != kind || info.Parent != parent {
			t.Errorf("snapshot %d is %v on %q, want %v on %q", i, info.Kind, info.Parent, kind, parent)
		}
		if kind == fsmeta.KindCommitted && (!strings.HasPrefix(info.Name, "sha256:") || info.Usage.Inodes < 2 || info.Labels["example/source"] == "") {
			t.Errorf("layer %d: %+v", i, info)
		}
		parent = info.Name
	}
	if got, want := before[0].Usage.Inodes, int64(6); got != want { // a b dir dir/c link and the root
		t.Errorf("the lowest layer has %d inodes, want %d", got, want)
	}
	for name, want := range map[string]string{
		"a": "base", "b": "./b", "dir/c": "top", "deep/er/file": "deep/er/file", "hard": "deep/er/file", "twice": "twice",
	} {
		if got := lookup(t, first, name); got != want {
			t.Errorf("the container reads %q in %s, want %q", got, name, want)
		}
	}
	lowest := filepath.Join(root, "content", before[0].ID, "fs")
	if target, err := os.Readlink(filepath.Join(lowest, "link")); target != "/nowhere" {
		t.Errorf("link: %q, %v", target, err)
	}
	if info, err := os.Stat(filepath.Join(lowest, "b")); err != nil || info.Mode() != 0o755 {
		t.Errorf("mode of b: %v, %v", info, err)
	}
	if n := strings.Count(first, "imported sha256:"); n != 3 {
		t.Errorf("%d layers imported, want 3:\n%s", n, first)
	}

	// The second run finds the layers, and replaces the container.
	second := mustRun(t, root, base, middle, top)
	after := snapshots(t, root)
	if len(after) != 4 {
		t.Fatalf("%d snapshots, want 4: %v", len(after), after)
	}
	for i, info := range after[:3] {
		if info.ID != before[i].ID || info.Name != before[i].Name {
			t.Errorf("layer %d was %+v, now %+v", i, before[i], info)
		}
	}
	if n := strings.Count(second, "reused sha256:"); n != 3 {
		t.Errorf("%d layers reused, want 3:\n%s", n, second)
	}
	if after[3].Name == before[3].Name || !strings.Contains(second, "removed "+before[3].Name+"\n") {
		t.Errorf("the first container was not removed:\n%s", second)
	}
	for _, want := range []string{`"name": "` + after[3].Name + `"`, "/parent -> ../" + after[2].Name, `"changes":`, "  cat snapshots/"} {
		if !strings.Contains(second, want) {
			t.Errorf("%s is not shown in:\n%s", want, second)
		}
	}
	if strings.Contains(second, "\x00") {
		t.Error("the journal's padding is shown")
	}

	// The same layer on another one below is another snapshot.
	mustRun(t, root, top)
	if infos := snapshots(t, root); len(infos) != 5 {
		t.Errorf("%d snapshots, want 5: %v", len(infos), infos)
	}
}

// TestCommands runs what the driver tells the operator to run.
func TestCommands(t *testing.T) {
	out := mustRun(t, filepath.Join(t.TempDir(), "store"), writeFiles(t, map[string]string{"a": "a"}))
	_, commands, found := strings.Cut(out, "To look further")
	if !found {
		t.Fatal(out)
	}
	_, commands, _ = strings.Cut(commands, "\n")
	if _, err := exec.LookPath("jq"); err != nil {
		commands = regexp.MustCompile(`(?m)^.*jq .*$`).ReplaceAllString(commands, "")
	}
	if output, err := exec.Command("sh", "-euc", commands).CombinedOutput(); err != nil || len(output) == 0 {
		t.Errorf("%v in:\n%s\n%s", err, commands, output)
	}
}

// TestModuleFolders runs the driver without layers, as the README does.
func TestModuleFolders(t *testing.T) {
	module := writeFiles(t, map[string]string{"go.mod": "module x\n", "one/a": "a", "two/deep/b": "b", ".hidden/c": "c"})
	t.Chdir(filepath.Join(module, "two", "deep"))
	root := filepath.Join(module, "three", "store") // a folder of the module, but no layer
	mustRun(t, root)
	mustRun(t, root)
	var sources []string
	for _, info := range snapshots(t, root) {
		if info.Kind == fsmeta.KindCommitted {
			sources = append(sources, filepath.Base(info.Labels["example/source"]))
		}
	}
	if want := []string{"one", "two"}; !slices.Equal(sources, want) {
		t.Errorf("layers %q, want %q", sources, want)
	}
}

// crash leaves what a driver leaves that dies at the worst moments.
func crash(t *testing.T, root string) {
	t.Helper()
	d, err := openDriver(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	// Killed while it unpacked a layer.
	active, err := d.create(t.Context(), "import-1", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.folder(active.ID), "fs", "half"), []byte("ha"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Killed between metadata and content, in create and in remove.
	crashed := errors.New("crashed")
	err = d.store.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		active, err := d.store.CreateActive(ctx, "container-1", "", false)
		if err != nil {
			return err
		}
		return errors.Join(crashed, os.MkdirAll(filepath.Join(d.folder(active.ID), "fs"), 0o700))
	})
	if !errors.Is(err, crashed) {
		t.Fatal(err)
	}
	if _, err := d.create(t.Context(), "container-2", ""); err != nil {
		t.Fatal(err)
	}
	err = d.store.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		_, err := d.store.Remove(ctx, "container-2")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if folders, err := os.ReadDir(d.content); err != nil || len(folders) != 3 {
		t.Fatalf("%d folders, want 3: %v", len(folders), err)
	}
}

func TestLeftovers(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	layer := writeFiles(t, map[string]string{"a": "a"})
	crash(t, root)
	mustRun(t, root, layer)
	if infos := snapshots(t, root); len(infos) != 2 {
		t.Errorf("%d snapshots, want a layer and a container: %v", len(infos), infos)
	}
}

// TestDamage: no content is deleted while it may belong to a damaged snapshot,
// and all the rest is done.
func TestDamage(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	mustRun(t, root, writeFiles(t, map[string]string{"a": "a"}))
	damaged := snapshots(t, root)[0]
	metadata := filepath.Join(root, "meta", "snapshots", damaged.Name, "metadata.json")
	if err := os.WriteFile(metadata, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	leftover := filepath.Join(root, "content", "4711")
	if err := os.Mkdir(leftover, 0o700); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := run(t.Context(), []string{"-store", root, writeFiles(t, map[string]string{"b": "b"})}, &out)
	if !errors.Is(err, fsmeta.ErrDamaged) || !strings.Contains(err.Error(), metadata) {
		t.Errorf("error %v, want ErrDamaged and %s", err, metadata)
	}
	if !strings.Contains(out.String(), "created container-") || !strings.Contains(out.String(), "To look further") {
		t.Errorf("the run was not finished:\n%s", &out)
	}
	for _, folder := range []string{leftover, filepath.Join(root, "content", damaged.ID)} {
		if _, err := os.Stat(folder); err != nil {
			t.Error(err)
		}
	}
}

// TestStoreGone: content without its store is not taken for leftovers.
func TestStoreGone(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	layer := writeFiles(t, map[string]string{"a": "a"})
	mustRun(t, root, layer)
	if err := os.RemoveAll(filepath.Join(root, "meta")); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadDir(filepath.Join(root, "content"))
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"-store", root, layer}, &bytes.Buffer{}); !errors.Is(err, fsmeta.ErrNotStore) {
		t.Errorf("error %v, want ErrNotStore", err)
	}
	after, err := os.ReadDir(filepath.Join(root, "content"))
	if err != nil || len(after) != len(before) || len(after) == 0 {
		t.Errorf("%d folders of content, %d before: %v", len(after), len(before), err)
	}
}

func TestRefusedLayers(t *testing.T) {
	outside := t.TempDir()
	regular := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	for name, headers := range map[string][]tar.Header{
		"dot dot":          {regular("../evil")},
		"dot dot inside":   {regular("a/../../evil")},
		"absolute":         {regular(outside + "/evil")},
		"through symlink":  {{Typeflag: tar.TypeSymlink, Name: "out", Linkname: outside}, regular("out/evil")},
		"through relative": {{Typeflag: tar.TypeSymlink, Name: "out", Linkname: "../.."}, regular("out/evil")},
		"directory":        {{Typeflag: tar.TypeSymlink, Name: "out", Linkname: outside}, {Typeflag: tar.TypeDir, Name: "out/evil"}},
		"hard link":        {{Typeflag: tar.TypeLink, Name: "link", Linkname: "../../../meta/layout"}},
		"device":           {{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}},
		"whiteout":         {regular("dir/.wh.gone")},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "store")
			layer := makeTar(t, false, append([]tar.Header{regular("fine")}, headers...)...)
			var out bytes.Buffer
			err := run(t.Context(), []string{"-store", root, layer}, &out)
			if entry := headers[len(headers)-1].Name; err == nil || !strings.Contains(err.Error(), layer) || !strings.Contains(err.Error(), entry) {
				t.Errorf("error %v, want one that names %s and %s", err, layer, entry)
			}
			if infos := snapshots(t, root); len(infos) != 0 {
				t.Errorf("left behind: %v", infos)
			}
			filepath.WalkDir(filepath.Dir(root), func(path string, _ fs.DirEntry, err error) error {
				if err != nil || filepath.Base(path) == "evil" {
					t.Errorf("found %s: %v", path, err)
				}
				return nil
			})
			if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
				t.Errorf("outside: %v, %v", entries, err)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(writeFiles(t, map[string]string{"text": "this is no tar file"}), "text")
	broken := filepath.Join(dir, "broken.tar.gz")
	whole, err := os.ReadFile(makeTar(t, true, tar.Header{Typeflag: tar.TypeReg, Name: "a"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken, whole[:len(whole)-5], 0o644); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "store")
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"missing layer":    {[]string{"-store", store, filepath.Join(dir, "missing")}, "missing"},
		"no tar":           {[]string{"-store", store, file}, file},
		"cut short":        {[]string{"-store", store, broken}, broken},
		"store in layer":   {[]string{"-store", store, dir}, "contains the store"},
		"store is layer":   {[]string{"-store", store, store}, "contains the store"},
		"store is a file":  {[]string{"-store", file, dir}, file},
		"overlay's commas": {[]string{"-store", store + ",x", dir}, "commas"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(t.Context(), test.args, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
	if infos := snapshots(t, store); len(infos) != 0 {
		t.Errorf("left behind: %v", infos)
	}
}

// TestTwoDrivers: a second driver waits for the first, and then goes on from it.
func TestTwoDrivers(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	layer := writeFiles(t, map[string]string{"a": "a"})
	first, err := openDriver(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := run(ctx, []string{"-store", root, layer}, &bytes.Buffer{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v while another driver runs, want a timeout", err)
	}
	done := make(chan error)
	go func() { done <- run(t.Context(), []string{"-store", root, layer}, &bytes.Buffer{}) }()
	if _, err := first.create(t.Context(), "container-1", ""); err != nil {
		t.Fatal(err)
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if infos := snapshots(t, root); len(infos) != 2 {
		t.Errorf("%d snapshots, want a layer and a container: %v", len(infos), infos)
	}
}
