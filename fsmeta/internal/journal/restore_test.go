package journal

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// A mark that could be erased and not synced counts as gone: the next Supersede writes it anew,
// so that readers of the old file look for the new one.
func TestSupersedeAfterARestoreThatFailed(t *testing.T) {
	path, staging := filepath.Join(t.TempDir(), "journal"), t.TempDir()
	next, err := Prepare(path, staging, 4096, disk.Owner{})
	must(t, err)
	f, err := next.Write(nil, format.Header{NextID: 1, Names: format.Names{Known: true}}, nil, false)
	must(t, err)
	must(t, next.Replace())
	must(t, f.Place())
	reader, err := Open(path, false)
	must(t, err)
	must(t, f.Supersede())
	// The null device takes the bytes, and no sync.
	real, null := f.file, must1(t)(os.OpenFile(os.DevNull, os.O_RDWR, 0))
	off := f.nextLocked(f.tipLocked())
	_, err = writeNUL(real, off, off+int64(format.SupersededLen))
	must(t, err)
	f.file = null
	if err := f.Restore(); err == nil {
		t.Error("the sync of the null device succeeded")
	}
	f.file = real
	must(t, null.Close())
	must(t, f.Supersede())
	if quiet, err := reader.Quiet(); quiet || err != nil {
		t.Errorf("the mark can't be seen: %v", err)
	}
	must(t, reader.Close())
	must(t, f.Close())
}

func must1(t *testing.T) func(*os.File, error) *os.File {
	return func(f *os.File, err error) *os.File { must(t, err); return f }
}
