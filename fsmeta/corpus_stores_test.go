package fsmeta_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// corpusStores are the stores of the corpus, as README.md lists them.
var corpusStores = slices.Concat(lives, tornStores, journalStores, refusedStores, snapshotStores, handStores)

// A store's ordinary states, and those that a crash leaves.
var lives = []specimenStore{
	{"empty", "closed, nothing was ever written", "Closing", script(), ""},
	{"made", "its maker was killed before the first transaction", "Making a store", killed(nil), ""},
	{"closed", "a header, and all in the tree", "Closing", closed(small), smallEnd},
	{"killed", "all lines published, the tree is up to them", "Committing 8", killed(small), smallEnd},
	{"published-tree-behind", "three published lines of which the tree has nothing", "Terms, the rule", behind(), laterEnd},
	{"unpublished", "three whole lines without newline, the tree as before them", "Which lines are committed 3", behind(unpublished(3)), laterEnd},
	{"unpublished-in-tree", "a whole line without newline, its name brought up", "Committing 6", killed(slices.Concat(small, later), unpublished(1)), laterEnd},
	{"unpublished-no-boot", "the same as unpublished, and no boot is known: nothing holds the lock", "Which lines are committed 4",
		behind(unpublished(3), head(func(text string) string { return bootMember.ReplaceAllString(text, `"boot":""`) })), laterEnd},
	{"published-by-the-last", "of three lines the last has a newline, which publishes those before it", "Which lines are whole 3",
		behind(edit(func(j *rawJournal) { j.ends[7], j.ends[8] = 0, 0 })), laterEnd},
	{"half-brought-up", "killed between two steps: a changed snapshot without file, a new one without content, a removed one in part", "Bringing a name up",
		behind(unpublished(3), gone("snapshots/work/metadata.json", "snapshots/other/metadata.json"), put("snapshots/new", makeDir)), laterEnd},
	{"header-unpublished", "killed behind the rename of a checkpoint: a header without newline", "Checkpoint 7",
		closed(small, edit(func(j *rawJournal) { j.ends[0] = 0 })), smallEnd},
	{"header-unpublished-lines", "killed in a take-over: a header without newline, published lines", "Taking over 7",
		behind(edit(func(j *rawJournal) { j.ends[0] = 0 })), laterEnd},
	{"superseded", "killed before the rename of a checkpoint, or a sync has failed: the superseded line, no successor", "Superseded", behind(mark(0)), laterEnd},
	{"superseded-unpublished", "the same behind whole lines without newline", "Superseded", behind(unpublished(3), mark(0)), laterEnd},
	{"superseded-taken-over", "the successor of a superseded file that a take-over has made: the superseded line stands in it, too", "Taking over 7",
		behind(edit(func(j *rawJournal) { j.ends[0] = 0 }), mark(0)), laterEnd},
	{"superseded-at-the-end", "a superseded line may end where the file does", "Torn or damaged 3", behind(unfilled, mark(0), cutBehind(0)), laterEnd},
	{"superseded-then-torn", "torn bytes behind a superseded line", "Which lines are whole 4", behind(mark(0), edit(func(j *rawJournal) { j.tail = `{"txn":10,"ti` })), laterEnd},
	{"relaxed", "a relaxed writer was killed before its sync", "Relaxed", relaxed, laterEnd},
	{"lagging", "the journal carries over a changed, a removed and a new name, and the tree has none of that", "Carry-over", lagging, laterEnd},
	{"no-staging", "staging/ is missing: the next writer makes it", "Opening", closed(small, gone("staging")), smallEnd},
	{"unknown-files", "files that are ignored: beside layout, in staging/, in a snapshot's directory", "Unknown files", closed(small,
		put("notes 2", writeText("x")), put("lost+found", makeDir), put("staging/1234abcd-1", makeDir), put("staging/x y", writeText("x")),
		put("snapshots/mid/notes", writeText("x")), put("snapshots/mid/dir", makeDir)), smallEnd},
	{"links", "parent links that are wrong, missing and no links: the file decides", "parent", closed(small,
		gone("snapshots/mid/parent"), put("snapshots/work/parent", makeLink("../nothing")), put("snapshots/other/parent", writeText("x"))), smallEnd},
	{"backup", "a copy that Backup has made, not in use", "backup", backedUp(), smallEnd},
	{"backup-in-use", "a copy that has been used", "backup", backedUp("label work 9"), smallEnd},
	{"backup-broken", "a file backup that says nothing: readers don't look at it", "backup",
		func(t *testing.T, dir string) { all(backedUp(), put("backup", writeText("{}")))(t, dir) }, smallEnd},
	{"repaired", "a repair has set a damaged snapshot aside", "Repairing", func(t *testing.T, dir string) {
		closed(small, file("other", constant("")))(t, dir)
		repair(t, dir)
		foreignBoot(t, dir)
	}, "base; mid < base; *work < mid"},
	{"odd-names", "names that need care, closed", "Names", inProcess(false, makeOddNames), ""},
	{"odd-names-killed", "the same in the journal", "Names; Strings", inProcess(true, makeOddNames), ""},
	{"labels", "500 labels, long ones, odd ones, none", "metadata.json", inProcess(false, manyLabels), ""},
	{"labels-killed", "the same in the journal", "metadata.json", inProcess(true, manyLabels), ""},
	{"numbers", "the largest identifier, the first and the last year", "metadata.json; Times", bigNumbers, ""},
	{"usage", "the largest and the smallest usage, in the journal", "metadata.json", inProcess(true, makeUsage), ""},
}

