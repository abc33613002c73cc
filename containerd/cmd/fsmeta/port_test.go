package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	bolt "go.etcd.io/bbolt"
)

// metadata makes a metadata.db with containerd's package: a layer, and a container on it. With
// odd, there is one more snapshot, with a key that is not UTF-8.
func metadata(t *testing.T, odd bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "metadata.db")
	ms, err := storage.NewMetaStore(path)
	succeed(t, err)
	succeed(t, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "extract", "")
		if err == nil {
			_, err = storage.CommitActive(ctx, "extract", "layer", snapshots.Usage{Size: 4096})
		}
		if err == nil {
			_, err = storage.CreateSnapshot(ctx, snapshots.KindActive, "web", "layer")
		}
		if err == nil && odd {
			_, err = storage.CreateSnapshot(ctx, snapshots.KindActive, "odd\xff", "layer")
		}
		return err
	}), ms.Close())
	return path
}

// A file is taken over in its place, and comes back as it was.
func TestImportAndExport(t *testing.T) {
	path := metadata(t, false)
	before, err := os.ReadFile(path)
	succeed(t, err)
	for _, c := range []struct {
		arguments []string
		out       string
		status    int
	}{
		{[]string{"ls", path}, "", 2},
		{[]string{"import", path}, "", 2},
		{[]string{"import", "--json", path, path}, `{"file":"PATH","store":"PATH","snapshots":2,"leftOut":[]}` + "\n", 0},
		{[]string{"import", path, path}, "2 snapshots are in PATH, left out: 0\nthe file that was there is PATH.bolt\n", 0},
		{[]string{"check", path}, "the metadata is in order\n", 0},
		{[]string{"export", path, path + ".back"}, "2 snapshots are in PATH.back\n", 0},
		{[]string{"export", path, path + ".back"}, "", 2},
		{[]string{"export", "--json", path, path + ".more"}, `{"store":"PATH","file":"PATH.more","snapshots":2}` + "\n", 0},
		{[]string{"import", path + ".back", path + ".store"}, "2 snapshots are in PATH.store, left out: 0\n", 0},
		{[]string{"export", path + ".bolt", path + ".none"}, "", 2},
		{[]string{"export", path, path}, "2 snapshots are in PATH\nthe store that was there is PATH.fsmeta\nPATH.bolt is of an earlier time: delete it before the next import\n", 0},
		{[]string{"export", path, path}, "2 snapshots are in PATH\nthe store that was there is PATH.fsmeta\nPATH.bolt is of an earlier time: delete it before the next import\n", 0},
		{[]string{"check", path + ".fsmeta"}, "the metadata is in order\n", 0},
		{[]string{"import", path, path}, "", 2}, // PATH.bolt is there
		{[]string{"import", path + ".none", path + ".none"}, "", 2},
	} {
		r := on(t, 0, c.arguments...)
		if got := strings.ReplaceAll(r.out, path, "PATH"); got != c.out || r.status != c.status || (r.errs != "") != (c.status == 2) {
			t.Errorf("fsmeta %q: status %d\n%s%s", c.arguments, r.status, got, r.errs)
		}
	}
	after, err := os.ReadFile(path + ".bolt")
	succeed(t, err)
	if string(before) != string(after) {
		t.Error("the file that is kept has changed")
	}
}

// A file that has what can't be taken over is refused with a list, or taken over but for that.
func TestImportLeaveOut(t *testing.T) {
	path := metadata(t, true)
	const line = `snapshot "odd\xff" (identifier 3): `
	r := on(t, 0, "import", path, path)
	if !strings.HasPrefix(r.out, line) || strings.Count(r.out, "\n") != 1 || r.status != 2 || !strings.Contains(r.errs, "--leave-out") {
		t.Errorf("%+v", r)
	}
	r = on(t, 0, "import", "--leave-out", path, path)
	if !strings.HasPrefix(r.out, line) || !strings.HasSuffix(r.out, "2 snapshots are in "+path+", left out: 1\nthe file that was there is "+path+".bolt\n") || r.status != 1 {
		t.Errorf("%+v", r)
	}
}

// A file where a store should be is told from a directory that is none, and nothing from both.
func TestNotImported(t *testing.T) {
	path := metadata(t, false)
	for _, command := range [][]string{
		{"ls", path}, {"info", path}, {"check", path}, {"repair", path}, {"backup", path, path + ".copy"}, {"export", path, path + ".out"},
	} {
		r := on(t, 0, command...)
		if want := "run: fsmeta import " + path + " " + path; r.status != 2 || !strings.Contains(r.errs, want) || strings.Contains(r.errs, "directory") {
			t.Errorf("fsmeta %q: %+v", command, r)
		}
	}
	other := filepath.Join(t.TempDir(), "other")
	succeed(t, os.WriteFile(other, []byte("text"), 0o600))
	if r := on(t, 0, "info", other); r.status != 2 || !strings.Contains(r.errs, "is a file and no store") {
		t.Errorf("%+v", r)
	}
	none := path + ".none"
	if r := on(t, 0, "import", none, none); r.status != 2 || r.errs != "fsmeta: stat "+none+": no such file or directory\n" {
		t.Errorf("%+v", r)
	}
}

// A file that another process has open is not taken over, and the command says so.
func TestImportInUse(t *testing.T) {
	path := metadata(t, false)
	db, err := bolt.Open(path, 0, nil)
	succeed(t, err)
	if r := on(t, 0, "import", path, path); r.status != 2 || !strings.Contains(r.errs, "it is in use: stop the process") {
		t.Errorf("%+v", r)
	}
	if r := on(t, 0, "export", path, path); r.status != 0 || r.out != path+" is a file already, and in use\n" {
		t.Errorf("%+v", r)
	}
	succeed(t, db.Close())
}
