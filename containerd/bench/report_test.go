//go:build linux

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var testMachine = machine{
	Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), CPU: "Model 1", Cores: 8, Kernel: "Linux 6.0", Go: "1.26",
	Versions: []string{"store v1", "database v2"},
}

var testFilesystem = filesystem{
	Name: "ext4", Detail: "an existing filesystem",
	Rows: []row{
		{rowSpec{"create, durable", 1.5}, samples{a: []float64{3e6, 4e6, 5e6}, b: []float64{1e6, 2e6, 4e6}}},
		{rowSpec{"open", 1}, samples{a: []float64{40e3, 50e3, 60e3}, b: []float64{400e3, 400e3, 400e3}}},
		{rowSpec{"read", 0}, samples{a: []float64{310, 310, 310}, b: []float64{2.5, 2.5, 2.5}}},
	},
	Beside: []besideRow{
		limited("growth", 1.25, []float64{1, 1.1, 1.2}, []float64{1.2, 1.3, 1.4}),
		limited("calls", 1.5, nil, []float64{1.5}),
		{Name: "memory", Bolt: "1 MiB", Ours: "2 MiB"},
	},
}

const wantTables = `
### On ext4

It is an existing filesystem.

| operation | bbolt | fsmeta | bbolt / fsmeta | at least | reached |
| --- | ---: | ---: | ---: | ---: | --- |
| create, durable | 4.00 ms (3.50–4.50) | 2.00 ms (1.50–3.00) | 2.00 (1.62–2.50) | 1.5 | yes |
| open | 50.0 µs (45.0–55.0) | 400 µs (400–400) | 0.12 (0.11–0.14) | 1 | **no** |
| read | 310 ns (310–310) | 2.50 ns (2.50–2.50) | 124 (124–124) | – | – |

Beside them:

| what | bbolt | fsmeta | at most | kept |
| --- | ---: | ---: | ---: | --- |
| growth | 1.10 (1.05–1.15) | 1.30 (1.25–1.35) | 1.25 | **no** |
| calls | – | 1.50 (1.50–1.50) | 1.5 | yes |
| memory | 1 MiB | 2 MiB | – | – |
`

func TestMarkdown(t *testing.T) {
	got := report{Machine: testMachine, Rounds: 3, Filesystems: []filesystem{testFilesystem}}.markdown()
	head, tables, _ := strings.Cut(got, "\n\n###")
	if tables = "\n###" + tables; tables != wantTables {
		t.Errorf("the tables are\n%s\nwant\n%s", tables, wantTables)
	}
	want := "2 January 2026, on 8 cores (Model 1), Linux 6.0, Go 1.26, against store v1 with database v2.\n\n"
	if !strings.HasPrefix(head, want) || !strings.Contains(head, " in 3 rounds;") {
		t.Errorf("the head is\n%s\nwant\n%s… in 3 rounds; …", head, want)
	}
}

const wantSummary = `
| bbolt's time / ours | at least | ext4 | other |
| --- | ---: | ---: | ---: |
| create, durable | 1.5 | 2.00 | 2.00 |
| open | 1 | 0.12 (below) | 0.12 (below) |
| read | – | 124 | 124 |

### On ext4
`

func TestMarkdownOfSeveral(t *testing.T) {
	other := testFilesystem
	other.Name = "other"
	got := report{Machine: testMachine, Rounds: 3, Filesystems: []filesystem{testFilesystem, other}}.markdown()
	if !strings.Contains(got, wantSummary) {
		t.Errorf("the report is\n%s\nand does not contain\n%s", got, wantSummary)
	}
	if strings.Count(got, "| operation |") != 2 || !strings.Contains(got, "### On other\n") {
		t.Errorf("not every filesystem has its table:\n%s", got)
	}
}

func TestDraw(t *testing.T) {
	file := filepath.Join(t.TempDir(), "picture.svg")
	if err := (report{Machine: testMachine, Filesystems: []filesystem{testFilesystem, testFilesystem}}).draw(file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{">create<", ">durable<", ">open<", ">2.00×<", ">0.12×<", ">124×<", ">ext4<"} {
		if !strings.Contains(string(data), text) {
			t.Errorf("the picture has no %s", text)
		}
	}
	for d := xml.NewDecoder(strings.NewReader(string(data))); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}
	if err := (report{Filesystems: make([]filesystem, 1)}).draw(file); err == nil {
		t.Error("a picture of nothing was drawn")
	}
}