var someSynced = regexp.MustCompile(`"synced":\d+`)

// synced lets lines 7 to 9 say that the last durable line was txn.
func synced(txn string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		for i := 7; i <= 9; i++ {
			body(i, func(text string) string { return someSynced.ReplaceAllString(text, `"synced":`+txn) })(t, dir)
		}
	}
}

// hole puts NUL bytes in the middle of a line.
func hole(line string) string {
	n := len(line) / 3
	return line[:n] + strings.Repeat("\x00", n) + line[2*n:]
}

// What a line that was never acknowledged leaves.
var (
	withoutNine = "base; mid < base; *work < mid"
	tornStores  = []specimenStore{
		{"torn-end", "the end of the last line is missing", "Torn or damaged", behind(unpublished(1), lineBytes(-1, func(s string) string { return s[:len(s)/2] })), withoutNine},
		{"torn-beginning", "the beginning of the last line is missing: its end is torn, too", "Torn or damaged 6",
			behind(unpublished(1), lineBytes(-1, func(s string) string { return strings.Repeat("\x00", 40) + s[40:] })), withoutNine},
		{"torn-hole", "the middle of the last line is missing", "Torn or damaged 6", behind(unpublished(1), lineBytes(-1, hole)), withoutNine},
		{"torn-batch", "of three lines of one sync the second is torn: the third counts for nothing", "Torn or damaged 5",
			behind(unpublished(3), synced("6"), lineBytes(8, hole)), "base; mid < base; *other; *work < mid"},
		{"torn-five-bytes", "five bytes of a line's end have changed: taken for torn", "Torn or damaged 6",
			behind(unpublished(1), lineBytes(-1, func(s string) string { return s[:len(s)-8] + "xxxxx" + s[len(s)-3:] })), withoutNine},
	}
)

func flipAt(n int) func(line string) string {
	return func(line string) string { return line[:n] + string(line[n]^1) + line[n+1:] }
}

