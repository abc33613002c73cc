package fsck

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// SetAside returns the identifiers of the snapshots that repairs of the store in dir have set
// aside: of all of them, though the store may know some all the same. A file with a right
// checksum is believed, and so is one without a checksum, which a person has edited.
//
// Where the identifiers of some can't be told, it returns the others, and an ErrDamaged that names
// the paths. Other errors are those of the filesystem.
func SetAside(dir string) (ids []string, err error) {
	var unknown error
	root, err := disk.OpenDir(dir, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = eachAside(root, func(dir *disk.Dir, part, entry string) error {
			id, err := idIn(dir, part, entry)
			switch {
			case errors.Is(err, fault.ErrDamaged):
				unknown = errors.Join(unknown, err)
			case err != nil:
				return err
			case id != "":
				ids = append(ids, id)
			}
			return nil
		})
		err = errors.Join(err, root.Close())
	}
	if err != nil {
		ids = nil
	} else {
		err = unknown
	}
	if err != nil {
		return ids, fmt.Errorf("fsmeta: look at what repairs have set aside in %s: %w", dir, err)
	}
	return ids, nil
}

// eachAside calls visit for each entry of the parts of damaged/TIME that may hold snapshots, in order.
func eachAside(root *disk.Dir, visit func(dir *disk.Dir, part, entry string) error) error {
	return eachBelow(root, format.DamagedDir, func(damaged *disk.Dir, time string) error {
		return eachBelow(damaged, time, func(dir *disk.Dir, part string) error {
			if !slices.Contains([]string{format.SnapshotsDir, format.StagingDir, replaced, foreign}, part) {
				return nil
			}
			return eachBelow(dir, part, func(dir *disk.Dir, entry string) error { return visit(dir, part, entry) })
		})
	})
}

// eachBelow is eachIn, but that a symlink is a *fault.Damaged: what it leads to may be what was set aside.
func eachBelow(dir *disk.Dir, name string, visit func(dir *disk.Dir, entry string) error) error {
	// (A staging/ that was one is on a shelf as it was: nothing of the store is in there.)
	if is, err := dir.Lstat(name); err == nil && is.Type == fs.ModeSymlink && name != format.StagingDir {
		return &fault.Damaged{Path: dir.Path + "/" + name, Err: errors.New("it is a symlink, which is not followed; put the directory itself there, or move it away when nothing of it is needed")}
	}
	return eachIn(dir, name, visit)
}

// idIn returns the identifier of what was set aside from an entry of a part of the store, ""
// where that is no snapshot.
func idIn(dir *disk.Dir, part, entry string) (string, error) {
	_, _, named := format.DecodeName(entry)
	snapshot := (part == format.SnapshotsDir || part == replaced) && named // else it is one only if it has the file
	unknown := func(path string, err error) error {
		return &fault.Damaged{Path: dir.Path + "/" + path, Err: fmt.Errorf("its identifier can't be told: %w", err)}
	}
	is, err := dir.Lstat(entry)
	switch {
	case err != nil:
		return "", err
	case !is.Type.IsDir() && !snapshot:
		return "", nil
	case !is.Type.IsDir():
		return "", unknown(entry, errors.New("something else stood in the place of the snapshot's directory"))
	}
	file := entry + "/" + format.MetadataFile
	data, err := dir.ReadFile(file, format.MaxFile)
	if errors.Is(err, fs.ErrNotExist) && !snapshot {
		return "", nil
	}
	if err != nil {
		return "", unknown(file, err)
	}
	m, err := format.DecodeFile(data)
	if err == nil && part == format.SnapshotsDir && named && format.EncodeName(m.Name) != entry {
		err = fmt.Errorf("its file is that of %.256q", m.Name)
	}
	if err != nil {
		return "", unknown(file, err)
	}
	return m.ID, nil
}
