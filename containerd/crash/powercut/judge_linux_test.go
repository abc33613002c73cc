package powercut

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsmeta/fsmeta/containerd/crash/workload"
	"github.com/fsmeta/fsmeta/fsmeta"
	"golang.org/x/sys/unix"
)

// judge mounts what power cuts leave and looks at the store.
type judge struct {
	filesystem filesystem
	dir        string // where it mounts
}

// tooLong is how long a store may take to be judged, after which it is taken to hang.
const tooLong = time.Minute

// verdict says what is wrong with the store in an image, given what was said before the
// cut. It returns an error of another kind, errJudge, where it could not look.
func (j judge) verdict(ctx context.Context, m image, runs [][]workload.Note, settled int) error {
	h := workload.NewHistory(writers)
	if err := h.AddCut(runs, settled); err != nil {
		return err
	}
	unmount, err := j.mount(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tooLong)
	defer cancel()
	dir := filepath.Join(j.dir, storeName)
	err = makeIfNone(dir, runs)
	if err == nil {
		err = h.Verify(ctx, dir)
	}
	return errors.Join(err, unmount())
}

// errJudge: the judge itself has failed.
var errJudge = errors.New("could not look at the image")

// mount mounts an image. That the filesystem can't be mounted is wrong as well.
func (j judge) mount(m image) (unmount func() error, err error) {
	fd, err := unix.MemfdCreate("image", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(errJudge, err)
	}
	f := os.NewFile(uintptr(fd), "image")
	defer f.Close() // the loop device keeps it
	if err := m.writeTo(f, j.filesystem.size); err != nil {
		return nil, errors.Join(errJudge, err)
	}
	if err := j.filesystem.mount(fd, j.dir, false, ""); err != nil {
		return nil, err
	}
	return func() error {
		if err := unix.Unmount(j.dir, 0); err != nil {
			return fmt.Errorf("%w: unmount: %w", errJudge, errors.Join(err, unix.Unmount(j.dir, unix.MNT_DETACH)))
		}
		return nil
	}, nil
}

// makeIfNone makes the store where the power was cut before there was one.
func makeIfNone(dir string, runs [][]workload.Note) error {
	for _, notes := range runs {
		if len(notes) > 0 {
			return nil // it was opened
		}
	}
	s, err := fsmeta.Open(dir)
	if err != nil {
		return err
	}
	return s.Close()
}

// keep saves what was judged wrong, to find out why.
func (j judge) keep(dir string, c cut, m image, r *record) error {
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%d.img", j.filesystem.name, c.at)))
	if err != nil {
		return err
	}
	return errors.Join(m.writeTo(f, j.filesystem.size), f.Close(), keepRecord(f.Name()+".log", r))
}