// Journals that are damaged.
var (
	damagedEnd    = laterEnd + " ! journal"
	journalStores = []specimenStore{
		{"header-flipped", "a byte of the header has changed: all lines count", "Torn or damaged 1", behind(lineBytes(0, swapped(`"txn"`, `"uxn"`))), damagedEnd},
		{"header-version", "the header is of another version, with a right checksum", "Versions", behind(head(swapped(`"version":2`, `"version":3`))), damagedEnd},
		{"header-member-missing", "a header with a checksum has all members", "Header", behind(head(func(s string) string { return bootMember.ReplaceAllString(s, `"boof":""`) })), damagedEnd},
		{"header-member-left-out", "a header with a checksum lacks none of its members", "Header",
			behind(head(func(s string) string { return strings.Replace(s, bootMember.FindString(s)+",", "", 1) })), damagedEnd},
		{"header-unknown-member", "a header has no other member", "JSON", behind(head(swapped(`,"prev"`, `,"next":"","prev"`))), damagedEnd},
		{"header-checksum-elsewhere", "white space behind the header's checksum", "Header", behind(lineBytes(0, func(s string) string { return s + " " })), damagedEnd},
		{"header-long", "a header has at most 4 KiB", "JSON", closed(small, handHeader(plainHeader+strings.Repeat(" ", 5000))), smallEnd + " ! journal"},
		{"header-missing", "the file begins with a line: that counts, too", "With a damaged journal",
			killed(small, edit(func(j *rawJournal) { j.lines, j.ends = j.lines[2:], j.ends[2:] }), gone("snapshots/base")), smallEnd + " ! journal"},
		{"cut", "the file is shorter than its header says", "Torn or damaged 2", behind(edit(func(j *rawJournal) { j.size -= 4096 })), damagedEnd},
		{"cut-says-a-line", "it is shorter than a line says", "Torn or damaged 2",
			behind(unfilled, body(9, swapped(`"filled":0`, `"filled":1000000`))), damagedEnd},
		{"cut-says-a-stray-line", "it is shorter than a line says that stands behind torn bytes", "Torn or damaged 2",
			behind(unpublished(3), synced("6"), unfilled, body(9, swapped(`"filled":0`, `"filled":1000000`)), lineBytes(8, hole)),
			"base; mid < base; *new < mid; *other; *work < mid ! journal"},
		{"cut-behind-a-line", "a whole line ends where the file does", "Torn or damaged 2", behind(unfilled, cutBehind(0)), damagedEnd},
		{"cut-behind-the-header", "a header with a checksum ends where the file does", "Torn or damaged 2", closed(small, unfilled, cutBehind(0)), smallEnd + " ! journal"},
		{"cut-in-a-line", "the file ends in a line", "Torn or damaged 3", behind(unfilled, cutBehind(20)), withoutNine + " ! journal"},
		{"newline-behind-torn", "a newline behind a line of which a part is missing", "Torn or damaged 4", behind(lineBytes(-1, hole)), withoutNine + " ! journal"},
		{"newline-alone", "a newline far behind the lines", "Torn or damaged 4", behind(edit(func(j *rawJournal) { j.tail = "\x00\x00\x00\n" })), damagedEnd},
		{"newline-in-a-line", "a byte of an unpublished line has become a newline", "Torn or damaged 4",
			behind(unpublished(1), lineBytes(-1, func(s string) string { return s[:100] + "\n" + s[101:] })), withoutNine + " ! journal"},
		{"newline-superseded", "a newline behind the superseded line", "Torn or damaged 4", behind(mark('\n')), damagedEnd},
		{"synced-behind", "of three lines the second is broken, and the third says that it was durable", "Torn or damaged 5",
			behind(unpublished(3), lineBytes(8, hole)), "base; mid < base; *new < mid; *other; *work < mid ! journal"},
		{"flipped", "a bit of a published line has changed", "Torn or damaged 4", behind(lineBytes(7, flipAt(100))),
			"base; mid < base; *new < mid; *work < mid ! journal"},
		{"flipped-unpublished", "a bit of a line without newline has changed: it is complete", "Torn or damaged 6",
			behind(unpublished(1), lineBytes(9, flipAt(100))), withoutNine + " ! journal"},
		{"flipped-end", "four bytes of a line's end have changed: it is complete", "Torn or damaged 6",
			behind(unpublished(1), lineBytes(-1, func(s string) string { return s[:len(s)-7] + "xxxx" + s[len(s)-3:] })), withoutNine + " ! journal"},
		{"joined", "the byte between two lines has changed: the end of a line stands in the middle", "Torn or damaged 6",
			behind(unpublished(3), edit(func(j *rawJournal) {
				j.lines[8] += "x" + j.lines[9][:100]
				j.lines, j.ends = j.lines[:9], j.ends[:9]
			})), "base; mid < base; *other; *work < mid ! journal"},
		{"superseded-wrong", "a superseded line of another transaction is complete, and not this file's", "Torn or damaged 6",
			behind(mark(0), lineBytes(-1, flipAt(14))), damagedEnd},
		{"tree-later", "a damaged line, the tree has its version: that decides", "With a damaged journal",
			killed(slices.Concat(small, later), lineBytes(7, flipAt(100))), damagedEnd},
		{"shown-again", "the line that removed a snapshot is damaged: it is shown again", "With a damaged journal",
			killed(slices.Concat(small, later), lineBytes(8, flipAt(100))), "base; mid < base; *new < mid; *other; *work < mid ! journal"},
		{"one-number-twice", "two lines of one transaction: the first in the file counts", "With a damaged journal",
			killed(small, edit(func(j *rawJournal) {
				text := strings.ReplaceAll(j.lines[6], `"other"`, `"otter"`)
				text = text[:len(text)-len(`,"crc32c":"xxxxxxxx"}`)]
				j.tail = "\x00" + text + `,"crc32c":"` + crc(text) + "\"}\n"
			})), smallEnd + " ! journal"},
		{"parent-of-later-tree", "the tree decides for its later version, and its parent is missing", "With a damaged journal",
			killed([]string{"layer base", "close"}, reopened("put work base", "label work 2"), lineBytes(-1, flipAt(100)), gone("snapshots/base")), ""},
		nonsense("kind", "an image lacks its kind", "3", swapped(`"kind":"active",`, ``)),
		nonsense("time", "the time of a line is none", "1", func(s string) string { return regexp.MustCompile(`"time":"[^"]*"`).ReplaceAllString(s, `"time":"now"`) }),
		nonsense("member-twice", "a line has a member twice", "1", func(s string) string { return s + `,"txn":9` }),
		nonsense("next-id", "nextID is 0", "1", func(s string) string { return regexp.MustCompile(`"nextID":\d+`).ReplaceAllString(s, `"nextID":0`) }),
		nonsense("name-twice", "two changes of one name", "2", func(s string) string {
			at := strings.Index(s, `[{`)
			change := s[at+1 : strings.LastIndexByte(s, ']')]
			return s[:at+1] + change + "," + change + "]"
		}),
		nonsense("before-missing", "a change lacks its before", "2", swapped(`"before":null,`, ``)),
		nonsense("own-parent", "a snapshot is its own parent", "3", swapped(`"parent":"mid"`, `"parent":"new"`)),
		nonsense("txn", "an after-image is of another transaction", "4", swapped(`"txn":9}`, `"txn":8}`)),
		nonsense("mixed", "one change carries over, another changes", "4", swapped(`[{`, `[{"name":"aaa","before":null,"after":null},{`)),
		{"nonsense-uncounted", "the snapshot of a line that is nonsense is missing: nothing is counted", "With a damaged journal",
			killed(slices.Concat(small, later), body(9, swapped(`"kind":"active",`, ``)), gone("snapshots/new")), withoutNine + " ! journal"},
		{"nonsense-carry-over", "a line carries over an image of its own transaction", "Nonsense 4",
			func(t *testing.T, dir string) {
				all(lagging, body(1, func(s string) string { return strings.ReplaceAll(s, `"txn":7}`, `"txn":10}`) }))(t, dir)
			}, smallEnd + " ! journal"},
		{"nonsense-tree-later", "where nonsense is all that is wrong, the lines decide, though the tree is later", "With a damaged journal",
			killed(slices.Concat(small, later), body(7, swapped(`"kind":"active",`, ``))), damagedEnd},
		{"line-unknown-members", "unknown members where a line may have them", "JSON", behind(
			body(9, func(s string) string {
				s = strings.Replace(s, `{"name":`, `{"x":[null,1e3,{"y":1.5}],"name":`, 1)
				s = strings.Replace(s, `"usage":{`, `"usage":{"x":"\ud83e\udd80",`, 1)
				return strings.Replace(s, `"kind":`, `"x":null,"kind":`, 1) + `,"x":true`
			})), laterEnd},
	}
)

