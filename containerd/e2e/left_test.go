//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// leftOutside says what is left of a run, seen from outside of its namespaces: processes
// of the process namespace, loop devices, mounts, control groups and its directory.
func leftOutside(dir, namespace string) error {
	return poll(func() error { // the kernel may still be busy with it
		var left []error
		processes, err := processesIn(namespace)
		if err != nil {
			return err
		}
		for _, p := range processes {
			left = append(left, errors.New("process "+p))
		}
		for _, f := range []func(string) ([]string, error){loopsOf, mountsBelow, groupsOf} {
			found, err := f(dir)
			if err != nil {
				return err
			}
			for _, f := range found {
				left = append(left, errors.New(f))
			}
		}
		if _, err := os.Lstat(dir); err == nil {
			left = append(left, errors.New(dir))
		}
		if len(left) > 0 {
			return fmt.Errorf("something is left of the tests: %w", errors.Join(left...))
		}
		return nil
	})
}

// processesIn returns the numbers of the processes in a process namespace, as the links
// in /proc call it. (Reading more of processes that others have started might wait for
// what these wait for.)
func processesIn(namespace string) (found []string, err error) {
	links, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	for _, link := range links {
		if target, _ := os.Readlink(link); target == namespace { // none of those that have just ended
			found = append(found, strings.Split(link, "/")[2])
		}
	}
	return found, err
}

// loopsOf returns the loop devices over files of a run.
func loopsOf(dir string) (found []string, err error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range files {
		data, _ := os.ReadFile(file) // none of those that were just detached
		if strings.HasPrefix(string(data), dir+"/") {
			found = append(found, "loop device "+strings.Split(file, "/")[3]+" over "+strings.TrimSpace(string(data)))
		}
	}
	return found, err
}

// mountsBelow returns where something is mounted in a directory, the deepest first.
func mountsBelow(dir string) ([]string, error) {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, info := range slices.Backward(infos) {
		found = append(found, info.Mountpoint)
	}
	return found, nil
}

// groupsOf returns the control groups of a run. They are called what its namespaces in
// containerd are called: the name of its directory, a hyphen and more.
func groupsOf(dir string) (found []string, err error) {
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has just ended
		}
		if err == nil && entry.IsDir() && strings.HasPrefix(entry.Name()+"-", filepath.Base(dir)+"-") {
			found = append(found, path)
			return fs.SkipDir
		}
		return err
	})
	return found, err
}

// removeGroups removes the control groups of a run, or of one of its stands, once their
// processes have ended.
func removeGroups(name string) error {
	return poll(func() error {
		groups, err := groupsOf(name)
		if err != nil {
			return err
		}
		for _, group := range groups {
			if err := removeTree(group); err != nil {
				return err
			}
		}
		return nil
	})
}

// removeTree removes a control group and those in it. The files in them are the kernel's.
func removeTree(group string) error {
	entries, err := os.ReadDir(group)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(group, entry.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(group)
}

// others returns the processes of the namespace that neither are this one nor init.
func others() (pids []int, err error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return nil, err
		}
		stat, _ := os.ReadFile(filepath.Join(dir, "stat")) // none of those that have just ended
		_, state, ok := strings.Cut(string(stat), ") ")
		if pid != 1 && pid != os.Getpid() && ok && state[0] != 'Z' {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// describe returns a process's number and how it was started.
func describe(pid string) string {
	line, err := os.ReadFile("/proc/" + pid + "/cmdline")
	if err != nil {
		return pid + ", which has ended"
	}
	return pid + ": " + strings.ReplaceAll(string(line), "\x00", " ")
}

// checkNothingLeft fails the test if a process is left, or a mount below the directory.
// It ends them all.
func checkNothingLeft(t testing.TB, dir string) {
	t.Helper()
	err := poll(func() error { // a process that was told to end takes a moment
		var left []error
		pids, err := others()
		if err != nil {
			return err
		}
		for _, pid := range pids {
			left = append(left, errors.New("process "+describe(strconv.Itoa(pid))))
		}
		mounts, err := mountsBelow(dir)
		if err != nil {
			return err
		}
		for _, m := range mounts {
			left = append(left, errors.New("mount "+m))
		}
		return errors.Join(left...)
	})
	if err == nil {
		return
	}
	t.Errorf("left over:\n%v", err)
	if err := endAll(dir); err != nil {
		t.Fatalf("what is left can't be taken away: %v", err)
	}
}

// endAll kills every process of the namespace but this one and init, and unmounts
// everything below the directory.
func endAll(dir string) error {
	return poll(func() error {
		pids, err := others()
		for _, pid := range pids {
			err = errors.Join(err, unix.Kill(pid, unix.SIGKILL), fmt.Errorf("%d has not ended", pid))
		}
		mounts, failed := mountsBelow(dir)
		for _, m := range mounts {
			err = errors.Join(err, unix.Unmount(m, unix.UMOUNT_NOFOLLOW))
		}
		return errors.Join(err, failed)
	})
}

// patience is how long something may take to become true that is to become true.
const patience = time.Minute

// poll calls f until it returns nil, and returns what it has returned last when that
// takes longer than patience.
func poll(f func() error) error {
	for end := time.Now().Add(patience); ; {
		err := f()
		if err == nil || time.Now().After(end) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// eventually fails the test if f does not return nil in time.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	if err := poll(f); err != nil {
		t.Fatalf("%s: after %v still: %v", what, patience, err)
	}
}
