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
// directory or on another filesystem is a *fault.Damaged. The caller closes dir, after the Tree.
func Open(dir *disk.Dir) (*Tree, error) {
	owner, err := disk.OwnerOf(dir.File)
	if err != nil {
		return nil, err
	}
	snapshots, err := dir.OpenDirAt(format.SnapshotsDir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || noDirectory(err) {
			err = &fault.Damaged{Path: dir.Path + "/" + format.SnapshotsDir, Err: err}
		}
		return nil, err
	}
	if err := sameFilesystem(dir, snapshots); err != nil {
		return nil, errors.Join(err, snapshots.Close())
	}
	return &Tree{root: dir, snapshots: snapshots, owner: owner, prefix: fmt.Sprintf("%08x-", rand.Uint32()), spares: map[bool][]leftover{}, links: map[string]string{}}, nil
}

// ErrMounted is the damage of a snapshots/ that hides the store's own.
var ErrMounted = errors.New("another filesystem is mounted on it: unmount it (findmnt -R shows it); all of a store is on one filesystem")

func sameFilesystem(dir, snapshots *disk.Dir) error {
	of, err := dir.At().Stat()
	is, serr := snapshots.At().Stat()
	if err = errors.Join(err, serr); err == nil && of.Dev != is.Dev {
		err = &fault.Damaged{Path: snapshots.Path, Err: ErrMounted}
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
		err = fmt.Errorf("a symlink, or not a directory where one should be: %w", err)
	}
	return fault.Unreadable(name, t.EntryPath(entry)+"/"+file, err)
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

// Prepare makes staging/ if it is missing and opens it. A crash leaves it or not; so may an
// error. It is called after each time that this process gets the lock: staging/ may be another
// directory by then.
func (t *Tree) Prepare() error {
	err := t.root.At().Mkdir(format.StagingDir, format.DirMode, t.owner)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	staging, err := t.root.OpenDirAt(format.StagingDir)
	if err != nil {
		return err
	}
	if t.staging == nil {
		t.staging = staging
		return nil
	}
	if same, err := sameDir(t.staging, staging); err != nil || same {
		return errors.Join(err, staging.Close())
	}
	t.forget()
	err = t.staging.Close()
	t.staging = staging
	return err
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
