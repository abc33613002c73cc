package fsck

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// What a repair has set aside is told with its identifiers, or that they can't be.
func TestSetAside(t *testing.T) {
	s := specimen(t, false)
	wantAside := func(want ...string) {
		t.Helper()
		ids, err := SetAside(s.dir)
		slices.Sort(ids)
		if got := slices.Compact(ids); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	wantUnknown := func(path string) { // and the others
		t.Helper()
		ids, err := SetAside(s.dir)
		if damage := fault.DamageOf(err); !errors.Is(err, fault.ErrDamaged) || damage.Path != path || !slices.Contains(ids, "2") || !slices.Contains(ids, "6") {
			t.Errorf("%q, %v, want an ErrDamaged of %s beside others", ids, err, path)
		}
	}
	wantAside()
	s.remove(dirOf("base"))
	_, err := Repair(bg, s.dir, RepairOptions{AcceptTree: true}, nil)
	s.check(err)
	want := []string{"2", "4", "5", "6"}
	wantAside(want...)

	// A symlink in the place of any directory on the way does not pass for nothing.
	s.move(format.DamagedDir, "lost+found")
	s.link(format.DamagedDir, "lost+found")
	ids, err := SetAside(s.dir)
	if damage := fault.DamageOf(err); damage == nil || damage.Path != s.at(format.DamagedDir) {
		t.Errorf("%q, %v, want an ErrDamaged of %s", ids, err, s.at(format.DamagedDir))
	}
	s.wantCheck(wanted{"damaged", false, "it is a symlink"})
	s.remove(format.DamagedDir)
	s.move("lost+found", format.DamagedDir)

	times, err := os.ReadDir(s.at(format.DamagedDir))
	s.check(err)
	aside := filepath.Join(s.dir, format.DamagedDir, times[0].Name(), "snapshots/view")
	file := aside + "/metadata.json"
	data, err := os.ReadFile(file)
	s.check(err)
	for _, bad := range []string{
		strings.Replace(string(data), `"id": "`, `"id": "9`, 1),
		"",
	} {
		s.check(os.WriteFile(file, []byte(bad), format.FileMode))
		wantUnknown(file)
	}
	// A person has looked at it.
	first, rest, _ := strings.Cut(string(data), "\n")
	_, rest, _ = strings.Cut(rest, "\n")
	s.check(os.WriteFile(file, []byte(first+"\n"+rest), format.FileMode))
	wantAside(want...)
	s.check(os.Remove(file))
	wantUnknown(file)
	s.check(os.Symlink("/etc/passwd", file))
	wantUnknown(file)
	s.check(os.RemoveAll(aside))
	s.check(os.Symlink("/etc", aside))
	wantUnknown(aside)
	s.check(os.Remove(aside))

	// Other entries than snapshots don't matter; staged ones do.
	dir := filepath.Dir(filepath.Dir(aside))
	s.check(os.WriteFile(dir+"/snapshots/notes 2", nil, format.FileMode))
	s.check(os.MkdirAll(dir+"/snapshots/.hidden", format.DirMode))
	s.check(os.MkdirAll(dir+"/staging/0123abcd-1", format.DirMode))
	wantAside("2", "4", "6")
	file = dir + "/staging/0123abcd-1/metadata.json"
	s.check(os.WriteFile(file, []byte("{"), format.FileMode))
	wantUnknown(file)
	if ids, err := SetAside(filepath.Join(t.TempDir(), "gone")); err != nil || len(ids) > 0 {
		t.Errorf("of nothing: %v, %v", ids, err)
	}
}
