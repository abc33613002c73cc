package fsmeta_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// One fault in a snapshot costs that snapshot: its parent is recorded twice.

var parentScript = []string{"layer base", "layer mid base", "layer top mid", "layer lone", "put work top", "put free"}

// A snapshot that is damaged keeps its parent, and none else, from being removed.
func TestDamagedSnapshotKeepsItsParentAlone(t *testing.T) {
	for _, c := range []struct {
		damaged, removable, kept string // in order of removal; at the end, what can't be removed
	}{
		{"base", "free lone work top mid", ""},
		{"mid", "free lone work top", "base"},
		{"top", "free lone work", "mid base"},
		{"lone", "free work top mid base", ""},
		{"work", "free lone", "top mid base"},
		{"free", "lone work top mid base", ""},
	} {
		for _, reopened := range []bool{false, true} {
			t.Run(c.damaged, func(t *testing.T) {
				dir := newDir(t)
				build(t, dir, parentScript...)
				flip(t, metadataPath(dir, c.damaged), 100)
				a := useDamaged(t, dir)
				mustFail(t, a, "stat "+c.damaged, fsmeta.ErrDamaged)
				for name := range strings.FieldsSeq(c.removable) {
					mustDo(t, a, "remove "+name)
					if reopened {
						mustDo(t, a, "close")
						a = useDamaged(t, dir)
					}
				}
				for name := range strings.FieldsSeq(c.kept) {
					if _, err := a.do("remove " + name); !errors.Is(err, fsmeta.ErrHasChildren) && !errors.Is(err, fsmeta.ErrDamaged) {
						t.Errorf("remove %s, on which a damaged one stands: %v", name, err)
					}
				}
				for _, name := range strings.Fields(c.kept) {
					mustDo(t, a, "stat "+name)
				}
				mustDo(t, a, "put new", "layer another", "remove another", "remove new")
			})
		}
	}
}

// A parent link that is missing or wrong is a finding, and no more: reading does not look at it, and a
// repair makes it again.
func TestParentLinkIsForPeople(t *testing.T) {
	for _, c := range []struct {
		name  string
		alter func(link string) error
	}{
		{"missing", os.Remove},
		{"of another", func(link string) error { return errors.Join(os.Remove(link), os.Symlink("../lone", link)) }},
		{"dangling", func(link string) error { return errors.Join(os.Remove(link), os.Symlink("../nothing", link)) }},
		{"out of the store", func(link string) error { return errors.Join(os.Remove(link), os.Symlink("/", link)) }},
		{"a file", func(link string) error { return errors.Join(os.Remove(link), os.WriteFile(link, nil, 0o600)) }},
		{"a directory", func(link string) error { return errors.Join(os.Remove(link), os.Mkdir(link, 0o700)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newDir(t)
			build(t, dir, parentScript...)
			succeed(t, c.alter(entry(dir, "top/parent")))
			a := useDamaged(t, dir)
			mustSay(t, a, "stat top", "committed v= on=mid")
			mustSay(t, a, "walk", "base free lone mid top work")
			mustDo(t, a, "active work", "backup "+newDir(t))
			mustFail(t, a, "remove mid", fsmeta.ErrHasChildren)
			mustDo(t, a, "remove lone", "close")
			findings, err := fsmeta.Check(t.Context(), dir, nil)
			if err != nil || len(findings) == 0 || !strings.Contains(findings[0].String(), "top") {
				t.Errorf("check: %v, %v", findings, err)
			}
			repair(t, dir)
			forgetAside(t, dir)
			wantClean(t, dir)
			if target, err := os.Readlink(entry(dir, "top/parent")); err != nil || target != "../mid" {
				t.Errorf("the link leads to %q, %v", target, err)
			}
			mustSay(t, use(t, dir), "stat top", "committed v= on=mid")
		})
	}
}

// A link where there is no parent is a finding, too.
func TestParentLinkWithoutParent(t *testing.T) {
	dir := newDir(t)
	build(t, dir, parentScript...)
	succeed(t, os.Symlink("../base", entry(dir, "lone/parent")))
	a := useDamaged(t, dir)
	mustSay(t, a, "stat lone", "committed v= on=")
	mustDo(t, a, "close")
	if findings, err := fsmeta.Check(t.Context(), dir, nil); err != nil || len(findings) != 1 {
		t.Errorf("check: %v, %v", findings, err)
	}
	repair(t, dir)
	forgetAside(t, dir)
	wantClean(t, dir)
}

// Any change of the link's snapshot is possible while the link is wrong.
func TestChangesWithAWrongLink(t *testing.T) {
	for _, script := range []string{"label top 1", "label work 1", "commit work done", "remove work", "put more top"} {
		t.Run(script, func(t *testing.T) {
			dir := newDir(t)
			build(t, dir, parentScript...)
			for _, name := range []string{"top", "work"} {
				succeed(t, os.Remove(entry(dir, name+"/parent")), os.Symlink("../lone", entry(dir, name+"/parent")))
			}
			a := useDamaged(t, dir)
			mustDo(t, a, script)
			mustSay(t, a, "stat base", "committed v= on=")
			mustFail(t, a, "remove mid", fsmeta.ErrHasChildren)
			mustDo(t, a, "close")
			repair(t, dir)
			forgetAside(t, dir)
			wantClean(t, dir)
		})
	}
}

// Two faults at once: directories that have changed places, and a damaged line that has committed
// one of them. The checksum of the file says which snapshot it is, so that none is lost.
func TestExchangedBesideADamagedLine(t *testing.T) {
	dir := newDir(t)
	crashed(t, dir, "layer B", "put keyA", "commit keyA A", "put k A", "label k 1")
	succeed(t, os.Rename(entry(dir, "A"), entry(dir, "other")), os.Rename(entry(dir, "B"), entry(dir, "A")), os.Rename(entry(dir, "other"), entry(dir, "B")))
	text := readFile(t, filepath.Join(dir, "journal"))
	at := strings.Index(text, `{"name":"keyA","before":{`)
	if at < 0 {
		t.Fatal("the journal has no line that commits keyA:\n" + text)
	}
	flip(t, filepath.Join(dir, "journal"), at+12)
	repair(t, dir)
	a := useDamaged(t, dir)
	got, err := a.do("walk")
	for _, name := range []string{"A", "B", "k"} {
		if !strings.Contains(" "+got+" ", " "+name+" ") {
			t.Errorf("walk gives %q, %v, and not %s", got, err, name)
		}
	}
	mustSay(t, a, "stat k", "active v=1 on=A")
}
