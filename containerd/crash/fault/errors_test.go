//go:build linux && amd64

package fault

import (
	"fmt"
	"math/rand/v2"
	"syscall"

	"github.com/fsmeta/fsmeta/containerd/crash/kill/traced"
	"golang.org/x/sys/unix"
)

// changing are the errors of calls that change something.
var changing = []syscall.Errno{unix.ENOSPC, unix.EIO, unix.EDQUOT, unix.EROFS, unix.EINTR}

// errnos are the errors that a kind of call may give on some filesystem. Others give EIO
// and EINTR.
var errnos = map[string][]syscall.Errno{
	"write":            changing,
	"pwrite64":         changing,
	"ftruncate":        changing,
	"mkdirat":          changing,
	"symlinkat":        changing,
	"linkat":           changing,
	"renameat":         changing,
	"renameat2":        changing,
	"unlinkat":         changing,
	"fsync":            changing,
	"fdatasync":        changing,
	"syncfs":           changing,
	"openat to create": append([]syscall.Errno{unix.EMFILE}, changing...),
	"openat to write":  {unix.EMFILE, unix.EIO, unix.EROFS, unix.EINTR},
	"openat to enter":  {unix.EMFILE, unix.EIO, unix.EINTR},
	"openat to read":   {unix.EMFILE, unix.EIO, unix.EINTR},
	"close":            {unix.ENOSPC, unix.EIO, unix.EDQUOT, unix.EINTR},
}

// givesUp are the kinds of calls that may make a store take no writes until it is opened anew when they fail:
// syncs, and closing a file, which may return the error of a write that came late. (That of an
// interrupted close is passed on by the standard library.)
var givesUp = map[string]bool{"fsync": true, "fdatasync": true, "syncfs": true, "close": true}

// fault is what happens to a run: a call fails, or all of its kind from it on.
type fault struct {
	kind   string
	n      int
	errno  syscall.Errno
	always bool
	kill   int // the process is killed so many calls later, 0 for not at all
}

func (f fault) String() string {
	from := ""
	if f.always {
		from = " and all later ones"
	}
	killed := ""
	if f.kill > 0 {
		killed = fmt.Sprintf(", killed %d calls later", f.kill)
	}
	return fmt.Sprintf("%s at %s %d%s%s", unix.ErrnoName(f.errno), f.kind, f.n, from, killed)
}

// decide lets calls fail, and sets met to the first that has.
func (f fault) decide(met **traced.Call) traced.Decide {
	calls := 0
	return func(c traced.Call, made bool) traced.Do {
		if *met != nil && !made {
			if calls++; calls == f.kill {
				return traced.Do{Kill: true}
			}
		}
		if made || c.Kind != f.kind || c.N < f.n || c.N > f.n && !f.always {
			return traced.Do{}
		}
		if *met == nil {
			*met = &c
		}
		return traced.Do{Errno: f.errno}
	}
}

// orKilled lets half of the processes go on for a while only: what a failure has left on
// disk might else be mended by the end of the run.
func orKilled(faults []fault, random *rand.Rand) []fault {
	for i := range faults {
		if random.IntN(2) == 0 {
			faults[i].kill = 1 + random.IntN(200)
		}
	}
	return faults
}

// every returns every fault of a run with known calls, by their kinds and errors.
func every(calls []traced.Call) map[string][]fault {
	faults := map[string][]fault{}
	for kind, n := range traced.Counts(calls) {
		of := errnos[kind]
		if of == nil {
			of = []syscall.Errno{unix.EIO, unix.EINTR}
		}
		for _, errno := range of {
			key := kind + " " + unix.ErrnoName(errno)
			for i := 1; i <= n; i++ {
				faults[key] = append(faults[key], fault{kind: kind, n: i, errno: errno})
				if errno != unix.EINTR { // a signal does not come each time
					faults[key] = append(faults[key], fault{kind: kind, n: i, errno: errno, always: true})
				}
			}
		}
	}
	return faults
}
