package fsck

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
)

// content is the snapshots of a store.
type content struct {
	entries []string                    // of snapshots/, in order
	good    map[string]*format.Snapshot // by name; their parents may be wrong
	damaged map[string]*fault.Damaged   // the others, by entry of snapshots/
	behind  map[string]bool             // names that lag: the journal decides, and the tree has something else
}

// newContent lists the entries of snapshots/, and reads none.
func (s *store) newContent() (*content, error) {
	entries, err := s.tree.List()
	slices.Sort(entries)
	return &content{entries, map[string]*format.Snapshot{}, map[string]*fault.Damaged{}, map[string]bool{}}, err
}

// take notes a good snapshot.
func (s *store) take(c *content, m *format.Snapshot) error {
	c.good[m.Name] = m
	if s.progress != nil {
		s.progress(len(c.good), max(len(c.good), len(c.entries)))
	}
	return s.ctx.Err()
}

// readTree reads the entries of snapshots/ as they are.
func (s *store) readTree() (*content, error) {
	c, err := s.newContent()
	if err != nil {
		return nil, err
	}
	for _, entry := range c.entries {
		m, err := readEntry(s.tree, entry)
		if damage := fault.DamageOf(err); damage != nil {
			c.damaged[entry] = damage
			continue
		}
		if err == nil && m != nil {
			err = s.take(c, m)
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// readEntry reads what an entry of snapshots/ holds, nil where it is gone.
func readEntry(t *tree.Tree, entry string) (*format.Snapshot, error) {
	name, hashed, ok := format.DecodeName(entry)
	if !ok {
		return nil, &fault.Damaged{Path: t.EntryPath(entry), Err: errors.New("the store gives no such name to what it puts here")}
	}
	if hashed {
		var err error
		if name, err = t.NameIn(entry); err != nil {
			return nil, err
		}
	}
	return t.Read(name)
}

// overlay takes over how the journal has the names that lag, nil for removed ones.
func (c *content) overlay(lagging map[string]*format.Snapshot) {
	lags, there := map[string]bool{}, []string{} // entries
	for name, m := range lagging {
		entry := format.EncodeName(name)
		lags[entry], c.behind[name] = true, true
		delete(c.damaged, entry)
		delete(c.good, name)
		if m != nil {
			c.good[name] = m
			there = append(there, entry)
		}
	}
	c.entries = append(slices.DeleteFunc(c.entries, func(entry string) bool { return lags[entry] }), there...)
}

// byName returns the good ones in order of their names.
func (c *content) byName() []*format.Snapshot {
	return slices.SortedFunc(maps.Values(c.good), func(a, b *format.Snapshot) int { return strings.Compare(a.Name, b.Name) })
}

// standing returns how many snapshots stand on each name, or on one that does, and the names of
// the good ones with parents that lead back to them.
func (c *content) standing() (above map[string]int, circles map[string]bool) {
	above, circles = map[string]int{}, map[string]bool{}
	children := map[string]int{} // those that are not counted yet
	for name, m := range c.good {
		circles[name] = true
		children[m.Parent]++
	}
	var next []*format.Snapshot // from the top down; no circle has a top
	for name, m := range c.good {
		if children[name] == 0 {
			next = append(next, m)
		}
	}
	for ; len(next) > 0; next = next[1:] {
		m := next[0]
		delete(circles, m.Name)
		above[m.Parent] += above[m.Name] + 1
		children[m.Parent]--
		if parent := c.good[m.Parent]; parent != nil && children[m.Parent] == 0 {
			next = append(next, parent)
		}
	}
	delete(above, "")
	return above, circles
}

// parentProblem says what is wrong with the parent of m, "" for nothing. Unusable: m can't
// be used for that.
func (c *content) parentProblem(m *format.Snapshot, circles map[string]bool) (problem string, unusable bool) {
	parent := c.good[m.Parent]
	if problem := c.missingParent(m); problem != "" {
		return problem, true
	}
	switch {
	case m.Parent == "":
	case circles[m.Name]:
		return "its parents lead back to it", true
	case parent != nil && parent.Kind != format.Committed:
		return fmt.Sprintf("its parent %.256q is not committed", m.Parent), false
	}
	return "", false
}

// missingParent says that there is no parent of m, "" where there is one or need be none.
func (c *content) missingParent(m *format.Snapshot) string {
	if m.Parent == "" || c.good[m.Parent] != nil || c.damaged[format.EncodeName(m.Parent)] != nil {
		return ""
	}
	return fmt.Sprintf("its parent %.256q is missing", m.Parent)
}

// linkedInstead returns the parent that the link of m leads to, where that is another than its file
// says, and could be it; else "". Where the parent in the file can't be right, the link may be.
func (s *store) linkedInstead(m *format.Snapshot) string {
	says, err := s.tree.LinkedParent(format.EncodeName(m.Name))
	if err != nil || says == "" || says == format.EncodeName(m.Parent) {
		return ""
	}
	name, hashed, ok := format.DecodeName(says)
	if hashed {
		name, err = s.tree.NameIn(says)
	}
	if !ok || err != nil || name == m.Name {
		return ""
	}
	parent, err := s.tree.Read(name)
	if err != nil || parent == nil || parent.Kind != format.Committed {
		return ""
	}
	return name
}

// adviseByLink puts before what to do about a parent that can't be right what the link says, if
// that may be.
func (s *store) adviseByLink(m *format.Snapshot, advice string) string {
	linked := s.linkedInstead(m)
	if linked == "" {
		return advice
	}
	return fmt.Sprintf("the link beside the file leads to %.256q, which is there: if that is right, stop what uses the store, set \"parent\" in the file to it, and delete the line with crc32c; else %s", linked, advice)
}

// evidence returns the names of those of which the link may be right, and the file not.
func (s *store) evidence(c *content) map[string]bool {
	may := map[string]bool{}
	_, circles := c.standing()
	for name, m := range c.good {
		if problem, _ := c.parentProblem(m, circles); problem != "" && s.linkedInstead(m) != "" {
			may[name] = true
		}
	}
	return may
}

// oddLinks returns what is wrong with the parent links of snapshots, by name.
func (s *store) oddLinks(all []*format.Snapshot) (map[string]string, error) {
	odd := map[string]string{}
	for _, m := range all {
		problem, err := s.linkProblem(m)
		if err != nil {
			return nil, err
		}
		if problem != "" {
			odd[m.Name] = problem
		}
	}
	return odd, nil
}

// linkProblem says what is wrong with the parent link of m, "" for nothing.
func (s *store) linkProblem(m *format.Snapshot) (string, error) {
	says, err := s.tree.LinkedParent(format.EncodeName(m.Name))
	damage, want := fault.DamageOf(err), ""
	if m.Parent != "" {
		want = format.EncodeName(m.Parent)
	}
	switch {
	case damage != nil:
		return fault.ProblemOf(damage), nil
	case err != nil || says == want:
		return "", err
	case says == "":
		return "the link is missing", nil
	case want == "":
		return fmt.Sprintf("there is a link, to %s, and its file says that it has no parent", says), nil
	default:
		return fmt.Sprintf("the link leads to %s, and its file says that its parent is %.256q", says, m.Parent), nil
	}
}

// notAFile is how an open fails where no file stands.
var notAFile = []syscall.Errno{unix.ENOENT, unix.ENOTDIR, unix.EISDIR, unix.ELOOP, unix.ENXIO, unix.ENODEV, unix.EOPNOTSUPP}

// unreadable reports whether a file could not be read for a reason that says nothing of what is in it.
func unreadable(d *fault.Damaged) bool {
	var errno syscall.Errno
	return errors.As(d.Err, &errno) && !slices.Contains(notAFile, errno)
}

// vouched returns the snapshot in an entry of which the checksum is right, though it may say
// another name; nil where there is no such checksum.
func vouched(snapshots *disk.Dir, entry string) *format.Snapshot {
	data, err := snapshots.ReadFile(entry+"/"+format.MetadataFile, format.MaxFile)
	if err != nil || !bytes.HasPrefix(data, []byte("{\n  \"crc32c\": \"")) {
		return nil
	}
	m, err := format.DecodeFile(data)
	if err != nil {
		return nil
	}
	return m
}

// misplaced returns those of the damaged entries with a file of which the checksum is right,
// by entry: it says the name, and so where they belong. Left out are those that belong where
// something good is, or something that can't be read, and where two belong in one place, the older one.
func (c *content) misplaced(snapshots *disk.Dir) map[string]*format.Snapshot {
	found, at := map[string]*format.Snapshot{}, map[string]string{}
	for _, entry := range slices.Sorted(maps.Keys(c.damaged)) {
		m := vouched(snapshots, entry)
		if m == nil || c.good[m.Name] != nil || c.behind[m.Name] {
			continue
		}
		place := format.EncodeName(m.Name)
		if d := c.damaged[place]; d != nil && (unreadable(d) || snapshots.IsMount(place)) {
			continue // what stands there may be whole
		}
		if other, two := at[m.Name]; two {
			if found[other].Txn >= m.Txn {
				continue
			}
			delete(found, other)
		}
		found[entry], at[m.Name] = m, entry
	}
	return found
}

// checkSnapshots reports what is damaged, missing, or stands on something that it can't
// stand on.
func (c *checker) checkSnapshots() {
	if c.lost != nil {
		c.found(Finding{Path: c.path(format.SnapshotsDir), Problem: problemOf(c.lost),
			Meaning: "enumerations end with an error, so that drivers delete no content", Advice: adviceOf(c.lost)})
	}
	above, circles := c.content.standing()
	unusable := func(name string) string {
		if n := above[name]; n > 0 {
			return "this snapshot can't be used, " + counted(n, "nor can the one that stands on it", "nor can the %d that stand on it")
		}
		return "this snapshot can't be used"
	}
	misplaced := c.content.misplaced(c.snapshots)
	for entry, damage := range c.content.damaged {
		f := Finding{Path: damage.Path, Name: damage.Name, Problem: fault.ProblemOf(damage),
			Meaning: unusable(damage.Name) + "; the parent that its link says can't be removed",
			Advice:  c.adviseDamaged(entry, damage, misplaced[entry])}
		switch f.Advice {
		case adviseStray:
			f.Meaning = "the store has no snapshot in it"
		case adviseUnreadable:
			f.Meaning = unusable(damage.Name) + "; it may be whole"
		}
		c.found(f)
	}
	for _, entry := range c.mounted {
		if name, _, _ := format.DecodeName(entry); !c.content.behind[name] { // else that was said
			c.found(Finding{Path: c.tree.EntryPath(entry), Problem: "it is " + mountPoint, Meaning: "what is mounted hides the snapshot's own directory, and keeps it from being changed and removed", Advice: adviseUnmount})
		}
	}
	for _, m := range c.content.good {
		problem, bad := c.content.parentProblem(m, circles)
		f := Finding{Path: c.metadata(m.Name), Name: m.Name, Problem: problem, Meaning: "what it stands on may change, or be removed", Advice: adviseKind}
		switch {
		case problem == "":
			continue
		case circles[m.Name]:
			f.Meaning, f.Advice = "it can't be mounted or removed", c.adviseByLink(m, adviseRepair)
		case bad:
			f.Meaning, f.Advice = unusable(m.Name), c.adviseByLink(m, c.adviseParent())
		default:
			f.Advice = c.adviseByLink(m, adviseKind)
		}
		c.found(f)
	}
}

// adviseDamaged says what to do about an entry of snapshots/ that can't be read. belongs is the
// snapshot in it, where that was put under a wrong name, else nil.
func (s *store) adviseDamaged(entry string, damage *fault.Damaged, belongs *format.Snapshot) string {
	switch {
	case belongs != nil:
		return fmt.Sprintf("stop what uses the store and run a repair: the checksum says that it is %.256q", belongs.Name)
	case damage.Name == "" && !format.IsHashed(entry):
		return adviseStray
	case s.snapshots.IsMount(entry):
		return adviseUnmount
	case unreadable(damage):
		return adviseUnreadable
	case !s.isDir(entry):
		return adviseNoDir
	case !s.isFile(entry):
		return adviseNoFile
	}
	return adviseSnapshot
}

// isDir reports whether an entry of snapshots/ is a directory, or may be one.
func (s *store) isDir(entry string) bool {
	_, isDir, err := s.snapshots.Exists(entry)
	return isDir || err != nil
}

// isFile reports whether an entry of snapshots/ has a file with metadata.
func (s *store) isFile(entry string) bool {
	is, err := s.snapshots.Lstat(entry + "/" + format.MetadataFile)
	return err == nil && is.Type == 0
}

// checkIdentifiers looks for identifiers that are not unique, or would not stay so.
func (c *checker) checkIdentifiers() {
	var next uint64 // the lowest that may be handed out
	if c.view != nil && !c.journalBad {
		next = c.view.Journal().NextID()
	}
	owners := map[string]string{}
	for _, m := range c.content.byName() {
		if other, two := owners[m.ID]; two && !c.journalBad { // a damaged one may show a key beside what it was committed as
			c.found(Finding{Path: c.metadata(m.Name), Name: m.Name, Problem: fmt.Sprintf("snapshot %.256q has the same identifier, %s", other, m.ID),
				Meaning: "both have the same content, and removing one deletes it", Advice: "remove neither: find out which of them the content is of, and give the other an identifier of its own, see 'Two snapshots with one identifier' in docs/repair.md"})
		}
		owners[m.ID] = m.Name
		if id, err := format.ParseID(m.ID); err == nil && id >= next && next > 0 && !commit.UsedUp(next) {
			c.found(Finding{Path: c.metadata(m.Name), Name: m.Name, Problem: fmt.Sprintf("its identifier %s is not below %d, the next to be handed out", m.ID, next),
				Meaning: "it may be given to another snapshot, too", Advice: adviseRepair})
		}
	}
}

// checkAhead looks for snapshots of which the tree has a later version than the journal could know.
// None of the lines is about them: what one is about is compared by compareLines.
func (c *checker) checkAhead() {
	if c.view == nil || c.journalBad {
		return
	}
	j := c.view.Journal()
	for _, m := range c.content.byName() {
		if m.Txn > j.Tip() {
			c.found(Finding{Path: c.metadata(m.Name), Name: m.Name, Problem: fmt.Sprintf("it is of transaction %d, and the journal ends at %d", m.Txn, j.Tip()),
				Meaning: "an older journal is in place, and identifiers may be handed out twice; or the snapshot was put back by hand",
				Advice:  "stop what uses the store; if the journal is a copy that was put back, put the right one back; else run a repair, which goes on behind it"})
		}
	}
}
