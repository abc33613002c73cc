// Package tree is the directories of a store: snapshots/ and staging/. It reads snapshots,
// builds changes under staging/, and brings names up to the journal. It
// knows nothing of transactions.
//
// Which method writes where:
//
//   - Stage builds directories and files under staging/, under names that no other holder
//     of the lock uses.
//   - BringUp renames them into snapshots/, and the entries they replace out to staging/, never
//     before the line that says so is durable. It deletes in snapshots/ only where a removed
//     snapshot can't be renamed.
//   - Recycle keeps leftovers in staging/ to be used again, or deletes them.
//   - A crash leaves garbage in staging/; Clean deletes it.
//
// Entries are reached by descriptor and never through a symlink. A snapshot's directory, or
// its metadata.json, that is a symlink, a device or a pipe is damage of that snapshot.
package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// Tree is snapshots/ and staging/ of one store, reached through descriptors. Reading methods may be
// called concurrently, and while another process changes the tree. Only the holder of the lock
// on staging/ calls the others; Stage may run beside BringUp, Recycle and Sync.
type Tree struct {
	root      *disk.Dir // the store, which the caller closes; open since before the first write
	snapshots *disk.Dir
	staging   *disk.Dir // nil until Prepare
	stagingIs fs.FileInfo
	owner     disk.Owner

	syncing  sync.Mutex // held while the tree is synced
	unsynced error      // guarded by syncing: a sync has failed

	mu     sync.Mutex          // guards the fields below
	prefix string              // of the names in staging/ that this Tree gives
	given  uint64              // how many it gave
	spares map[bool][]leftover // entries of staging/ that are kept: files (true) and directories
	links  map[string]string   // others: a link to each of these parents, "" after the first use of one
}

// Open opens snapshots/ in dir. staging/ is opened by Prepare. A snapshots/ that is missing, no
// directory, a mount or on another filesystem is a *fault.Damaged. The caller closes dir, after the Tree.
func Open(dir *disk.Dir) (*Tree, error) {
	owner, err := disk.OwnerOf(dir.File)
	if err != nil {
		return nil, err
	}
	snapshots, err := dir.OpenDirAt(format.SnapshotsDir)
	if err != nil {
		path := dir.Path + "/" + format.SnapshotsDir
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = &fault.Damaged{Path: path, Err: errors.New("the directory is missing")}
		case noDirectory(err):
			err = &fault.Damaged{Path: path, Err: errors.New("it is not a directory")}
		}
		return nil, err
	}
	if err := notMounted(dir, snapshots, format.SnapshotsDir); err != nil {
		return nil, errors.Join(err, snapshots.Close())
	}
	return &Tree{root: dir, snapshots: snapshots, owner: owner, prefix: fmt.Sprintf("%08x-", rand.Uint32()), spares: map[bool][]leftover{}, links: map[string]string{}}, nil
}

// Owner is the owner of the store.
func (t *Tree) Owner() disk.Owner { return t.owner }

func mounted(path string) error { return &fault.Damaged{Path: path, Err: disk.ErrMounted} }

// notMounted refuses an entry of dir, open as is, that is a mount or on another filesystem.
func notMounted(dir, is *disk.Dir, entry string) error {
	of, err := dir.At().Stat()
	stat, serr := is.At().Stat()
	if err = errors.Join(err, serr); err == nil && (of.Dev != stat.Dev || dir.IsMount(entry)) {
		err = mounted(is.Path)
	}
	return err
}

// Close closes the directories that Open and Prepare opened. It waits for reading methods; later ones return
// fs.ErrClosed.
func (t *Tree) Close() error {
	err := t.snapshots.Close()
	if t.staging != nil {
		err = errors.Join(err, t.staging.Close())
	}
	return err
}

// Path returns where the snapshot's directory is; EntryPath the same by entry. For errors and findings.
func (t *Tree) Path(name string) string       { return t.EntryPath(format.EncodeName(name)) }
func (t *Tree) EntryPath(entry string) string { return t.snapshots.Path + "/" + entry }

// Same reports whether two Trees are of one directory.
func (t *Tree) Same(o *Tree) bool {
	same, err := sameDir(t.snapshots, o.snapshots)
	return same && err == nil
}

