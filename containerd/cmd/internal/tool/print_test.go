package tool

import (
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// Findings are counted where they are wrong, and printed as text or as JSON. At a terminal each is
// a block, in which a path stays whole.
func TestFindings(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	findings := []fsmeta.Finding{
		{Path: "/s/a", Name: "a", Problem: "p", Meaning: "m", Advice: "<do>, see docs/repair.md"},
		{Path: "/s/b", Problem: "p", Meaning: "m", Advice: "d", Harmless: true},
		{Path: "/s/c", Problem: "p", Repaired: "done"},
		{Path: "/s/\x1bd", Problem: "p", Repaired: "moved", Aside: "/s/damaged/d"},
	}
	for _, test := range []struct {
		json    bool
		columns int
		want    []string
	}{
		{false, 0, []string{
			`/s/a: snapshot "a": p; m; <do>, see docs/repair.md`,
			`note: /s/b: p; m; d`,
			`/s/c: p; repaired: done`,
			`"/s/\x1bd": p; repaired: moved`,
			`docs/repair.md is printed by: fsmeta guide`,
			`so`,
		}},
		{false, 28, []string{
			`/s/a`,
			`  wrong     snapshot "a": p`,
			`  meaning   m`,
			`  to do     <do>, see`,
			`            docs/repair.md`,
			``,
			`/s/b`,
			`  note      p`,
			`  meaning   m`,
			`  to do     d`,
			``,
			`/s/c`,
			`  was       p`,
			`  repaired  done`,
			``,
			`/s/\x1bd`,
			`  was       p`,
			`  aside     moved`,
			``,
			`docs/repair.md is printed`,
			`  by: fsmeta guide`,
			`so`,
		}},
		{true, 0, []string{
			`{"kind":"wrong","path":"/s/a","name":"a","problem":"p","meaning":"m","advice":"<do>, see docs/repair.md","harmless":false,"repaired":"","aside":""}`,
			`{"kind":"note","path":"/s/b","name":"","problem":"p","meaning":"m","advice":"d","harmless":true,"repaired":"","aside":""}`,
			`{"kind":"repaired","path":"/s/c","name":"","problem":"p","meaning":"","advice":"","harmless":false,"repaired":"done","aside":""}`,
			`{"kind":"aside","path":"/s/\u001bd","name":"","problem":"p","meaning":"","advice":"","harmless":false,"repaired":"moved","aside":"/s/damaged/d"}`,
		}},
	} {
		b := &terminal{columns: test.columns}
		p := Printer{Out: b, JSON: test.json, program: "fsmeta"}
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