// nonsense is a store with a whole line that is nonsense: it counts for nothing, and the tree has its name.
func nonsense(name, shows, rule string, alter func(string) string) specimenStore {
	return specimenStore{"nonsense-" + name, shows, "Nonsense " + rule, killed(slices.Concat(small, later), body(9, alter)), damagedEnd}
}

// reopened is what another process does that is killed.
func reopened(lines ...string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		crashed(t, dir, lines...)
		foreignBoot(t, dir)
	}
}

// Stores that don't open.
var refusedStores = []specimenStore{
	{"no-store", "an empty directory", "Opening 1", func(t *testing.T, dir string) { succeed(t, os.Mkdir(dir, 0o700)) }, "! no store: layout"},
	{"unfinished", "its maker was killed before the rename of layout", "Making a store 9", killed(nil, gone("layout")), "! no store: layout"},
	{"version-1", "layout says version 1", "Versions", closed(small, put("layout", writeText(`{"format":"fsmeta","version":1}`))), "! no store: layout"},
	{"version-3", "layout says version 3, and has another member", "Versions", closed(small, put("layout", writeText(`{"format":"fsmeta","version":3,"x":1}`))), "! no store: layout"},
	{"no-layout", "layout is missing", "Opening 1", closed(small, gone("layout")), "! damaged: layout"},
	{"no-layout-no-journal", "layout and journal are missing: there is a metadata.json", "Opening 1", closed(small, gone("layout", "journal")), "! damaged: layout"},
	{"layout-broken", "layout says nothing", "layout", closed(small, put("layout", writeText("{}\n"))), "! damaged: layout"},
	{"layout-cut", "layout is empty", "layout", closed(small, put("layout", writeText(""))), "! damaged: layout"},
	{"layout-symlink", "layout is a symlink to a right one", "Types", closed(small, put("there", writeText(`{"format":"fsmeta","version":2}`)), put("layout", makeLink("there"))), "! damaged: layout"},
	{"layout-directory", "layout is a directory", "Types", closed(small, put("layout", makeDir)), "! damaged: layout"},
	{"no-journal", "the journal is missing", "Opening 2", closed(small, gone("journal")), "! damaged: journal"},
	{"journal-empty", "the journal is empty", "Opening 2", closed(small, put("journal", writeText(""))), "! damaged: journal"},
	{"journal-nul", "the journal begins with a NUL byte", "Opening 2", killed(small, func(t *testing.T, dir string) { patch(t, dir+"/journal", 0, 0) }), "! damaged: journal"},
	{"journal-newline", "the journal begins with a newline", "Opening 2", killed(small, func(t *testing.T, dir string) { patch(t, dir+"/journal", 0, '\n') }), "! damaged: journal"},
	{"journal-symlink", "the journal is a symlink to a right one", "Types", closed(small, func(t *testing.T, dir string) {
		succeed(t, os.Rename(dir+"/journal", dir+"/there"), os.Symlink("there", dir+"/journal"))
	}), "! damaged: journal"},
	{"journal-pipe", "the journal is a FIFO", "Types", closed(small, put("journal", makePipe)), "! damaged: journal"},
	{"no-snapshots", "snapshots/ is missing", "Opening 2", closed(small, gone("snapshots")), "! damaged: snapshots"},
	{"snapshots-symlink", "snapshots is a symlink to a right one", "Types", closed(small, func(t *testing.T, dir string) {
		succeed(t, os.Rename(dir+"/snapshots", dir+"/there"), os.Symlink("there", dir+"/snapshots"))
	}), "! damaged: snapshots"},
}

