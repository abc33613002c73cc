//go:build linux

package main

import (
	"os"

	"github.com/schollz/progressbar/v3"
)

// bar shows how far long work is, on standard error, where that is a terminal.
type bar struct{ *progressbar.ProgressBar }

// newBar begins one, of unknown length where total is -1.
func newBar(what string, total int) bar {
	info, err := os.Stderr.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return bar{progressbar.NewOptions(total,
		progressbar.OptionSetDescription(what), progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetVisibility(terminal), progressbar.OptionShowCount(), progressbar.OptionClearOnFinish())}
}

func (b bar) add(n int) { _ = b.Add(n) }   // nothing depends on what is shown
func (b bar) finish()   { _ = b.Finish() } // nor on this

// progress shows a bar for each step of an import.
type progress struct {
	step string
	bar  bar
}

func (p *progress) show(step string, done, total int) {
	if step != p.step {
		p.finish()
		if total == 0 {
			total = -1
		}
		p.step, p.bar = step, newBar(step, total)
	}
	_ = p.bar.Set(done)
}

func (p *progress) finish() {
	if p.step != "" {
		p.bar.finish()
	}
}
