//go:build linux

package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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

// Kept returns what says why Cleanup keeps a directory that no snapshot has, "" where it
// deletes it. unknown says that the identifiers of some snapshots of the store in the directory
// meta can't be told, since they are damaged or missing.
//
// A directory that was made for a snapshot, and not removed, is then kept: it may be that
// snapshot's. One of a removed snapshot is deleted all the same, unless a restored backup may
// have brought that one back.
//
// Errors are those of the filesystem.
func Kept(meta string, unknown bool) (func(name string) (why string), error) {
	k := keeping{meta: meta, unknown: unknown, aside: map[string]bool{}}
	aside, err := fsmeta.SetAside(meta)
	if k.unknownAside = errors.Is(err, fsmeta.ErrDamaged); err != nil && !k.unknownAside {
		return nil, err
	}
	for _, id := range aside {
		k.aside[id] = true
	}
	k.below, err = restoredBelow(meta)
	if k.unknownBelow = errors.Is(err, fsmeta.ErrDamaged); err != nil && !k.unknownBelow {
		return nil, err
	}
	return k.why, nil
}

// keeping is what is known about content that no snapshot has.
type keeping struct {
	meta         string
	unknown      bool            // some snapshot's identifier can't be told
	aside        map[string]bool // identifiers of snapshots that repairs have set aside
	unknownAside bool            // that of one of these can't be told
	below        uint64          // identifiers below may be of snapshots made after the backup that was restored
	unknownBelow bool            // which these are can't be told
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
