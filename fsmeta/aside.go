package fsmeta

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// SetAside returns the identifiers of the snapshots that repairs of the store in dir have set
// aside, which it does not know any more: a driver keeps their content for as long as they
// are there. Some may be known all the same, of what was mended.
//
// Where the identifier of one can't be told for sure, the error is [ErrDamaged] and names
// the path; it may be any that no snapshot has, so nothing should be deleted until a person
// has looked at it. Other errors are what the filesystem says. It reads each of them, and may
// be called while the store is in use, but not during a repair.
func SetAside(dir string) ([]string, error) {
	a := &aside{tree: newTree(dir)}
	if err := a.read(); err != nil {
		return nil, fmt.Errorf("fsmeta: look at what repairs have set aside in %s: %w", dir, err)
	}
	return a.identifiers()
}

// aside is what is in damaged/.
type aside struct {
	tree  *tree
	paths []string // of what can be snapshots' metadata.json
	files [][]byte // their content
}

// read reads every part that can be a snapshot: of snapshots/, and those of staging/ that
// have a metadata.json.
func (a *aside) read() error {
	damaged := filepath.Join(a.tree.dir, damagedDir)
	times, err := namesIn(damaged)
	if err != nil {
		return err
	}
	for _, time := range times {
		for _, part := range []string{snapshotsDir, stagingDir} {
			entries, err := namesIn(filepath.Join(damaged, time, part))
			if err != nil {
				return err
			}
			for _, entry := range entries {
				if err := a.readEntry(filepath.Join(damaged, time, part, entry), part); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (a *aside) readEntry(path, part string) error {
	file := filepath.Join(path, metadataFile)
	data, err := readFile(file)
	switch _, _, named := decodeName(filepath.Base(path)); {
	case err == nil:
		a.paths, a.files = append(a.paths, file), append(a.files, data)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrNotExist) && (part == stagingDir || !named): // it is no snapshot
	case errors.Is(err, fs.ErrNotExist):
		return &DamagedError{Path: path, Err: errors.New("nothing tells its identifier")}
	default:
		return err
	}
	return nil
}

// namesIn is readNames, and none where there is no such directory.
func namesIn(path string) ([]string, error) {
	names, err := readNames(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		err = nil
	}
	return names, err
}

// identifiers returns those that the checksums vouch for, with whatever parent: the links
// may be wrong. A file without one was edited by a person, who is believed.
func (a *aside) identifiers() ([]string, error) {
	parents, err := a.names()
	if err != nil {
		return nil, err
	}
	var ids []string
	for i, data := range a.files {
		m := vouchedFor(data, parents)
		if m == nil {
			if m, err = decodeFile(data, ""); err != nil {
				return nil, &DamagedError{Path: a.paths[i], Err: fmt.Errorf("its identifier can't be told for sure: %w", err)}
			}
		}
		ids = append(ids, m.id)
	}
	return ids, nil
}

// names returns all names that something can stand on, "" for nothing.
func (a *aside) names() ([]string, error) {
	names := []string{""}
	entries, err := a.tree.list()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		if name, ok := a.tree.nameOf(entry); ok { // else nothing stands on it that can be vouched for
			names = append(names, name)
		}
	}
	for i, data := range a.files {
		var w struct {
			Name string `json:"name"`
		}
		if json.Unmarshal(data, &w) == nil && w.Name != "" {
			names = append(names, w.Name)
		}
		// What the link says, too: its parent may be gone.
		if target, err := os.Readlink(filepath.Join(filepath.Dir(a.paths[i]), parentLink)); err == nil {
			if name, hashed, ok := decodeName(filepath.Base(target)); ok && !hashed {
				names = append(names, name)
			}
		}
	}
	return names, nil
}
