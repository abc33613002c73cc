package fsmeta

import (
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/fsmeta/fsmeta/atomic"
	"golang.org/x/sys/unix"
)

// What makes a snapshot slow to create is its inodes: some filesystems take ten times
// as long for one, for minutes, after many were freed. So directories that leave the
// tree are kept in staging/ and filled again, and parent links are hard links of one
// symlink for each parent.
//
// A directory that is filled again may, after a power cut, be found under a name it
// had before, with what is new in it. The journal knows better: the line by which it
// left the tree was durable before it was filled, and stays until a checkpoint has made
// the names in snapshots/ durable. Readers that had opened its file find another
// snapshot's name or a wrong checksum there, and ask the journal. So that it is always
// another's, a directory is never filled for a name under which it may be found: a whole
// version of a snapshot in the tree is proof that its line was durable.
const (
	maxSpares  = 64
	maxSources = 64
	maxNames   = 8 // of one directory
)

// spares is what a tree keeps in staging/ for later. Another process may have deleted
// it, with everything there, since we had the lock.
type spares struct {
	dirs    []spareDir
	sources map[string]string   // paths of symlinks, by what they say; "" where such a link was made once
	was     map[string]*history // of directories that have been in the tree, by where they are
}

// spareDir is a snapshot's directory that is not used.
type spareDir struct {
	path   string
	target string // what its parent link should say, "" for none
}

// history is the names under which a power cut may leave a directory, besides that which
// it has: those that it had since the tree was last synced.
type history struct{ names []string }

// moved notes that a directory was renamed. If it has left the tree, name is what it was
// there.
func (t *tree) moved(from, to, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.spares.was[from]
	delete(t.spares.was, from)
	t.moveLocked(h, to, name)
}

// exchanged notes that a staged directory has changed places with that of the snapshot
// name.
func (t *tree) exchanged(staged, path, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	in, out := t.spares.was[staged], t.spares.was[path]
	t.moveLocked(in, path, "")
	t.moveLocked(out, staged, name)
}

func (t *tree) moveLocked(h *history, to, name string) {
	if name != "" {
		if h == nil {
			h = &history{}
		}
		h.names = append(h.names, name)
	}
	if h == nil {
		delete(t.spares.was, to)
		return
	}
	if t.spares.was == nil {
		t.spares.was = map[string]*history{}
	}
	t.spares.was[to] = h
}

// whereabouts returns how many names each directory had until now. When the tree is
// synced, they are settled.
func (t *tree) whereabouts() map[*history]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := make(map[*history]int, len(t.spares.was))
	for _, h := range t.spares.was {
		n[h] = len(h.names)
	}
	return n
}

// settled forgets names that a power cut can't bring back any more.
func (t *tree) settled(gone map[*history]int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for path, h := range t.spares.was {
		h.names = h.names[gone[h]:]
		if len(h.names) == 0 {
			delete(t.spares.was, path)
		}
	}
}

// recycle keeps a directory that place or displace has left in staging/, if it is one
// that stage could have made, or deletes it. Every name it may be found under must be
// known: what other processes may have filled again is not to be recycled. A crash
// leaves it, or a part, for cleanStaging; so may an error.
func (t *tree) recycle(d spareDir) error {
	kept := false
	if plainSnapshot(d.path) {
		t.mu.Lock()
		h := t.spares.was[d.path]
		if kept = len(t.spares.dirs) < maxSpares && (h == nil || len(h.names) <= maxNames); kept {
			t.spares.dirs = append(t.spares.dirs, d)
		}
		t.mu.Unlock()
	}
	if kept {
		return nil
	}
	return t.discard(d.path)
}

// plainSnapshot reports whether a directory holds the files of a snapshot and nothing
// else. It is called for each change, so it does without the standard library's
// preparations.
func plainSnapshot(path string) bool {
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	})
	if err != nil {
		return false
	}
	var names []string
	for n := 1; n > 0 && err == nil && len(names) <= 2; {
		var buf [1024]byte
		n, err = retry(func() (int, error) { return unix.ReadDirent(fd, buf[:]) })
		_, _, names = unix.ParseDirent(buf[:max(n, 0)], -1, names)
	}
	ours := func(name string) bool { return name == metadataFile || name == parentLink }
	return errors.Join(err, unix.Close(fd)) == nil && len(names) <= 2 &&
		slices.Contains(names, metadataFile) && !slices.ContainsFunc(names, func(name string) bool { return !ours(name) })
}

