package fsmeta

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/fsmeta/fsmeta/atomic"
	"golang.org/x/sys/unix"
)

const (
	layoutFile   = "layout"
	journalFile  = "journal"
	snapshotsDir = "snapshots"
	stagingDir   = "staging"
	damagedDir   = "damaged" // what Repair has set aside
	backupFile   = "backup"  // in a copy that Backup has made
	metadataFile = "metadata.json"
	parentLink   = "parent"

	dirMode  = 0o700
	fileMode = 0o600
)

// tree is the directories of the store. It builds every path there is, and knows
// nothing of transactions. Whoever changes the tree holds the lock on staging/:
//
//   - stage builds a snapshot's directory under staging/, under a name that no
//     other holder of the lock uses;
//   - place and displace rename directories between staging/ and snapshots/, never
//     before the line that says so is durable;
//   - recycle keeps what place and displace left in staging/ to be used again, or
//     deletes it;
//   - what a crash leaves in staging/ is garbage, and cleanStaging deletes it.
type tree struct {
	dir       string // the store
	snapshots string
	staging   string
	root      *os.File // dir, open since before the first write; nil where nothing is written

	syncing sync.Mutex // held while the tree is synced

	long sync.Map // names by their entries, of those that entries don't spell out

	mu     sync.Mutex
	prefix string // of paths in staging/ that are given away
	staged uint64 // how many were
	spares spares
}

// remember keeps a name that its entry does not spell out, so that the entry is
// known by it even if what is in there can't be read.
func (t *tree) remember(name string) {
	if len(name) <= maxEntry/3 {
		return // every byte escaped, it still fits
	}
	if entry := encodeName(name); isHashed(entry) {
		t.long.Store(entry, name)
	}
}

func newTree(dir string) *tree {
	return &tree{
		dir:       dir,
		snapshots: filepath.Join(dir, snapshotsDir),
		staging:   filepath.Join(dir, stagingDir),
	}
}

func (t *tree) path(name string) string { return t.snapshots + "/" + encodeName(name) }

// linkTarget is what the parent symlink of a snapshot on parent says.
func linkTarget(parent string) string { return "../" + encodeName(parent) }

// targetOf returns what the parent symlink of m says, "" where it has none.
func targetOf(m *metadata) string {
	if m == nil || m.parent == "" {
		return ""
	}
	return linkTarget(m.parent)
}

// read returns the snapshot name as its directory has it, or nil where there is
// none. What can't be right is a *DamagedError. Without the lock the directory may
// be replaced meanwhile: the caller asks the journal afterwards.
func (t *tree) read(name string) (*metadata, error) {
	dir := t.path(name)
	data, err := readFile(dir + "/" + metadataFile)
	if errors.Is(err, fs.ErrNotExist) {
		info, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err == nil && info.IsDir() {
			err = errors.New("the file is missing")
		} else if err == nil {
			err = errors.New("its directory is not a directory")
		}
		return nil, &DamagedError{Name: name, Path: dir + "/" + metadataFile, Err: err}
	}
	if err != nil {
		return nil, unreadable(name, dir+"/"+metadataFile, err)
	}
	parent, err := t.readParent(encodeName(name), name)
	if err != nil {
		return nil, err
	}
	m, err := decodeFile(data, parent)
	if err == nil && m.name != name {
		err = fmt.Errorf("its name is %q", m.name)
	}
	if err != nil {
		return nil, &DamagedError{Name: name, Path: dir + "/" + metadataFile, Err: err}
	}
	return m, nil
}

// unreadable makes an error of reading one snapshot's files: the snapshot's damage,
// unless it says more of this process than of the disk.
func unreadable(name, path string, err error) error {
	for _, ours := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if errors.Is(err, ours) {
			return err
		}
	}
	return &DamagedError{Name: name, Path: path, Err: err}
}

// readParent returns the name of the parent that the symlink in an entry points
// at, "" where there is none, without looking whether the parent is there. Errors name
// the snapshot name, which may be "".
func (t *tree) readParent(at, name string) (string, error) {
	path := t.snapshots + "/" + at + "/" + parentLink
	target, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", unreadable(name, path, err)
	}
	entry, inside := strings.CutPrefix(target, "../")
	parent, hashed, ok := decodeName(entry)
	if !inside || !ok {
		return "", &DamagedError{Name: name, Path: path, Err: fmt.Errorf("it points at %q, which is no snapshot's directory", target)}
	}
	if hashed {
		if parent, err = t.readName(entry); err != nil {
			return "", &DamagedError{Name: name, Path: path, Err: fmt.Errorf("its parent's name can't be known: %w", err)}
		}
	}
	return parent, nil
}

// guess is what can be known of the parent of a damaged snapshot.
type guess struct {
	known  bool
	parent string // "" if it has none
	stray  bool   // not a directory: no snapshot, unless others stand on it
}