// The ways in which a metadata.json is damaged, and in which it looks odd and is not.
var (
	brokenFiles = map[string]func(string) string{
		"empty": constant(""), "array": constant("[]\n"), "text": constant("name: text\n"), "null": constant("null"),
		"cut":            func(s string) string { return s[:len(s)/2] },
		"nul":            func(s string) string { return strings.Repeat("\x00", len(s)) },
		"more":           func(s string) string { return s + "{}" },
		"flipped":        swapped(`"id"`, `"iD"`),
		"checksum":       func(s string) string { return strings.Replace(s, s[15:23], crc(s), 1) },
		"checksum-short": func(s string) string { return s[:22] + s[23:] },
		"checksum-last": func(s string) string {
			return "{\n" + strings.Replace(s[26:], "\n}\n", ",\n  \"crc32c\": \""+crc(s)+"\"\n}\n", 1)
		},
		"checksum-spaced": func(s string) string { return "{ \n" + s[2:] },
		"checksum-space":  func(s string) string { return " " + s },
	}
	brokenMembers = map[string]func(string) string{
		"utf8":          swapped(`"v": "1"`, "\"v\": \"\xff\""),
		"control":       swapped(`"v": "1"`, "\"v\": \"\t\""),
		"half":          swapped(`"v": "1"`, `"v": "\ud83e"`),
		"half-ignored":  swapped(`"txn"`, `"x": "\udd80", "txn"`),
		"twice":         swapped(`"txn"`, `"kind": "active", "txn"`),
		"twice-escaped": swapped(`"txn"`, `"\u006bind": "active", "txn"`),
		"twice-ignored": swapped(`"txn"`, `"x": {"a": 1, "a": 1}, "txn"`),
		"comma":         swapped(`false,`, `false,,`),
		"id-number":     func(s string) string { return regexp.MustCompile(`"id": "(\d+)"`).ReplaceAllString(s, `"id": $1`) },
		"id-zero":       func(s string) string { return regexp.MustCompile(`"id": "\d+"`).ReplaceAllString(s, `"id": "0"`) },
		"id-leading":    swapped(`"id": "`, `"id": "0`),
		"id-large": func(s string) string {
			return regexp.MustCompile(`"id": "\d+"`).ReplaceAllString(s, `"id": "9223372036854775808"`)
		},
		"id-missing":     swapped(`"id"`, `"ID"`),
		"kind-unknown":   swapped(`"active"`, `"view"`),
		"kind-missing":   swapped("  \"kind\": \"active\",\n", ""),
		"parent-missing": swapped("  \"parent\": \"base\",\n", ""),
		"parent-null":    swapped(`"base"`, `null`),
		"parent-long":    swapped(`"base"`, `"`+strings.Repeat("x", 32769)+`"`),
		"readonly-text":  swapped(`false`, `"no"`),
		"labels-null": func(s string) string {
			return regexp.MustCompile(`(?s)"labels": \{.*?\}`).ReplaceAllString(s, `"labels": null`)
		},
		"label-number":   swapped(`"v": "1"`, `"v": 1`),
		"label-no-key":   swapped(`"v": "1"`, `"": "1"`),
		"label-long-key": swapped(`"v"`, `"`+strings.Repeat("x", 32769)+`"`),
		"time-missing":   swapped(`"created"`, `"Created"`),
		"time-day":       createdAt("2026-02-29T00:00:00Z"),
		"time-second":    createdAt("2026-02-28T23:59:60Z"),
		"time-zone":      createdAt("2026-02-28T23:59:00+24:00"),
		"time-no-zone":   createdAt("2026-02-28T23:59:00"),
		"time-space":     createdAt("2026-02-28 23:59:00Z"),
		"time-nanos":     createdAt("2026-02-28T23:59:00.1234567890Z"),
		"time-dot":       createdAt("2026-02-28T23:59:00.Z"),
		"time-late":      createdAt("9999-12-31T23:30:00-01:00"),
		"time-early":     createdAt("0000-01-01T00:30:00+01:00"),
		"time-digits":    createdAt("2026-2-28T23:59:00Z"),
		"usage-large":    swapped(`"size": 0`, `"size": 9223372036854775808`),
		"usage-small":    swapped(`"size": 0`, `"size": -9223372036854775809`),
		"usage-float":    swapped(`"size": 0`, `"size": 1.0`),
		"usage-exponent": swapped(`"size": 0`, `"size": 1e3`),
		"usage-text":     swapped(`"size": 0`, `"size": "0"`),
		"txn-negative":   txnIs("-1"), "txn-minus-zero": txnIs("-0"), "txn-large": txnIs("9223372036854775808"), "txn-text": txnIs(`"7"`),
		"deep":         swapped(`"txn"`, `"x": `+strings.Repeat("[", 64)+strings.Repeat("]", 64)+`, "txn"`),
		"unknown-1001": func(s string) string { return strings.Replace(s, `"txn"`, members(1001)+`"txn"`, 1) },
		"name-missing": swapped(`"name"`, `"Name"`),
	}
	oddFiles = map[string]func(string) string{
		"bare": func(s string) string {
			return regexp.MustCompile(`(?s)  "(readonly|labels|usage|txn)": (\{.*?\}|\w+),?\n`).ReplaceAllString(s, "")[:0] + bare(s)
		},
		"order":         func(s string) string { return `  "txn":3,` + strings.Replace(s, ",\n  \"txn\": ", ",\n  \"y\": ", 1) },
		"spaces":        func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n\t ") },
		"no-space":      func(s string) string { return strings.NewReplacer("\n", "", " ", "").Replace(s) },
		"escapes":       swapped(`"v": "1"`, `"\u0076": "\u0031\/\b\f\n\r\t\"\\\ud83e\udd80"`),
		"unknown-1000":  func(s string) string { return strings.Replace(s, `"txn"`, members(1000)+`"txn"`, 1) },
		"unknown-deep":  swapped(`"txn"`, `"x": `+strings.Repeat("[", 63)+strings.Repeat("]", 63)+`, "txn"`),
		"unknown-any":   swapped(`"txn"`, `"x": [null, -0.5E+10, true, "", {}, {"n": null}], "txn"`),
		"unknown-case":  swapped(`"txn"`, `"KIND": "committed", "txn"`),
		"unknown-usage": swapped(`"size": 0`, `"blocks": 7, "size": 8`),
		"usage-half":    func(s string) string { return regexp.MustCompile(`"inodes": 0,\s*`).ReplaceAllString(s, "") },
		"usage-zero":    swapped(`"size": 0`, `"size": -0`),
		"usage-none": func(s string) string {
			return regexp.MustCompile(`(?s)"usage": \{.*?\}`).ReplaceAllString(s, `"usage": {}`)
		},
		"committed":       swapped(`"active"`, `"committed"`),
		"readonly":        swapped(`false`, `true`),
		"time-zone":       createdAt("2026-01-01T00:30:00.120+23:59"),
		"time-minus-zero": createdAt("2026-01-01t00:30:00.000000000-00:00"),
		"time-lower":      createdAt("2024-02-29t23:59:59.9z"),
		"time-year-0":     createdAt("0000-02-29T00:00:00-23:59"),
		"time-year-1":     createdAt("0001-01-01T00:00:00+00:01"),
		"time-year-9999":  createdAt("9999-12-31T23:59:59.999999999+01:00"),
		"id-largest": func(s string) string {
			return regexp.MustCompile(`"id": "\d+"`).ReplaceAllString(s, `"id": "9223372036854775807"`)
		},
		"txn-largest": txnIs("9223372036854775807"),
		"parent-none": swapped(`"base"`, `""`),
		"label-empty": swapped(`"v": "1"`, `"v": ""`),
	}
	handBroken = map[string]func(string) string{
		"unknown":       swapped(`"txn"`, `"x": 1, "txn"`),
		"unknown-usage": swapped(`"size"`, `"x": 1, "size"`),
		"typing-error":  swapped(`"labels"`, `"lables"`),
		"checksum-case": swapped(`"txn"`, `"CRC32C": "00000000", "txn"`),
		"kind-missing":  swapped("  \"kind\": \"active\",\n", ""),
		"parent-null":   swapped(`"base"`, `null`),
		"not-there":     swapped(`"base"`, `"absent"`),
		"comment":       swapped(`"txn"`, "// mine\n\"txn\""),
		"comma":         swapped("\n}", ",\n}"),
		"other-name":    swapped(`"name": "other-name"`, `"name": "else"`),
		"own-parent":    swapped(`"base"`, `"own-parent"`),
	}
	handFine = map[string]func(string) string{
		"parent-left-out": swapped("  \"parent\": \"base\",\n", ""),
		"bare":            bare,
		"order": func(s string) string {
			return `  "txn":3,` + strings.Replace(s, ",\n  \"txn\": ", ",\n  \"txn\": ", 1)[:strings.LastIndex(s, ",\n  \"txn\"")] + "}"
		},
		"one-line":      func(s string) string { return strings.ReplaceAll(s, "\n", "") },
		"active-parent": swapped(`"base"`, `"bare"`),
	}
)

