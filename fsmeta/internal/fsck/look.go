package fsck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/layout"
	"github.com/fsmeta/fsmeta/fsmeta/internal/view"
	"github.com/fsmeta/fsmeta/lock"
)

// Sight is one snapshot as Look finds it.
type Sight struct {
	Name     string           // "" where it can't be told
	Path     string           // of its directory
	Snapshot *format.Snapshot // nil where its file can't be read; of a damaged one, what the file says
	Journal  bool             // a line of the journal names it, and so decides
	Lags     string           // what the tree has instead of what the line says, "" where it has that
	Damage   error            // a *fault.Damaged
	Advice   string           // what to do about Lags or Damage
}

// Look is a store that is looked at, in whatever state it is, at one moment.
type Look struct {
	store
	reader view.Reader
	lines  map[string]lastLine // the last line about each name that the journal has lines about
	bad    []error             // what is wrong with layout and journal, each a *fault.Damaged; never changed in place
}

// lastLine is the last line of the journal about a name.
type lastLine struct {
	txn     uint64
	removed bool // it says that there is no such snapshot
}

// OpenLook opens the store in dir to look at it. It writes nothing, and waits for no writer. The
// error is an ErrNotStore where there is nothing of a store, an ErrInUse during a repair.
func OpenLook(dir string) (*Look, error) {
	l := &Look{store: store{ctx: context.Background()}}
	err := l.open(dir, (*layout.Lock).Share)
	if err == nil {
		err = l.openParts()
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// Close ends the look.
func (l *Look) Close() error {
	if l.view != nil {
		l.view.End(&l.reader)
	}
	return l.close()
}

func (l *Look) openParts() error {
	if l.problem != "" {
		l.bad = append(l.bad, &fault.Damaged{Path: l.path(format.LayoutFile), Err: errors.New(l.problem)})
	}
	if err := l.openTree(); err != nil {
		return err
	}
	v, err := view.Open(l.dir, l.tree, false)
	damage := l.journalDamage(err)
	if damage == nil {
		damage = l.unreadable(err)
	}
	if damage != nil {
		l.bad = append(l.bad, damage)
		return nil // the tree alone
	}
	if err != nil {
		return err
	}
	l.view = v
	v.KeepNothing() // a walk reads each once
	if err := v.Begin(&l.reader); err != nil {
		return err
	}
	v.Ready() // so that it knows which lines are nonsense
	if damage := fault.DamageOf(v.Damage()); damage != nil {
		l.bad = append(l.bad, damage)
	}
	return l.noteNames()
}

// ofJournal reports whether err is damage of the journal.
func (l *Look) ofJournal(err error) bool { return l.journalDamage(err) != nil }

// unreadable returns err as damage of the journal where it says that there is a file which can't be
// read, else nil. The tree is worth a look then. What it may lack is told by the damage.
func (l *Look) unreadable(err error) *fault.Damaged {
	path := l.path(format.JournalFile)
	var failed *fs.PathError
	if errors.As(err, &failed) && failed.Path == path && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EIO)) {
		return &fault.Damaged{Path: path, Err: err}
	}
	return nil
}

// lastLines returns the last line about each name, of those up to a transaction.
func (l *Look) lastLines(at uint64) (map[string]lastLine, error) {
	last := map[string]lastLine{}
	_, txns, err := readable(l.root)
	for _, t := range txns {
		if t.Number > at {
			break // not committed yet
		}
		for _, c := range t.Changes {
			last[c.Name] = lastLine{t.Number, c.After == nil}
		}
	}
	return last, err
}

// noteNames notes which names the journal decides: those of its lines, also where others can't be
// read. If a checkpoint drops some meanwhile, the tree has come to decide about those.
func (l *Look) noteNames() (err error) {
	l.lines, err = l.lastLines(l.reader.At)
	return err
}

// Walk calls fn for each snapshot: in byte order of the names those that can be read, and then the
// damaged ones. It returns what is wrong with the store as a whole, each a *fault.Damaged; and the
// error of fn, or why it could not go on.
func (l *Look) Walk(ctx context.Context, fn func(Sight) error) (bad []error, err error) {
	if l.view == nil {
		return l.walkTree(ctx, fn)
	}
	good := func(m *format.Snapshot) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return fn(l.sight(m))
	}
	bad = slices.Clone(l.bad)
	err = l.view.Walk(l.reader.Point, nil, good, func(d view.Damage) error {
		switch {
		case !d.Lost:
			return fn(l.damaged(d.Entry, d.Err))
		case l.journalDamage(d.Err) == nil || !slices.ContainsFunc(l.bad, l.ofJournal):
			bad = append(bad, d.Err) // of the journal, where the opening found none
		}
		return nil
	})
	return bad, err
}

