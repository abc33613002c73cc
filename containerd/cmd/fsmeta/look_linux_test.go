package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
	"golang.org/x/sys/unix"
)

// setImmutable does what chattr +i or -i does.
func setImmutable(path string, on bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()        //nolint:errcheck // it was only opened
	const immutable = 0x10 // from linux/fs.h
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	if flags |= immutable; !on {
		flags &^= immutable
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
}

// Names that lag are shown as the journal has them, with the cause. A removed one is not listed,
// but noted: its directory is still there.
func TestLagging(t *testing.T) {
	ageless(t)
	dir := closed(t, steps...)
	free := func() error {
		return errors.Join(setImmutable(filepath.Join(dir, "snapshots", "web"), false), setImmutable(filepath.Join(dir, "snapshots", "view"), false))
	}
	t.Cleanup(func() { _ = free() })
	for _, name := range []string{"web", "view"} {
		if err := setImmutable(filepath.Join(dir, "snapshots", name), true); err != nil {
			t.Skip("nothing can be made immutable here: ", err)
		}
	}
	s, err := fsmeta.Open(dir)
	succeed(t, err)
	succeed(t, do(s, func(ctx context.Context, s *fsmeta.Store) error {
		_, update := s.Update(ctx, fsmeta.Info{Name: "web", Labels: map[string]string{"changed": "yes"}}, "labels")
		_, remove := s.Remove(ctx, "view")
		return errors.Join(update, remove)
	}))
	golden(t, "lagging", transcript(t, 0, dir, "info STORE", "info --json STORE", "ls STORE", "tree STORE", "show STORE web", "show STORE view", "show --json STORE web", "ls --json STORE"))
	succeed(t, free(), s.Close())
}

// A store on a read-only mount looks as before.
func TestReadOnlyMount(t *testing.T) {
	ageless(t)
	dir := closed(t, steps...)
	before := transcript(t, 0, dir, all...)
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Skip("nothing can be mounted: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	succeed(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	if after := transcript(t, 0, dir, all...); after != before {
		t.Errorf("it prints\n%s\nwant\n%s", after, before)
	}
}

// pseudoterminal returns both ends of a terminal of so many columns.
func pseudoterminal(t *testing.T, columns uint16) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("there are no terminals: ", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	succeed(t, err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0), unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: columns}))
	slave, err = os.OpenFile(filepath.Join("/dev/pts", fmt.Sprint(n)), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("there are no terminals: ", err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}

// On a terminal listings fit into its width, and have colours.
func TestTerminal(t *testing.T) {
	dir := closed(t, steps...)
	for _, test := range []struct {
		columns   uint16
		variables []string
		want      string
	}{
		{40, []string{"NO_COLOR=", "TERM=xterm"}, "\x1b[1mweb"},
		{40, []string{"NO_COLOR=1", "TERM=xterm"}, "\nweb "},
		{200, []string{"NO_COLOR=1"}, "\nweb                                      active     sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5  2 "},
	} {
		master, slave := pseudoterminal(t, test.columns)
		cmd := itself("ls", dir)
		cmd.Stdout, cmd.Env = slave, append(cmd.Env, test.variables...)
		succeed(t, cmd.Start(), slave.Close())
		out, err := io.ReadAll(master)
		if err != nil && !errors.Is(err, unix.EIO) { // which says that the other end is closed
			t.Error(err)
		}
		succeed(t, cmd.Wait())
		text := strings.ReplaceAll(string(out), "\r\n", "\n")
		if !strings.Contains(text, test.want) {
			t.Errorf("%v: %q", test, text)
		}
		plain := strings.NewReplacer("\x1b[1m", "", "\x1b[0m", "").Replace(text)
		inside(t, "ls", int(test.columns), plain)
	}
}

// In another PID namespace, where a process that has the store open can't be seen, info does not say that
// there is none.
func TestInfoUnseen(t *testing.T) {
	dir, _ := live(t)
	for _, arguments := range [][]string{{"info", dir}, {"info", "--json", dir}} {
		cmd := itself(arguments...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		out, err := cmd.Output()
		if errors.Is(err, syscall.EPERM) {
			t.Skip("there can be no other PID namespace: ", err)
		}
		succeed(t, err)
		if !strings.Contains(string(out), "can't be seen") && !strings.Contains(string(out), `"unseen":true`) || strings.Contains(string(out), "none\nset aside") {
			t.Errorf("%q print %s", arguments, out)
		}
	}
}
