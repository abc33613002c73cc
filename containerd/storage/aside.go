package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// unfitDir is where a store has records of snapshots that an import has left out, as if a repair
// had set them aside: layout.md says what is there. Each is in a directory that is named after
// its identifier.
const unfitDir = "damaged/import/foreign"

// unfitHigh is where the records are of those with an identifier too high for a store to read. The names of the
// directories in it are all that counts.
const unfitHigh = "damaged/import/high"

// recordDir returns where a store has the record of an identifier.
func recordDir(id string) string {
	if _, err := strconv.ParseInt(id, 10, 64); err != nil {
		return filepath.Join(unfitHigh, id)
	}
	return filepath.Join(unfitDir, id)
}

// setAside returns the identifiers of snapshots that a repair has set aside, or an import left out.
func setAside(dir string) ([]string, error) {
	ids, err := fsmeta.SetAside(dir)
	if err != nil {
		return nil, err
	}
	high, err := os.ReadDir(filepath.Join(dir, unfitHigh))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range high {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

// unfitRecord is the metadata.json of such a snapshot. Its identifier is what counts.
type unfitRecord struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"` // as Go quotes it, where it is none that a store can have
	Kind    string    `json:"kind"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

// recordUnfit records in the store in dir the snapshots that an import leaves out, durably. A
// crash or an error leaves any of the records, or a part of one. It may be called again.
func recordUnfit(dir string, unfit []Unfit) error {
	if len(unfit) == 0 {
		return nil
	}
	if _, err := setAside(dir); err != nil { // say a symlink in the way, which leads to what is not the store's
		return err
	}
	now := time.Now().UTC()
	for _, u := range unfit {
		if u.ID == "" {
			continue // there is no content of it
		}
		name := u.Name
		if checkNew(name) != nil {
			name = fmt.Sprintf("%.256q", name)
		}
		data, err := json.MarshalIndent(unfitRecord{u.ID, name, "active", now, now}, "", "  ")
		if err != nil {
			return err
		}
		at := filepath.Join(dir, recordDir(u.ID))
		if err := atomic.MkdirAll(at, 0o700); err != nil {
			return err
		}
		for file, text := range map[string]string{"reason": u.String() + "\n", "metadata.json": string(data) + "\n"} {
			if err := atomic.WriteFile(filepath.Join(at, file), at, []byte(text)); err != nil {
				return err
			}
		}
		if err := atomic.SyncDir(at); err != nil {
			return err
		}
	}
	return handOverAll(dir, filepath.Join(dir, "damaged"))
}

// handOverAll gives all that is in a directory to the owner of a store.
func handOverAll(store, dir string) error {
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return handOver(path, store)
	})
}

// handOver gives a file to the owner of another one, unless it is theirs: where root works on
// what belongs to another user. That user may have put a symlink at path, which is not followed. A crash leaves
// the one owner or the other.
func handOver(path, from string) error {
	is, err := os.Lstat(path)
	if err != nil {
		return err
	}
	want, err := os.Stat(from)
	if err != nil {
		return err
	}
	has, ok := is.Sys().(*syscall.Stat_t)
	owner, known := want.Sys().(*syscall.Stat_t)
	if !ok || !known || has.Uid == owner.Uid && has.Gid == owner.Gid {
		return nil
	}
	return os.Lchown(path, int(owner.Uid), int(owner.Gid))
}

// keepSetAside adds the identifiers of snapshots that a repair has set aside, or an import left
// out, to those of a store: a driver deletes content under identifiers that are not there.
func keepSetAside(dir string, ids map[string]string) error {
	aside, err := setAside(dir)
	if err != nil {
		return err
	}
	for _, id := range aside {
		if _, known := ids[id]; !known {
			ids[id] = ""
		}
	}
	return nil
}
