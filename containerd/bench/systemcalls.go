//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"golang.org/x/sys/unix"
)

// bare does what a durable create can't do without and nothing else, in a directory
// beside the store.
type bare struct {
	staging, entries string // the directory where it builds, and the big one
	journal          int    // a file that is written over in place
	made             int
	metadata, line   []byte
}

const (
	metadataSize = 500
	lineSize     = 1 << 10
	journalSize  = 1 << 20
)

// newBare prepares a directory with as many entries as a store has snapshots, and a
// journal that is filled ahead.
func newBare(dir string, entries int) (*bare, error) {
	bc := &bare{
		staging: filepath.Join(dir, "staging"), entries: filepath.Join(dir, "entries"), journal: -1,
		metadata: bytes.Repeat([]byte("x"), metadataSize), line: bytes.Repeat([]byte("x"), lineSize),
	}
	path := filepath.Join(dir, "journal")
	err := errors.Join(os.Mkdir(bc.staging, 0o700), os.Mkdir(bc.entries, 0o700), os.WriteFile(path, make([]byte, journalSize), 0o600))
	if err != nil {
		return nil, err
	}
	if bc.journal, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	err = unix.Fsync(bc.journal)
	for err == nil && bc.made < entries {
		if err = bc.stage(); err == nil {
			err = bc.place()
		}
	}
	if err != nil {
		return nil, errors.Join(err, bc.close())
	}
	return bc, nil
}

func (bc *bare) close() error { return unix.Close(bc.journal) }

// create is one durable create: the directory, the line, its sync, the rename.
func (bc *bare) create() error {
	if err := bc.stage(); err != nil {
		return err
	}
	if _, err := unix.Pwrite(bc.journal, bc.line, int64(bc.made%(journalSize/lineSize)*lineSize)); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	if err := unix.Fdatasync(bc.journal); err != nil {
		return fmt.Errorf("sync the journal: %w", err)
	}
	return bc.place()
}

func (bc *bare) staged() string { return fmt.Sprint(bc.staging, "/", bc.made) }

// stage builds the directory with a file and a symlink.
func (bc *bare) stage() error {
	dir := bc.staged()
	if err := unix.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("mkdir %s: %w", dir, err)
	}
	path := dir + "/metadata.json"
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	_, err = unix.Write(fd, bc.metadata)
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := unix.Symlink("../"+nameOf(0), dir+"/parent"); err != nil {
		return fmt.Errorf("symlink in %s: %w", dir, err)
	}
	return nil
}

// place renames the directory into the big one.
func (bc *bare) place() error {
	from := bc.staged()
	to := fmt.Sprintf("%s/default%%2F%d%%2Fk8s-bench", bc.entries, bc.made)
	bc.made++
	if err := unix.Rename(from, to); err != nil {
		return fmt.Errorf("rename %s: %w", from, err)
	}
	return nil
}

// besideSystemCalls measures a durable create beside what no store of this layout could
// save.
func besideSystemCalls(b *bench, name string) (_ []besideRow, err error) {
	const limit = 1.5
	s, err := b.fresh(b.small)(peers.FS)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	dir, err := os.MkdirTemp(b.dir, "bare-")
	if err != nil {
		return nil, err
	}
	bc, err := newBare(dir, b.small)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bc.close()) }()
	calls := batch{name: "bare system calls", run: func() ([]float64, error) {
		return timed(b.batch, func() error {
			for range b.batch {
				if err := bc.create(); err != nil {
					return err
				}
			}
			return nil
		})
	}}
	all, err := interleave(b.rounds, 1, b.settle, b.durableBatch(s, create, s.items(b.rounds*b.batch)), calls)
	if err != nil {
		return nil, err
	}
	return []besideRow{limited(name, limit, nil, all[0].ratios())}, nil
}
