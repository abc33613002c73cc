package powercut

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/fsmeta/fsmeta/containerd/crash/workload"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// run is a process that runs the workload once.
type run struct {
	Dir       string
	Socket    string
	Seed      uint64
	Alone     bool // it has one writer
	Txns      int  // of each writer
	Relaxed   bool
	KillAfter int  // notes; it is killed soon after. 0: never
	Slow      bool // so that the sync of a relaxed commit is to come before much else has happened
}

const (
	writers = 4
	padding = 1500 // so that a hundred transactions make a checkpoint
)

// closedLine is what a run says last, when it has closed the store.
const closedLine = "closed\n"

func runWorkload(r run) error {
	conn, err := net.Dial("unix", r.Socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	w := &told{conn: conn, killAfter: r.KillAfter, slow: r.Slow, rand: rand.New(rand.NewPCG(r.Seed, 2))}
	c := workload.Config{Dir: r.Dir, Seed: r.Seed, Writers: writers, Txns: r.Txns, Padding: padding, Log: w}
	if r.Alone {
		c.Writers = 1
	}
	if r.Relaxed {
		c.Options = append(c.Options, fsmeta.Relaxed())
	}
	if err := workload.Run(context.Background(), c); err != nil {
		return err
	}
	_, err = io.WriteString(w, closedLine)
	return err
}

// told is a log: the witness knows each line when it is written.
type told struct {
	conn      net.Conn
	rand      *rand.Rand
	slow      bool
	lines     int
	killAfter int
}

// Write writes one line and waits for the answer.
func (t *told) Write(line []byte) (int, error) {
	if _, err := t.conn.Write(line); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(t.conn, make([]byte, 1)); err != nil {
		return 0, err
	}
	if t.lines++; t.lines == t.killAfter {
		// At any moment of the next transactions.
		time.AfterFunc(time.Duration(t.rand.IntN(5000))*time.Microsecond, func() {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		})
	}
	if t.slow {
		time.Sleep(time.Duration(t.rand.IntN(50)) * time.Millisecond)
	}
	return len(line), nil
}