// Read returns the snapshot name as its directory has it, nil where there is none. Content that
// can't be right is a *fault.Damaged with name and path. Without the lock the directory may be replaced, and
// its file overwritten, meanwhile: the caller asks the journal afterwards. One open, one read, one close
// of metadata.json in the usual case (openat2 with RESOLVE_NO_SYMLINKS below snapshots/ if the kernel has it).
func (t *Tree) Read(name string) (*format.Snapshot, error) {
	entry := format.EncodeName(name)
	data, err := t.readFile(entry)
	if errors.Is(err, fs.ErrNotExist) {
		if there, _, lerr := t.snapshots.Exists(entry); lerr != nil || !there {
			return nil, lerr
		}
	}
	if err != nil {
		return nil, t.unreadable(name, entry, format.MetadataFile, err)
	}
	s, err := format.DecodeFile(data)
	if err == nil && s.Name != name {
		err = fmt.Errorf("its name is %.256q", s.Name)
	}
	if err != nil {
		return nil, &fault.Damaged{Name: name, Path: t.filePath(entry), Err: err}
	}
	return s, nil
}

func (t *Tree) readFile(entry string) ([]byte, error) {
	return t.snapshots.ReadFile(entry+"/"+format.MetadataFile, format.MaxFile)
}

func (t *Tree) filePath(entry string) string { return t.EntryPath(entry) + "/" + format.MetadataFile }

// unreadable turns an error of reading a file of an entry into damage of the snapshot, unless
// it is about this process.
func (t *Tree) unreadable(name, entry, file string, err error) error {
	if errors.Is(err, fs.ErrClosed) {
		return err
	}
	if noDirectory(err) {
		err = t.obstacle(entry, file, err)
	}
	return fault.Unreadable(name, t.EntryPath(entry)+"/"+file, err)
}

// obstacle says which part of the path of an entry's file is a symlink or no directory: err, of opening it,
// does not.
func (t *Tree) obstacle(entry, file string, err error) error {
	is, lerr := t.snapshots.Lstat(entry)
	switch {
	case lerr != nil:
	case is.Type == fs.ModeSymlink:
		return errors.New("the snapshot's directory is a symlink")
	case !is.Type.IsDir():
		return errors.New("something else is in place of the snapshot's directory")
	case t.isSymlink(entry, file):
		return errors.New("the file is a symlink")
	}
	return fmt.Errorf("a symlink, or not a directory where one should be: %w", err) // it has changed since
}

func (t *Tree) isSymlink(entry, file string) bool {
	dir, err := t.snapshots.Enter(entry)
	if err != nil {
		return false
	}
	is, err := dir.Lstat(file)
	return errors.Join(err, dir.Close()) == nil && is.Type == fs.ModeSymlink
}

// noDirectory reports whether an open failed for a symlink, or for something else in place of
// a directory.
func noDirectory(err error) bool {
	return errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// Exists reports whether anything is there where the snapshot's directory belongs, and whether it
// is a directory; ExistsEntry the same by entry.
func (t *Tree) Exists(name string) (there, isDir bool, err error) {
	return t.ExistsEntry(format.EncodeName(name))
}
func (t *Tree) ExistsEntry(entry string) (there, isDir bool, err error) {
	return t.snapshots.Exists(entry)
}

// List returns the entries of snapshots/, in no order.
func (t *Tree) List() ([]string, error) { return t.snapshots.Names() }

// NameIn returns the name of the snapshot in an entry of the hashed form, from its metadata.json;
// a *fault.Damaged where that can't be told. The hash in the entry vouches for the name, whatever
// else is wrong with the file.
func (t *Tree) NameIn(entry string) (string, error) {
	data, err := t.readFile(entry)
	if err != nil {
		return "", t.unreadable("", entry, format.MetadataFile, err)
	}
	name := format.NameIn(data)
	if name == "" {
		return "", &fault.Damaged{Path: t.filePath(entry), Err: errors.New("its name can't be read")}
	}
	if format.EncodeName(name) != entry {
		err := fmt.Errorf("its name is %.256q, which does not belong in this directory", name)
		return "", &fault.Damaged{Path: t.filePath(entry), Err: err}
	}
	return name, nil
}

// LinkedParent returns the entry that the parent link of an entry of snapshots/ says, "" where there
// is no link. A link that says anything else is a *fault.Damaged.
func (t *Tree) LinkedParent(entry string) (parent string, err error) {
	dir, err := t.snapshots.Enter(entry)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", t.unreadable("", entry, format.ParentLink, err)
	}
	target, err := dir.Readlink(format.ParentLink)
	if cerr := dir.Close(); cerr != nil {
		return "", cerr
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", t.unreadable("", entry, format.ParentLink, err)
	}
	parent, ok := format.ParseLinkTarget(target)
	if !ok {
		err := fmt.Errorf("it points at %.256q, which is no snapshot's directory", target)
		return "", &fault.Damaged{Path: t.EntryPath(entry) + "/" + format.ParentLink, Err: err}
	}
	return parent, nil
}

