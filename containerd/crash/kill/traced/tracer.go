//go:build linux && amd64

package traced

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Do is what is to become of a call.
type Do struct {
	Kill  bool          // the process, at once
	Errno syscall.Errno // instead of the call; asked for before it is made
}

// Decide is asked before each call, and after it.
type Decide func(c Call, made bool) Do

// thread is a traced thread.
type thread struct {
	call  *Call // that it makes
	errno syscall.Errno
}

// tracer traces one process. All of it happens on one thread, as the kernel wants it.
type tracer struct {
	pid     int
	dir     string // with the files of interest
	decide  Decide
	threads map[int]*thread
	counts  map[string]int
}

// trace starts a process, and returns how it ended. When the context ends, it is told to
// say where it is, and killed where it doesn't end by that.
func trace(ctx context.Context, binary, dir string, attr *os.ProcAttr, decide Decide) (syscall.WaitStatus, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A group of its own, so that no other process's children are waited for.
	attr.Sys = &syscall.SysProcAttr{Ptrace: true, Setpgid: true}
	process, err := os.StartProcess(binary, []string{binary}, attr)
	if err != nil {
		return 0, fmt.Errorf("start a traced process: %w", err)
	}
	t := &tracer{pid: process.Pid, dir: dir, decide: decide, threads: map[int]*thread{}, counts: map[string]int{}}
	if err := process.Release(); err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	defer close(ended)
	go t.limit(ctx, ended)
	return t.run()
}

// limit ends the process when the context ends.
func (t *tracer) limit(ctx context.Context, ended chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	_ = unix.Kill(t.pid, unix.SIGQUIT) // it may have ended meanwhile
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		_ = unix.Kill(t.pid, unix.SIGKILL)
	}
}

// run lets the process go from one system call to the next until it ends.
func (t *tracer) run() (syscall.WaitStatus, error) {
	for begun := false; ; {
		var status syscall.WaitStatus
		tid, err := syscall.Wait4(-t.pid, &status, unix.WALL, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for a traced process: %w", err)
		}
		if !status.Stopped() {
			delete(t.threads, tid)
			if tid == t.pid {
				return status, nil
			}
			continue
		}
		if !begun {
			begun = true
			if err := unix.PtraceSetOptions(tid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
				return 0, fmt.Errorf("trace a process: %w", err)
			}
			t.threads[tid] = &thread{}
		}
		signal, err := t.stopped(tid, status)
		if err == nil {
			err = unix.PtraceSyscall(tid, signal)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // it is being killed
			return 0, fmt.Errorf("trace a process: %w", err)
		}
	}
}

// stopped looks why a thread has stopped, and returns the signal that it is to get.
func (t *tracer) stopped(tid int, status syscall.WaitStatus) (int, error) {
	th := t.threads[tid]
	first := th == nil
	if first {
		th = &thread{}
		t.threads[tid] = th
	}
	switch signal := status.StopSignal(); {
	case signal == unix.SIGTRAP|0x80:
		return 0, t.atCall(tid, th)
	case signal == unix.SIGTRAP, first && signal == unix.SIGSTOP:
		return 0, nil // a new thread, or the news of one
	default:
		return int(signal), nil
	}
}

// callInfo is struct ptrace_syscall_info of the kernel, as it is before a call.
type callInfo struct {
	op   uint8 // 1 before a call, 2 after it
	_    [3]uint8
	_    uint32
	_    [2]uint64
	nr   uint64
	args [6]uint64
}

// atCall asks what is to become of a call, and does it.
func (t *tracer) atCall(tid int, th *thread) error {
	var info callInfo
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid),
		unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); errno != 0 {
		return errno
	}
	switch {
	case info.op == 1:
		th.call = nil
		c, ok := observed(tid, info.nr, info.args, t.dir)
		if !ok {
			return nil
		}
		t.counts[c.Kind]++
		c.N = t.counts[c.Kind]
		th.call = &c
		return t.do(tid, th, t.decide(c, false))
	case th.call == nil:
		return nil
	case th.errno != 0:
		errno := th.errno
		th.errno = 0
		return changeRegisters(tid, func(r *unix.PtraceRegs) { r.Rax = -uint64(errno) })
	default:
		return t.do(tid, th, t.decide(*th.call, true))
	}
}

func (t *tracer) do(tid int, th *thread, do Do) error {
	if do.Kill {
		return unix.Kill(t.pid, unix.SIGKILL)
	}
	th.errno = do.Errno
	if do.Errno == 0 || th.call.Kind == "close" { // the kernel closes a file even if it tells an error
		return nil
	}
	return changeRegisters(tid, func(r *unix.PtraceRegs) { r.Orig_rax = ^uint64(0) }) // no such call
}

func changeRegisters(tid int, change func(*unix.PtraceRegs)) error {
	var registers unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &registers); err != nil {
		return err
	}
	change(&registers)
	return unix.PtraceSetRegs(tid, &registers)
}
