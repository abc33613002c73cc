package tree

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// canExchange is false where the process runs without the calls that other systems lack.
var canExchange = true

const withoutCalls = "FSMETA_TEST_WITHOUT_CALLS"

func TestMain(m *testing.M) {
	if os.Getenv(withoutCalls) != "" {
		canExchange = false
		if err := forbidCalls(); err != nil {
			fmt.Println(err)
			os.Exit(3)
		}
	}
	os.Exit(m.Run())
}

// All tests pass also where the kernel doesn't know renameat2, and a filter forbids openat2.
func TestWithoutNewCalls(t *testing.T) {
	if !canExchange {
		t.Skip("this is the process without them")
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), withoutCalls+"=1")
	if _, err := os.Stat("/dev/shm"); err == nil {
		cmd.Env = append(cmd.Env, "TMPDIR=/dev/shm") // ext4 flushes what is renamed over another file
	}
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 3 {
		t.Skipf("can't forbid system calls: %s", out)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// forbidCalls makes renameat2 and openat2 fail from now on, in all threads.
func forbidCalls() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	answer := func(err unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(err) }
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_RENAMEAT2, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: answer(unix.ENOSYS)},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPENAT2, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: answer(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setModeFilter, allThreads = 1, 1
	_, _, err := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, allThreads, uintptr(unsafe.Pointer(&prog)))
	if err != 0 {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, "", unix.AT_FDCWD, "", 0); err != unix.ENOSYS {
		return fmt.Errorf("renameat2 is still there: %w", err)
	}
	return nil
}