// guessParent tells the parent of the damaged snapshot in an entry. Its symlink is
// believed if it points at something and metadata.json does not contradict it: a
// checksum that is right for another of the names says that the link has changed.
func (t *tree) guessParent(entry string, names iter.Seq[string]) guess {
	path := t.snapshots + "/" + entry
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return guess{known: true}
	}
	if err == nil && !info.IsDir() {
		return guess{known: true, stray: true}
	}
	parent, err := t.readParent(entry, "")
	if err != nil || parent == "" {
		return guess{}
	}
	there, err := t.exists(parent)
	data, readErr := readFile(path + "/" + metadataFile)
	if readErr == nil && fileVouches(data, parent) {
		return guess{known: true, parent: parent}
	}
	for name := range names {
		if readErr == nil && name != parent && fileVouches(data, name) {
			return guess{}
		}
	}
	return guess{known: err == nil && there, parent: parent}
}

// readName returns the name of the snapshot in an entry that does not spell it
// out, if it was not seen before. The hash in the entry vouches for it, whatever else is
// wrong there.
func (t *tree) readName(entry string) (string, error) {
	if name, ok := t.long.Load(entry); ok {
		return name.(string), nil
	}
	path := t.snapshots + "/" + entry + "/" + metadataFile
	data, err := readFile(path)
	if err != nil {
		return "", unreadable("", path, err)
	}
	var w struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return "", &DamagedError{Path: path, Err: err}
	}
	if encodeName(w.Name) != entry {
		return "", &DamagedError{Path: path, Err: fmt.Errorf("its name is %.64q, which does not belong in this directory", w.Name)}
	}
	return w.Name, nil
}

// nameOf returns the name of the snapshot in an entry, if that can be told.
func (t *tree) nameOf(entry string) (name string, ok bool) {
	name, hashed, ok := decodeName(entry)
	if ok && hashed {
		var err error
		name, err = t.readName(entry)
		ok = err == nil
	}
	return name, ok
}

// vouchedFor returns the snapshot in an entry if the checksum of its metadata.json is right
// for one of the parents.
func (t *tree) vouchedFor(entry string, parents []string) *metadata {
	data, err := readFile(t.snapshots + "/" + entry + "/" + metadataFile)
	if err != nil {
		return nil // which is what is wrong with it, or it can't be read again either
	}
	return vouchedFor(data, parents)
}

// exists reports whether anything is there where the snapshot's directory belongs.
func (t *tree) exists(name string) (bool, error) {
	_, err := os.Lstat(t.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// list returns the entries of snapshots/, in no order.
func (t *tree) list() ([]string, error) { return readNames(t.snapshots) }

// readNames returns the names in a directory, in no order.
func readNames(path string) ([]string, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	return names, errors.Join(err, d.Close())
}

// holds reports whether the tree has exactly this version of the snapshot, or,
// where m is nil, none.
func (t *tree) holds(name string, m *metadata) (bool, error) {
	dir := t.path(name)
	if m == nil {
		_, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil
		}
		return false, err
	}
	data, err := readFile(dir + "/" + metadataFile)
	if err != nil || !bytes.Equal(data, m.encodeFile()) {
		return false, nil // it will be built anew, which says what is wrong if something is
	}
	target, err := os.Readlink(dir + "/" + parentLink)
	if m.parent == "" {
		return errors.Is(err, fs.ErrNotExist), nil
	}
	return err == nil && target == linkTarget(m.parent), nil
}

// spare returns a path in staging/ that nothing uses.
func (t *tree) spare() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.prefix == "" {
		t.prefix = fmt.Sprintf("%08x-", rand.Uint32())
	}
	t.staged++
	return fmt.Sprintf("%s/%s%d", t.staging, t.prefix, t.staged)
}

// stage builds the directory of a snapshot under staging/, of a spare one where there
// is one, and returns its path. Nothing of it is synced. A crash leaves garbage in
// staging/; an error leaves nothing, unless it can't be deleted.
func (t *tree) stage(m *metadata) (string, error) {
	data, target := m.encodeFile(), targetOf(m)
	if d, ok := t.takeSpare(m.name, target); ok {
		if t.refill(d, data, target) == nil {
			return d.path, nil
		}
		_ = t.discard(d.path) // it is gone, or not as it was; a new one will do, or say what is wrong
	}
	dir := t.spare()
	if err := os.Mkdir(dir, dirMode); err != nil {
		return "", err
	}
	err := writeFile(dir+"/"+metadataFile, data)
	if err == nil {
		err = t.link(target, dir+"/"+parentLink)
	}
	if err != nil {
		return "", errors.Join(err, t.discard(dir))
	}
	return dir, nil
}