// walkTree is Walk without a journal.
func (l *Look) walkTree(ctx context.Context, fn func(Sight) error) (bad []error, err error) {
	s := l.store // another walk has a context of its own
	s.ctx = ctx
	c, err := s.readTree()
	if err != nil {
		return nil, err
	}
	for _, m := range c.byName() {
		if problem := c.missingParent(m); problem != "" {
			entry := format.EncodeName(m.Name)
			c.damaged[entry] = &fault.Damaged{Name: m.Name, Path: l.tree.Path(m.Name), Err: errors.New(problem)}
		} else if err := fn(l.sight(m)); err != nil {
			return nil, err
		}
	}
	for _, entry := range c.entries {
		if damage := c.damaged[entry]; damage != nil {
			if err := fn(l.damaged(entry, damage)); err != nil {
				return nil, err
			}
		}
	}
	return slices.Clone(l.bad), nil
}

// damaged is a snapshot that the store does not return. Where its own file is sound, what it
// stands on is not.
func (l *Look) damaged(entry string, err error) Sight {
	s := Sight{Path: l.tree.EntryPath(entry), Damage: err}
	damage := fault.DamageOf(err)
	if damage == nil {
		return s
	}
	s.Name = damage.Name
	_, s.Journal = l.lines[s.Name]
	if s.Name != "" && s.Path == l.tree.Path(s.Name) {
		if m, err := l.tree.Read(s.Name); err == nil && m != nil {
			s.Snapshot, s.Advice = m, l.adviseByLink(m, l.adviseParent())
			return s
		}
	}
	s.Advice = l.adviseDamaged(entry, damage, l.belongs(entry))
	return s
}

// belongs returns the snapshot in a damaged entry that has been put under a wrong name, nil where
// it is none or there is something under the right one.
func (l *Look) belongs(entry string) *format.Snapshot {
	m := vouched(l.snapshots, entry)
	if m == nil {
		return nil
	}
	if there, _, err := l.tree.Exists(m.Name); there || err != nil {
		return nil
	}
	return m
}

// sight says of a snapshot which of the two decides, and whether the tree has the same. A tree that is
// ahead of the line is so because of a later one.
func (l *Look) sight(m *format.Snapshot) Sight {
	s := Sight{Name: m.Name, Path: l.tree.Path(m.Name), Snapshot: m}
	if _, s.Journal = l.lines[m.Name]; !s.Journal {
		return s
	}
	is, err := l.tree.Read(m.Name)
	switch {
	case err != nil:
		s.Lags = err.Error()
	case is == nil:
		s.Lags = "the tree does not have it"
	case is.Txn < m.Txn:
		s.Lags = fmt.Sprintf("the tree has it as transaction %d left it", is.Txn)
	}
	if s.Lags != "" {
		l.explain(&s)
	}
	return s
}

// explain adds to a sight that lags why, where that can be told, and what to do.
func (l *Look) explain(s *Sight) {
	cause, remedy := l.cause(format.EncodeName(s.Name))
	if s.Advice = adviseLagging(cause, remedy); cause != "" {
		s.Lags += ": " + cause
	}
}

// Removed returns the names that lag because the journal says that there is no such snapshot and
// its directory is still there: in byte order. A directory that a later transaction has made, or is just
// changing, is none.
func (l *Look) Removed() []Sight {
	all := l.leftBehind()
	if len(all) == 0 {
		return nil
	}
	now, err := l.lastLines(math.MaxUint64)
	return slices.DeleteFunc(all, func(s Sight) bool { return err == nil && now[s.Name] != l.lines[s.Name] })
}

// leftBehind is Removed, but for lines that came meanwhile.
func (l *Look) leftBehind() (all []Sight) {
	for _, name := range slices.Sorted(maps.Keys(l.lines)) {
		line := l.lines[name]
		if !line.removed {
			continue
		}
		there, _, err := l.tree.Exists(name)
		if err == nil && !there {
			continue
		}
		if is, err := l.tree.Read(name); err == nil && (is == nil || is.Txn > line.txn) {
			continue
		}
		s := Sight{Name: name, Path: l.tree.Path(name), Journal: true, Lags: "it is removed, and its directory is still there"}
		l.explain(&s)
		all = append(all, s)
	}
	return all
}