// bare leaves only what a metadata.json must have.
func bare(s string) string {
	s = regexp.MustCompile(`(?s)  "readonly": false,\n  "labels": \{.*?\},\n`).ReplaceAllString(s, "")
	return regexp.MustCompile(`(?s),\n  "usage": .*`).ReplaceAllString(s, "\n}\n")
}

func createdAt(text string) func(string) string {
	return func(s string) string {
		return regexp.MustCompile(`"created": "[^"]*"`).ReplaceAllString(s, `"created": "`+text+`"`)
	}
}

func txnIs(text string) func(string) string {
	return func(s string) string { return regexp.MustCompile(`"txn": \d+`).ReplaceAllString(s, `"txn": `+text) }
}

// allDamaged is the summary of a store by each of which every file is damaged.
func allDamaged(ways map[string]func(string) string) string {
	return "base ! snapshots/" + strings.Join(slices.Sorted(maps.Keys(ways)), ", snapshots/")
}

// Snapshots that are damaged, missing, or none.
var snapshotStores = []specimenStore{
	{"metadata-broken", "files that are no metadata.json, each in another way", "metadata.json", each(brokenFiles, file), allDamaged(brokenFiles)},
	{"metadata-members", "members that break a rule, with right checksums", "JSON; metadata.json", each(brokenMembers, sealedFile), allDamaged(brokenMembers)},
	{"metadata-odd", "files that look odd and break no rule, with right checksums", "JSON; metadata.json", each(oddFiles, sealedFile), ""},
	{"metadata-types", "other things in place of a snapshot's directory and of its file", "Types", func(t *testing.T, dir string) {
		build(t, dir, "layer base", "put d-empty base", "put d-file base", "put d-link base", "put d-pipe base", "put m-dir base", "put m-gone base", "put m-link base", "put m-pipe base")
		foreignBoot(t, dir)
		all(put("snapshots/d-empty", makeDir), put("snapshots/d-file", writeText("x")), put("snapshots/d-link", makeLink("base")), put("snapshots/d-pipe", makePipe),
			put("snapshots/m-dir/metadata.json", makeDir), gone("snapshots/m-gone/metadata.json"),
			put("snapshots/m-link/metadata.json", makeLink("../base/metadata.json")), put("snapshots/m-pipe/metadata.json", makePipe))(t, dir)
	}, "base ! snapshots/d-empty, snapshots/d-file, snapshots/d-link, snapshots/d-pipe, snapshots/m-dir, snapshots/m-gone, snapshots/m-link, snapshots/m-pipe"},
	{"metadata-decided", "damaged files of names that the journal decides harm nothing", "Terms, the rule",
		killed(small, file("base", constant("")), put("snapshots/mid", writeText("x")), gone("snapshots/work")), smallEnd},
	{"moved", "a directory under another name: that is damaged, its own is missing, and so are parents", "Invariants 13", closed(small, func(t *testing.T, dir string) {
		succeed(t, os.Rename(dir+"/snapshots/mid", dir+"/snapshots/moved"))
	}), "base; *other ! snapshots, snapshots/moved, snapshots/work"},
	{"hashed-damaged", "a name that can't be known is counted by the digest in its entry", "Names",
		closed([]string{"put " + strings.Repeat("n", 300), "put a"}, file(strings.Repeat("n", 300), constant(""))), ""},
	{"hashed-odd", "entries of the hashed form of which the store makes none", "Names", closed([]string{"put a"},
		put("snapshots/"+strings.Repeat("x", 187)+"~"+strings.Repeat("0", 64), writeText("x")),
		put("snapshots/"+strings.Repeat("x", 190)+"~"+strings.Repeat("A", 64), writeText("x")),
		put("snapshots/"+strings.Repeat("x", 188)+"~"+strings.Repeat("1", 64), writeText("x")),
		put("snapshots/."+strings.Repeat("x", 189)+"~"+strings.Repeat("2", 64), writeText("x")),
		put("snapshots/"+strings.Repeat("%C3", 63)+"~"+strings.Repeat("3", 64), writeText("x")),
		put("snapshots/"+strings.Repeat("%41", 63)+"~"+strings.Repeat("4", 64), writeText("x")),
		put("snapshots/x~"+strings.Repeat("5", 64), writeText("x"))), ""},
	{"parent-missing", "a snapshot that was removed by hand: it is missing, and those on it are damaged", "Reading a name 5", closed(small, gone("snapshots/mid")),
		"base; *other ! snapshots, snapshots/work"},
	{"parent-missing-decided", "a version that the journal decides is not asked for its parent", "Reading a name 1",
		closed(small, reopened("put late mid"), gone("snapshots/mid")), "base; *late < mid; *other ! snapshots, snapshots/work"},
	{"parent-by-lines", "a parent that has no entry, and the journal decides that it is there", "Reading a name 5",
		closed(small, reopened("label mid 1"), gone("snapshots/mid")), smallEnd},
	{"parent-damaged", "a parent that is damaged is there", "Reading a name 5", closed(small, file("mid", constant(""))), "base; *other; *work < mid ! snapshots/mid"},
	{"parent-cycle", "parents that lead back, and an active parent: no listing follows them", "Which of them are checked", closed(small,
		handFile("base", swapped(`"parent": ""`, `"parent": "mid"`)), handFile("other", swapped(`"parent": ""`, `"parent": "work"`))),
		"base < mid; mid < base; *other < work; *work < mid"},
	{"missing", "a snapshot that no other needs is missing", "Listing 4", closed(small, gone("snapshots/other")), "base; mid < base; *work < mid ! snapshots"},
	{"missing-decided", "the same, and the journal has lines about others", "Listing 4", closed(small, reopened("label work 3"), gone("snapshots/other")),
		"base; mid < base; *work < mid ! snapshots"},
	{"too-many", "a snapshot that no transaction made", "Listing 4", closed(small, twice("other", "extra")), "base; *extra; mid < base; *other; *work < mid ! snapshots"},
	{"exchanged", "as many as the journal counts, and others", "Listing 4", closed(small, twice("other", "extra"), gone("snapshots/other")),
		"base; *extra; mid < base; *work < mid ! snapshots"},
	{"entries", "entries that no name encodes to, and files that could be a snapshot's", "Unknown files", closed(small,
		put("snapshots/notes 2", writeText("x")), put("snapshots/.hidden", writeText("x")), put("snapshots/%41", makeDir), put("snapshots/a%2fb", makeDir),
		put("snapshots/%FF", makeDir), put("snapshots/%", writeText("x")), put("snapshots/\xff", writeText("x")), put("snapshots/~", writeText("x")),
		put("snapshots/notes.txt", writeText("x")), put("snapshots/link", makeLink("base"))), ""},
	{"entries-hashed", "a directory with a mark and a digest that is not of the hashed form: it is not counted", "Names",
		closed(small, put("snapshots/x~"+strings.Repeat("5", 64), makeDir)), smallEnd + " ! snapshots/x~" + strings.Repeat("5", 64)},
	{"entries-directories", "a directory that could be a snapshot's: one too many", "Listing 4", closed(small, put("snapshots/stray", makeDir)),
		"base; mid < base; *other; *work < mid ! snapshots, snapshots/stray"},
}

