package tool

import (
	"testing"
	"time"
)

// There is a bar only for work that takes long.
func TestProgress(t *testing.T) {
	for _, test := range []struct {
		begun time.Time
		shown bool
	}{
		{time.Now().Add(time.Hour), false}, // so that a slow machine does not take long
		{time.Now().Add(-short), true},
	} {
		p := Progress{begun: test.begun}
		p.Show("testing", 1, 2)
		if shown := p.bar != nil; shown != test.shown {
			t.Errorf("after %v: shown: %v", time.Since(test.begun), shown)
		}
		p.Finish()
		if p.bar != nil {
			t.Error("it is shown in the end")
		}
	}
}