// place renames a staged directory to where the snapshot belongs. What was there, if
// anything, goes to where the directory was staged; that is what place returns, ""
// for nothing. With over something is likely to be there. A crash leaves either the one
// or the other in place; which it should be, the journal knows.
func (t *tree) place(staged, name string, over bool) (old string, err error) {
	path := t.path(name)
	err = fs.ErrExist
	if !over {
		err = atomic.RenameNew(staged, path)
	}
	if errors.Is(err, fs.ErrExist) {
		if err = atomic.Exchange(staged, path); err == nil {
			t.exchanged(staged, path, name)
			return staged, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) { // it was likely, but is not
		err = atomic.RenameNew(staged, path)
	}
	if err != nil {
		return staged, err
	}
	t.moved(staged, path, "")
	return "", nil
}

// displace renames a snapshot's directory to staging/ and returns where it is
// now, "" if there was none. A crash leaves it here or there.
func (t *tree) displace(name string) (old string, err error) {
	path, to := t.path(name), t.spare()
	_, err = retry(func() (int, error) { return 0, unix.Rename(path, to) })
	if err == unix.ENOENT {
		return "", nil
	}
	if err != nil {
		return "", &os.LinkError{Op: "rename", Old: path, New: to, Err: err}
	}
	t.moved(path, to, name)
	return to, nil
}

// discard deletes something in staging/, which may be gone. A crash or an error
// leaves a part of it, for cleanStaging.
func (t *tree) discard(path string) error {
	t.mu.Lock()
	delete(t.spares.was, path)
	t.mu.Unlock()
	// The usual case, a snapshot's directory, without looking what is in it.
	errFile := unix.Unlink(path + "/" + metadataFile)
	errLink := unix.Unlink(path + "/" + parentLink)
	if (errFile == nil || errFile == unix.ENOENT) && (errLink == nil || errLink == unix.ENOENT) {
		if err := unix.Rmdir(path); err == nil || err == unix.ENOENT {
			return nil
		}
	}
	return os.RemoveAll(path)
}

// bringUp makes the tree hold version m of the snapshot name (none, where m is
// nil), if it does not yet; with rebuild, also if it seems to. The line that says
// so must be durable, or the caller sees to it that the tree is synced before the
// journal forgets the line. A crash leaves the old version or the new one.
func (t *tree) bringUp(name string, m *metadata, rebuild bool) error {
	if ok, err := t.holds(name, m); err != nil || ok && !(rebuild && m != nil) {
		return err
	}
	var old string
	var err error
	if m == nil {
		old, err = t.displace(name)
	} else if old, err = t.stage(m); err == nil {
		old, err = t.place(old, name, true)
	}
	if old != "" {
		err = errors.Join(err, t.discard(old))
	}
	return err
}

// cleanStaging deletes everything in staging/. A crash or an error leaves a part.
func (t *tree) cleanStaging() error {
	t.mu.Lock()
	t.spares = spares{was: t.spares.was}
	t.mu.Unlock()
	entries, err := readNames(t.staging)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(t.staging+"/"+entry))
	}
	return err
}

// isStaged reports whether an entry of staging/ is of the form that spare or
// atomic.Create gives it.
func isStaged(entry string) bool {
	if strings.HasPrefix(entry, ".") {
		return true
	}
	prefix, number, found := strings.Cut(entry, "-")
	return found && len(prefix) == 8 && strings.Trim(prefix, "0123456789abcdef") == "" && strings.Trim(number, "0123456789") == ""
}

// readFile reads a small file that nobody can have made a pipe or a link of to
// hold us up.
func readFile(path string) ([]byte, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	data := make([]byte, 0, 1024)
	for {
		n, err := retry(func() (int, error) { return unix.Read(fd, data[len(data):cap(data)]) })
		if err != nil {
			return nil, errors.Join(&fs.PathError{Op: "read", Path: path, Err: err}, unix.Close(fd))
		}
		data = data[:len(data)+n]
		if len(data) < cap(data) {
			break // a regular file gives less than was asked for at its end alone
		}
		data = append(data, 0)[:len(data)]
	}
	if err := unix.Close(fd); err != nil {
		return nil, &fs.PathError{Op: "close", Path: path, Err: err}
	}
	return data, nil
}

// writeFile makes a file that must not exist, without syncing it.
func writeFile(path string, data []byte) error {
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, fileMode)
	})
	if err != nil {
		return &fs.PathError{Op: "create", Path: path, Err: err}
	}
	return writeAndClose(fd, path, data)
}

func writeAndClose(fd int, path string, data []byte) error {
	for len(data) > 0 {
		n, err := retry(func() (int, error) { return unix.Write(fd, data) })
		if err != nil {
			return errors.Join(&fs.PathError{Op: "write", Path: path, Err: err}, unix.Close(fd))
		}
		data = data[n:]
	}
	if err := unix.Close(fd); err != nil {
		return &fs.PathError{Op: "close", Path: path, Err: err}
	}
	return nil
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
