// Package tool is what the commands of this module share: what operators do to a store,
// with its result on standard output and progress on standard error.
package tool

import (
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
)

// Progress shows how far long work is, a bar for each step of it, on standard error, where
// that is a terminal. The zero Progress shows nothing yet, and nothing of work that is short.
type Progress struct {
	begun time.Time
	step  string
	bar   *progressbar.ProgressBar
}

// short is how long work goes on without a bar.
const short = time.Second / 2

// Show shows that so many of total are done of a step; total is 0 where it isn't known.
func (p *Progress) Show(step string, done, total int) {
	if p.begun.IsZero() {
		p.begun = time.Now()
	}
	if time.Since(p.begun) < short {
		return
	}
	if p.bar == nil || step != p.step {
		p.Finish()
		p.step, p.bar = step, newBar(step, total)
	}
	if total > 0 {
		p.bar.ChangeMax(total)
	}
	_ = p.bar.Set(done) // nothing depends on what is shown
}

// Of returns Show for one step.
func (p *Progress) Of(step string) func(done, total int) {
	return func(done, total int) { p.Show(step, done, total) }
}

// Finish takes away what is shown.
func (p *Progress) Finish() {
	if p.bar != nil {
		_ = p.bar.Finish() // nothing depends on what is shown
		p.bar = nil
	}
}

func newBar(step string, total int) *progressbar.ProgressBar {
	info, err := os.Stderr.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	if total == 0 {
		total = -1
	}
	return progressbar.NewOptions(total, progressbar.OptionSetDescription(step), progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetVisibility(terminal), progressbar.OptionShowCount(), progressbar.OptionClearOnFinish())
}
