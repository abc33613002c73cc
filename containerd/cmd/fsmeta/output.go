package main

import (
	"bufio"
	"io"
	"strings"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
)

// output is a buffer before a writer. Until it has overflown, what is in it can be dropped.
type output struct {
	*bufio.Writer
	below *noting
}

// noting notes that something was written.
type noting struct {
	io.Writer
	written bool
}

const outputSize = 256 << 10

func newOutput(w io.Writer) *output {
	below := &noting{Writer: w}
	return &output{bufio.NewWriterSize(below, outputSize), below}
}

func (n *noting) Write(p []byte) (int, error) {
	n.written = true
	return n.Writer.Write(p)
}

// drop forgets everything that was printed, and reports whether it could.
func (o *output) drop() bool {
	if o.below.written {
		return false
	}
	o.Reset(o.below)
	return true
}

// quote returns a value between quotation marks, escaped.
func quote(text string) string {
	return `"` + strings.ReplaceAll(tool.Escape(text), `"`, `\"`) + `"`
}
