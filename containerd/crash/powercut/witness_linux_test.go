package powercut

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
)

// witness puts what the runs of a machine say into the record, and answers when it is
// there.
type witness struct {
	listener net.Listener
	record   *record
	runs     []run
	done     chan error
}

var witnesses atomic.Int64

// newWitness returns a witness that listens. Its socket is no file that could be left.
func newWitness(r *record, runs []run) (*witness, error) {
	l, err := net.Listen("unix", fmt.Sprintf("@fsmeta-powercut-%d-%d", os.Getpid(), witnesses.Add(1)))
	if err != nil {
		return nil, err
	}
	w := &witness{l, r, runs, make(chan error, 1)}
	go func() { w.done <- w.listen() }()
	return w, nil
}

// close returns when all is recorded that was said.
func (w *witness) close() error {
	err := w.listener.Close()
	return errors.Join(err, <-w.done)
}

// listen hears the runs one after the other.
func (w *witness) listen() error {
	for _, r := range w.runs {
		conn, err := w.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("fewer runs were heard than the %d there were", len(w.runs))
		}
		if err != nil {
			return err
		}
		w.record.add(event{kind: begun, relaxed: r.Relaxed})
		if err := errors.Join(w.hear(conn), conn.Close()); err != nil {
			return err
		}
	}
	return nil
}

// hear records what one run says, to its end.
func (w *witness) hear(conn net.Conn) error {
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF || errors.Is(err, syscall.ECONNRESET) {
			return nil // also in the midst of a line: it was killed
		}
		if err != nil {
			return err
		}
		e := event{kind: closed}
		if string(line) != closedLine {
			e.kind = noted
			if err := json.Unmarshal(line, &e.note); err != nil {
				return err
			}
		}
		w.record.add(e)
		if _, err := conn.Write([]byte{'.'}); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			return err
		}
	}
}
