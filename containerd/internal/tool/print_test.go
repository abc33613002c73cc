package tool

import (
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// Findings are counted where they are wrong, and printed as text or as JSON.
func TestFindings(t *testing.T) {
	findings := []fsmeta.Finding{
		{Path: "/s/a", Name: "a", Problem: "p", Meaning: "m", Advice: "<do>"},
		{Path: "/s/b", Problem: "p", Meaning: "m", Advice: "d", Harmless: true},
		{Path: "/s/c", Problem: "p", Repaired: "done"},
		{Path: "/s/\x1bd", Problem: "p", Repaired: "moved", Aside: "/s/damaged/d"},
	}
	for _, test := range []struct {
		json bool
		want []string
	}{
		{false, []string{
			`/s/a: snapshot "a": p; m; <do>`,
			`note: /s/b: p; m; d`,
			`/s/c: p; repaired: done`,
			`"/s/\x1bd": p; repaired: moved`,
			`so`,
		}},
		{true, []string{
			`{"kind":"wrong","path":"/s/a","name":"a","problem":"p","meaning":"m","advice":"<do>","harmless":false,"repaired":"","aside":""}`,
			`{"kind":"note","path":"/s/b","name":"","problem":"p","meaning":"m","advice":"d","harmless":true,"repaired":"","aside":""}`,
			`{"kind":"repaired","path":"/s/c","name":"","problem":"p","meaning":"","advice":"","harmless":false,"repaired":"done","aside":""}`,
			`{"kind":"aside","path":"/s/\u001bd","name":"","problem":"p","meaning":"","advice":"","harmless":false,"repaired":"moved","aside":"/s/damaged/d"}`,
		}},
	} {
		var b strings.Builder
		p := Printer{&b, test.json}
		wrong, err := p.Findings(findings...)
		if wrong != 2 || err != nil {
			t.Errorf("%d, %v", wrong, err)
		}
		if err := p.Say("so"); err != nil {
			t.Error(err)
		}
		if got, want := b.String(), strings.Join(test.want, "\n")+"\n"; got != want {
			t.Errorf("it prints\n%s\nwant\n%s", got, want)
		}
	}
}
