package powercut

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// machine is a process that mounts a disk and runs workloads on it.
type machine struct {
	Filesystem string
	Disk       string // the file
	Dir        string // where it is mounted
	Socket     string // of the witness
	Seed       uint64
	SyncAll    bool  // the neighbour syncs the whole filesystem at times
	Runs       []run // one after the other
}

// storeName is the name of the store on the disk.
const storeName = "store"

// runMachine is the process. It ends when the runs have ended and the disk is unmounted.
func runMachine(m machine) error {
	f, err := filesystemNamed(m.Filesystem)
	if err != nil {
		return err
	}
	disk, err := unix.Open(m.Disk, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", m.Disk, err)
	}
	err = f.mount(disk, m.Dir, true, f.options)
	if err = errors.Join(err, unix.Close(disk)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var others sync.WaitGroup
	var nerr error
	others.Go(func() { nerr = m.neighbour(ctx, f) })
	for _, r := range m.Runs {
		r.Dir, r.Socket = filepath.Join(m.Dir, storeName), m.Socket
		if err = r.start(); err != nil {
			break
		}
	}
	cancel()
	others.Wait()
	return errors.Join(err, nerr, unix.Unmount(m.Dir, 0))
}

// start runs a workload in a process of its own and waits for it.
func (r run) start() error {
	cmd, err := command("/proc/self/exe", workloadVariable, r)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	var exit *exec.ExitError
	if r.KillAfter > 0 && errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	if err != nil {
		return fmt.Errorf("workload: %w\n%s", err, out.Bytes())
	}
	return nil
}

// neighbour is another program on the same filesystem, which syncs a file of its own again
// and again. So what a store has not synced gets to the disk in part, and early: what
// ext4, xfs and btrfs commit is names rather than content, and of all programs.
func (m machine) neighbour(ctx context.Context, f filesystem) error {
	r := rand.New(rand.NewPCG(m.Seed, 1))
	file, err := os.Create(filepath.Join(m.Dir, "neighbour"))
	if err != nil {
		return err
	}
	defer file.Close()
	for err == nil && ctx.Err() == nil {
		if _, err = file.Write(make([]byte, 1+r.IntN(5000))); err != nil {
			break
		}
		if m.SyncAll && r.IntN(20) == 0 {
			err = unix.Syncfs(int(file.Fd()))
		} else {
			err = f.commit(file)
		}
		time.Sleep(time.Duration(r.IntN(10)) * time.Millisecond)
	}
	return err
}
