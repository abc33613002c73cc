//go:build linux

package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	atomicfs "github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// The names of directories that no snapshot has:
//
//	ID          its snapshot was not made, or removed by a call that did not come to its end
//	rm-ID       its snapshot was removed, and all content is there: a restored backup may bring
//	            the snapshot back
//	rm-ID-part  it is being deleted
//	new-…       one of containerd's own drivers was making it
const (
	removedPrefix = "rm-"
	newPrefix     = "new-"
	partSuffix    = "-part"
)

// Directories returns the names in snapshots/ that can be a driver's: identifiers, and
// what containerd's own drivers call theirs before they have one and after. Others are
// not ours to delete.
func Directories(root string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(root, snapshotsDir))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		if isNumber(name) || strings.HasPrefix(name, newPrefix) || strings.HasPrefix(name, removedPrefix) {
			names = append(names, name)
		}
	}
	return names, nil
}

// RemovedName returns the name of the directory with the content of an identifier after its snapshot was
// removed.
func RemovedName(id string) string { return removedPrefix + id }

func isNumber(name string) bool { return name != "" && strings.Trim(name, "0123456789") == "" }

// idOf returns the identifier for which a directory has all content, "" where it has no more
// than a part of something, and whether its snapshot was removed.
func idOf(name string) (id string, removed bool) {
	id, removed = strings.CutPrefix(name, removedPrefix)
	if !isNumber(id) {
		return "", removed
	}
	return id, removed
}

// Kept returns what says why Cleanup keeps a directory of root that no snapshot has, "" where it
// deletes it. unknown says that the identifiers of some snapshots of the store in the directory
// meta can't be told, since they are damaged or missing.
//
// A directory that was made for a snapshot, and not removed, is then kept: it may be that
// snapshot's. One of a removed snapshot is deleted all the same, unless a restored backup may
// have brought that one back.
//
// A directory with an identifier that the store has not handed out is kept: an older copy of the store was put in
// the place of the one that it belongs to. A running store reserves some hundred identifiers ahead, so that of a copy
// made meanwhile these count as handed out.
//
// Errors are those of the filesystem.
func Kept(root, meta string, unknown bool) (func(name string) (why string), error) {
	k, err := newKeeping(root, meta, unknown)
	return k.why, err
}

func newKeeping(root, meta string, unknown bool) (k keeping, err error) {
	k = keeping{meta: meta, unknown: unknown, aside: map[string]bool{}}
	aside, err := fsmeta.SetAside(meta)
	if k.unknownAside = errors.Is(err, fsmeta.ErrDamaged); err != nil && !k.unknownAside {
		return k, err
	}
	for _, id := range aside {
		k.aside[id] = true
	}
	k.below, err = restoredBelow(meta)
	if k.unknownBelow = errors.Is(err, fsmeta.ErrDamaged); err != nil && !k.unknownBelow {
		return k, err
	}
	if k.next, err = nextOf(meta); err == nil {
		k.newer, err = readNewer(root)
	}
	return k, err
}

// keeping is what is known about content that no snapshot has.
type keeping struct {
	meta         string
	unknown      bool            // some snapshot's identifier can't be told
	aside        map[string]bool // identifiers of snapshots that repairs have set aside
	unknownAside bool            // that of one of these can't be told
	below        uint64          // identifiers below may be of snapshots made after the backup that was restored
	unknownBelow bool            // which these are can't be told
	next         uint64          // identifiers from it on were not handed out, 0 where that can't be told
	newer        map[string]bool // identifiers that were not handed out when the root was opened
}

// foreign reports whether the store has not handed out an identifier for which there is content.
func (k keeping) foreign(id string) bool {
	n, err := strconv.ParseUint(id, 10, 64)
	return k.next > 0 && !k.unknownBelow && (err != nil || n >= max(k.next, k.below))
}

func (k keeping) why(name string) string {
	id, removed := idOf(name)
	if id == "" {
		return ""
	}
	n, err := strconv.ParseUint(id, 10, 64)
	restored := k.unknownBelow || err == nil && n < k.below
	damaged, backup := filepath.Join(k.meta, "damaged"), filepath.Join(k.meta, "backup")
	switch {
	case k.aside[id]:
		return "a repair has set their snapshots aside: look at them, then move " + damaged + " away"
	case removed && !restored:
		return ""
	case k.unknown:
		return "they may be of snapshots that are damaged or missing: repair the store"
	case k.unknownAside:
		return "they may be of snapshots that a repair has set aside with identifiers that can't be told: look at them, then move " + damaged + " away"
	case removed:
		return "" // all snapshots are known, and none of them has it
	case k.unknownBelow:
		return fmt.Sprintf("they may have been made after the backup that the store was restored from, and %s is damaged: repair the store", backup)
	case restored:
		return "they may have been made after the backup that the store was restored from: look at them, then delete " + backup
	case k.newer[id] || k.foreign(id):
		return "the store has never handed out their identifiers: is it older than the content? Put the newer one back, or look at them and delete them"
	}
	return ""
}

// restoredBelow returns the identifier below which content may be newer than the backup from
// which the store was restored, 0 where it was not.
func restoredBelow(meta string) (below uint64, err error) {
	store, err := fsmeta.Open(meta, fsmeta.ReadOnly())
	if err == nil {
		below, err = store.RestoredBelow()
		err = errors.Join(err, store.Close())
	}
	return below, err
}

// nextOf returns the identifier from which on a store has handed out none, 0 where its journal does not tell.
func nextOf(meta string) (uint64, error) {
	i, err := fsmeta.Inspect(meta)
	if err != nil {
		return 0, err
	}
	summary, err := i.Summary()
	return summary.NextID, errors.Join(err, i.Close())
}

// newerFile lists, one a line, the identifiers of content that is newer than the store. Once the store has
// handed out as many itself, nothing else tells it.
const newerFile = "newer"

func readNewer(root string) (map[string]bool, error) {
	data, err := os.ReadFile(filepath.Join(root, newerFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ids := map[string]bool{}
	for id := range strings.FieldsSeq(string(data)) {
		ids[id] = true
	}
	return ids, nil
}

// noteNewer lists durably which content is newer than the store, as far as it is still there. A crash leaves
// the former list or the new one, perhaps with a temporary file beside it.
func (s *Snapshotter) noteNewer() error {
	names, err := Directories(s.root)
	if err != nil {
		return err
	}
	k, err := newKeeping(s.root, s.meta.Path(), false)
	if err != nil {
		return err
	}
	var list strings.Builder
	found := map[string]bool{}
	for _, name := range names {
		if id, removed := idOf(name); id != "" && !removed && (k.newer[id] || k.foreign(id)) {
			found[id] = true
			list.WriteString(id + "\n")
		}
	}
	if maps.Equal(found, k.newer) {
		return nil
	}
	if err := atomicfs.WriteFile(filepath.Join(s.root, newerFile), s.root, []byte(list.String())); err != nil {
		return err
	}
	return atomicfs.SyncDir(s.root)
}