// What a person has edited.
var handStores = []specimenStore{
	{"hand-fine", "files without checksum that a person has edited rightly", "metadata.json", each(handFine, handFile), ""},
	{"hand-broken", "files without checksum that break a rule", "metadata.json", each(handBroken, handFile), allDamaged(handBroken)},
	{"hand-made", "a snapshot that a person made; the header is a person's and counts nothing", "Header",
		closed(small, byHandDir("hand", handMade("hand", "")), byHandDir("é", handMade(`\u00e9`, `"readonly":true,`)), handHeader(plainHeader)),
		"base; *hand; mid < base; *other; *work < mid; ?é"},
	{"hand-header-lines", "lines follow a header of a person", "Header", behind(handHeader(plainHeader)), laterEnd},
	{"hand-header-full", "a header of a person with all members, in any order, with white space; filled is not looked at", "Header",
		closed(small, handHeader(` { "prev" : "01234567", "boot":"x", "filled":99999999, "count":3, "names":"0123456789abcdef", "nextID":500,	"txn":6, "version":2, "format":"fsmeta journal"}`)),
		smallEnd + " ! snapshots"},
	{"hand-header-half", "count without names is not known", "Header",
		closed(small, handHeader(`{"format":"fsmeta journal","version":2,"nextID":500,"count":77}`), gone("snapshots/other")), "base; mid < base; *work < mid"},
	{"hand-header-unknown", "an unknown member in it may be a typing error", "JSON",
		closed(small, handHeader(`{"format":"fsmeta journal","version":2,"nextID":500,"nextId":600}`)), smallEnd + " ! journal"},
	{"hand-header-next-id", "nextID is missing", "Header", closed(small, handHeader(`{"format":"fsmeta journal","version":2}`)), smallEnd + " ! journal"},
	{"hand-layout", "layout has other members, and white space", "layout",
		closed(small, put("layout", writeText("\n{ \"x\": [1e3], \"version\": 2,\t\"format\": \"fsmeta\" }\n\n"))), smallEnd},
}