// Line is a line of the journal, or what stands where one should.
type Line struct {
	Txn  *format.Txn
	Lost error // a *fault.Damaged: lines that can't be read; Txn is nil then
}

// Log calls fn for each committed line of the journal that is in place, in order.
func (l *Look) Log(fn func(Line) error) error {
	if l.view != nil && l.view.Damage() == nil {
		return l.follow(fn)
	}
	h, txns, err := readable(l.root)
	if damage := l.unreadable(err); damage != nil {
		return fn(Line{Lost: damage})
	}
	if err != nil {
		return err
	}
	read := h.Txn
	for _, t := range txns {
		if lost := lostBetween(read, t.Number); lost != "" {
			if err := fn(l.lost(lost)); err != nil {
				return err
			}
		}
		read = t.Number
		if err := fn(Line{Txn: t}); err != nil {
			return err
		}
	}
	return fn(l.lost(fmt.Sprintf("any after %d", read)))
}

func (l *Look) lost(which string) Line {
	return Line{Lost: &fault.Damaged{Path: l.path(format.JournalFile), Err: fmt.Errorf("it has no readable line of these transactions: %s", which)}}
}

// follow is Log where the journal is sound. A checkpoint that comes in between makes it begin behind
// that: nothing was passed on before.
func (l *Look) follow(fn func(Line) error) error {
	for {
		if err := l.view.Look(); err != nil {
			return err
		}
		j, last := l.view.Journal(), l.view.Tip()
		f, err := journal.Follow(j.Path(), j.Header().Txn)
		if errors.Is(err, fault.ErrOutdated) {
			continue
		}
		if err != nil {
			return err
		}
		return errors.Join(followTo(f, last, fn), f.Close())
	}
}

// followTo passes the committed lines on, those up to last at least.
func followTo(f *journal.Follower, last uint64, fn func(Line) error) error {
	for done := false; !done; {
		lines, err := f.Next()
		if err != nil || len(lines) == 0 {
			return err
		}
		for i := range lines {
			t, err := lines[i].Decode()
			if err == nil {
				err = fn(Line{Txn: t})
			}
			if err != nil {
				return err
			}
			done = t.Number >= last
		}
	}
	return nil
}

// Summary is what a look says of the store as a whole. Package fsmeta converts it to its own type of
// that name.
type Summary struct {
	Format      int       // the version of the file layout
	Transaction uint64    // the last that is committed
	Counted     uint64    // the snapshots that there should be
	Known       bool      // whether the journal says how many
	NextID      uint64    // identifiers below were handed out or reserved
	Checkpoint  uint64    // the journal has the lines after this transaction
	JournalSize int64     // of its file, in bytes
	OtherBoot   bool      // the journal is of an earlier start of the machine
	SetAside    int       // snapshots that repairs have set aside
	BackupOf    time.Time // when the backup was made that the store was restored from, zero for none

	Writer []lock.Holder
	Users  []lock.Holder
	Damage []error // what is wrong with layout, journal and backup, each a *fault.Damaged
}

// Summary says what the store is like.
func (l *Look) Summary() (s Summary, err error) {
	s.Format, s.Damage = format.Version, slices.Clone(l.bad)
	if l.view != nil {
		j, names := l.view.Journal(), l.reader.Names()
		s.Counted, s.Known = names.Count, names.Known
		s.Transaction, s.Checkpoint, s.OtherBoot = l.reader.At, j.Header().Txn, j.OtherBoot()
		if l.view.Damage() == nil { // else a line that can't be read may say more
			s.NextID = j.NextID()
		}
	}
	if is, err := os.Lstat(l.path(format.JournalFile)); err == nil && is.Mode().IsRegular() {
		s.JournalSize = is.Size()
	}
	s.Writer = lock.New(l.path(format.StagingDir)).Holders()
	s.Users = slices.DeleteFunc(lock.New(l.path(format.LayoutFile)).Holders(), func(h lock.Holder) bool { return h.PID == os.Getpid() })
	copied, err := commit.ReadCopied(l.root)
	if damage := fault.DamageOf(err); damage != nil {
		s.Damage, err = append(s.Damage, damage), nil
	}
	if copied != nil {
		s.BackupOf = copied.Time
	}
	return s, errors.Join(err, eachAside(l.root, func(_ *disk.Dir, part, _ string) error {
		if part == format.SnapshotsDir {
			s.SetAside++
		}
		return nil
	}))
}