// takeSpare takes a directory out of the spare ones that can become that of the snapshot
// name, if there is one: one with the same parent link rather than another.
func (t *tree) takeSpare(name, target string) (spareDir, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := -1
	for i, d := range t.spares.dirs {
		if h := t.spares.was[d.path]; h != nil && slices.Contains(h.names, name) {
			continue
		}
		found = i
		if d.target == target {
			break
		}
	}
	if found < 0 {
		return spareDir{}, false
	}
	d := t.spares.dirs[found]
	t.spares.dirs = slices.Delete(t.spares.dirs, found, found+1)
	return d, true
}

// refill makes a spare directory that of another snapshot. A crash or an error leaves
// garbage, which the caller discards.
func (t *tree) refill(d spareDir, data []byte, target string) error {
	if err := overwriteFile(d.path+"/"+metadataFile, data); err != nil {
		return err
	}
	link := d.path + "/" + parentLink
	has, err := os.Readlink(link) // it should be d.target, but others may have begun to delete
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if has == target {
		return nil
	}
	if has != "" {
		if err := os.Remove(link); err != nil {
			return err
		}
	}
	return t.link(target, link)
}

// link makes a parent link, where target is not "". It is a hard link where one that
// says the same was made before, and the filesystem can do that. A crash leaves it or
// not; an error leaves nothing.
func (t *tree) link(target, path string) error {
	if target == "" {
		return nil
	}
	t.mu.Lock()
	source, again := t.spares.sources[target]
	t.mu.Unlock()
	if source != "" && hardLink(source, path) == nil {
		return nil
	}
	// There is none, or it is gone, or has as many links as it can have.
	if err := atomic.Symlink(target, path); err != nil {
		return err
	}
	source = ""
	if again { // so there may be more
		if source = t.spare(); hardLink(path, source) != nil {
			source = "" // it is for speed alone
		}
	}
	t.keepSource(target, source)
	return nil
}

// keepSource keeps a symlink that says target, to make others of, or, where it is "",
// that there was one such link.
func (t *tree) keepSource(target, source string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spares.sources == nil {
		t.spares.sources = map[string]string{}
	}
	if old := t.spares.sources[target]; old != "" {
		_ = os.Remove(old) // else cleanStaging does
	}
	t.spares.sources[target] = source
	for target, source := range t.spares.sources { // any of them
		if len(t.spares.sources) <= maxSources {
			break
		}
		if source != "" {
			_ = os.Remove(source) // else cleanStaging does
		}
		delete(t.spares.sources, target)
	}
}

// hardLink makes to another name of the symlink from.
func hardLink(from, to string) error {
	_, err := retry(func() (int, error) { return 0, unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, to, 0) })
	return err
}

// dropSpares deletes what is kept. A crash or an error leaves it for cleanStaging.
func (t *tree) dropSpares() error {
	t.mu.Lock()
	s := t.spares
	t.spares = spares{}
	t.mu.Unlock()
	var err error
	for _, d := range s.dirs {
		err = errors.Join(err, t.discard(d.path))
	}
	for _, path := range s.sources {
		if path == "" {
			continue
		}
		if rerr := os.Remove(path); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// overwriteFile replaces the content of a file that is there, in place and without
// syncing it. It refuses one with other names, whose content is somebody else's too.
// A crash or an error leaves any mixture.
func overwriteFile(path string, data []byte) error {
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	})
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var stat unix.Stat_t
	_, err = retry(func() (int, error) { return 0, unix.Fstat(fd, &stat) })
	if err == nil && (stat.Mode&unix.S_IFMT != unix.S_IFREG || stat.Mode&0o777 != fileMode || stat.Nlink != 1) {
		err = unix.EMLINK
	}
	if err == nil && stat.Size > int64(len(data)) {
		_, err = retry(func() (int, error) { return 0, unix.Ftruncate(fd, int64(len(data))) })
	}
	if err != nil {
		return errors.Join(&fs.PathError{Op: "overwrite", Path: path, Err: err}, unix.Close(fd))
	}
	return writeAndClose(fd, path, data)
}