// Prepare makes staging/ if it is missing, so that it can be locked. The first call opens it, as Confirm
// does. A crash leaves the directory or not; so may an error.
func (t *Tree) Prepare() error {
	is, err := t.root.Lstat(format.StagingDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = t.root.At().Mkdir(format.StagingDir, format.DirMode, t.owner)
	case err == nil && !is.Type.IsDir():
		err = t.noStaging()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if t.staging != nil {
		return nil
	}
	return t.Confirm()
}

// Confirm opens staging/, if it is another directory than before, and makes sure that its path leads to
// it. It is called each time that this process has got the lock: that is taken by the path, and a lock on
// another directory keeps no writer away. A staging/ that is no directory, a mount or on another filesystem
// is a *fault.Damaged, and so is a journal that is a mount: what is written there is gone when it is
// unmounted. Nothing is written. (Measured: with Prepare 7 µs where all is as it was.)
func (t *Tree) Confirm() error {
	for _, entry := range []string{format.StagingDir, format.JournalFile} {
		if t.root.IsMount(entry) {
			return mounted(t.root.Path + "/" + entry)
		}
	}
	if t.staging != nil && t.named(t.stagingIs) {
		return nil
	}
	staging, err := t.openStaging()
	if err != nil {
		return err
	}
	is, err := staging.File.Stat()
	if err == nil && !t.named(is) {
		err = fmt.Errorf("%s is not in the directory that was opened as %s: that was moved, replaced, or something is mounted on it: undo that, or close the store and open it anew", staging.Path, t.root.Path)
	}
	if err != nil {
		return errors.Join(err, staging.Close())
	}
	old, was := t.staging, t.stagingIs
	t.staging, t.stagingIs = staging, is
	if old == nil {
		return nil
	}
	if !os.SameFile(was, is) {
		t.forget()
	}
	return old.Close()
}

// named reports whether the path of staging/ leads to this directory.
func (t *Tree) named(is fs.FileInfo) bool {
	at, err := os.Lstat(t.root.Path + "/" + format.StagingDir)
	return err == nil && os.SameFile(at, is)
}

func (t *Tree) noStaging() error {
	err := errors.New("it is not a directory: move it away, and the next writer makes the directory anew")
	return &fault.Damaged{Path: t.root.Path + "/" + format.StagingDir, Err: err}
}

func (t *Tree) openStaging() (*disk.Dir, error) {
	staging, err := t.root.OpenDirAt(format.StagingDir)
	if noDirectory(err) {
		err = t.noStaging()
	}
	if err != nil {
		return nil, err
	}
	if err := notMounted(t.root, staging, format.StagingDir); err != nil {
		return nil, errors.Join(err, staging.Close())
	}
	return staging, nil
}

func sameDir(a, b *disk.Dir) (bool, error) {
	isA, err := a.File.Stat()
	if err != nil {
		return false, err
	}
	isB, err := b.File.Stat()
	return err == nil && os.SameFile(isA, isB), err
}

// Clean deletes everything in staging/ but the ballast, and forgets the spares. An error or a crash leaves a
// part. An entry that can't be deleted, such as a mount point, hinders nothing: the caller can go on.
func (t *Tree) Clean() error {
	t.forget()
	staging := t.staging.At()
	names, err := staging.Names()
	for _, name := range names {
		if name != Ballast {
			err = errors.Join(err, staging.RemoveAll(name))
		}
	}
	return err
}

// newName returns a name for an entry of staging/ that nothing uses.
func (t *Tree) newName() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.given++
	return t.prefix + strconv.FormatUint(t.given, 10)
}

// IsStaged reports whether an entry of staging/ is of the form that a Tree or atomic.Create
// gives it.
func IsStaged(entry string) bool {
	if strings.HasPrefix(entry, ".") {
		return true
	}
	prefix, number, found := strings.Cut(entry, "-")
	return found && len(prefix) == 8 && strings.Trim(prefix, "0123456789abcdef") == "" &&
		number != "" && strings.Trim(number, "0123456789") == ""
}
