package atomic

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// makeTree makes what words say: "d/" is a directory, "f=text" a file and
// "l->target" a symlink.
func makeTree(t *testing.T, words string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for word := range strings.FieldsSeq(words) {
		var err error
		if name, text, ok := strings.Cut(word, "="); ok {
			err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
		} else if name, target, ok := strings.Cut(word, "->"); ok {
			err = os.Symlink(target, filepath.Join(dir, name))
		} else {
			err = os.Mkdir(filepath.Join(dir, word), 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tree returns what is in dir, in the words of makeTree.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var words []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := path[len(dir)+1:]
		switch entry.Type() {
		case fs.ModeDir:
			words = append(words, name+"/")
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			words = append(words, name+"->"+target)
			return err
		default:
			text, err := os.ReadFile(path)
			words = append(words, name+"="+string(text))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(words, " ")
}

func wantLinkError(t *testing.T, err, want error) {
	t.Helper()
	var linkErr *os.LinkError
	if !errors.As(err, &linkErr) || linkErr.Op == "" || linkErr.Old == "" || linkErr.New == "" || !errors.Is(err, want) {
		t.Errorf("got error %v, want an *os.LinkError: %v", err, want)
	}
}

type renameTest struct {
	before   string // the tree
	from, to string
	after    string // the tree, "" where there is to be an error
	want     error  // the error
}

// runRenames runs the tests with each way to do it. Where there is an error,
// the tree is to be as it was.
func runRenames(t *testing.T, ways map[string]func(from, to string) error, tests []renameTest) {
	for _, way := range slices.Sorted(maps.Keys(ways)) {
		for _, test := range tests {
			t.Run(fmt.Sprintf("%s/%s: %s to %s", way, test.before, test.from, test.to), func(t *testing.T) {
				dir := makeTree(t, test.before)
				err := ways[way](dir+"/"+test.from, dir+"/"+test.to)
				after := test.after
				if test.want != nil {
					wantLinkError(t, err, test.want)
					after = test.before
				} else if err != nil {
					t.Error(err)
				}
				if got := tree(t, dir); got != after {
					t.Errorf("got %q, want %q", got, after)
				}
			})
		}
	}
}

func TestRenameNew(t *testing.T) {
	ways := map[string]func(from, to string) error{
		"RenameNew": RenameNew,
		"steps":     renameNewInSteps,
	}
	runRenames(t, ways, []renameTest{
		{before: "a=1", from: "a", to: "b", after: "b=1"},
		{before: "a/ a/f=1", from: "a", to: "b", after: "b/ b/f=1"},
		{before: "a->x", from: "a", to: "b", after: "b->x"},
		{before: "a=1 d/", from: "a", to: "d/b", after: "d/ d/b=1"},

		{before: "a=1 b=2", from: "a", to: "b", want: fs.ErrExist},
		{before: "a=1 b/", from: "a", to: "b", want: fs.ErrExist},
		{before: "a/ b=2", from: "a", to: "b", want: fs.ErrExist},
		{before: "a/ b/", from: "a", to: "b", want: fs.ErrExist},
		{before: "a/ b/ b/f=1", from: "a", to: "b", want: fs.ErrExist},
		{before: "a=1 b->missing", from: "a", to: "b", want: fs.ErrExist},
		{before: "a/ b->a", from: "a", to: "b", want: fs.ErrExist},
		{before: "a=1", from: "a", to: "a", want: fs.ErrExist},
		{before: "b=1", from: "a", to: "c", want: fs.ErrNotExist},
		{before: "a=1", from: "a", to: "d/b", want: fs.ErrNotExist},
		{before: "a=1 f=2", from: "a", to: "f/b", want: syscall.ENOTDIR},
		{before: "a/", from: "a", to: "a/b", want: syscall.EINVAL},
	})
}

func TestExchange(t *testing.T) {
	ways := map[string]func(from, to string) error{
		"Exchange": Exchange,
		"steps":    exchangeInSteps,
	}
	runRenames(t, ways, []renameTest{
		{before: "a=1 b=2", from: "a", to: "b", after: "a=2 b=1"},
		{before: "a/ a/new=1 b/ b/old=2", from: "a", to: "b", after: "a/ a/old=2 b/ b/new=1"},
		{before: "a/ a/new=1 b/ b/old=2", from: "a/", to: "b/", after: "a/ a/old=2 b/ b/new=1"},
		{before: "a->x b/ b/f=2", from: "a", to: "b", after: "a/ a/f=2 b->x"},
		{before: "b=2 d/ d/a=1", from: "d/a", to: "b", after: "b=1 d/ d/a=2"},

		// Where a is missing, the steps have moved b already, and put it back.
		{before: "b=2", from: "a", to: "b", want: fs.ErrNotExist},
		{before: "b/ b/f=2", from: "a", to: "b", want: fs.ErrNotExist},
		{before: "a=1", from: "a", to: "b", want: fs.ErrNotExist},
		{before: "a=1", from: "a", to: "d/b", want: fs.ErrNotExist},
		{before: "a/ a/b=1", from: "a", to: "a/b", want: syscall.EINVAL},
		{before: "b/ b/a=1", from: "b/a", to: "b", want: syscall.EINVAL},
	})
}

// What a crash left may be the only copy of what was published.
func TestExchangeInStepsKeepsLeftover(t *testing.T) {
	for _, before := range []string{
		"a=1 a.old=3 b=2",
		"a/ a.old/ b/",
		"a=1 a.old->missing b=2",
		"a=1 a.old=2", // a crash after the first step
		"a.old=2 b=1", // a crash after the second
	} {
		t.Run(before, func(t *testing.T) {
			dir := makeTree(t, before)
			wantLinkError(t, exchangeInSteps(dir+"/a", dir+"/b"), fs.ErrExist)
			if got := tree(t, dir); got != before {
				t.Errorf("got %q, want %q", got, before)
			}
		})
	}
}

// retryEINTR is tested here since no signal can be timed to interrupt a rename.
func TestRetryEINTR(t *testing.T) {
	calls := 0
	err := retryEINTR(func() error {
		if calls++; calls < 3 {
			return syscall.EINTR
		}
		return syscall.EIO
	})
	if calls != 3 || err != syscall.EIO {
		t.Errorf("got %d calls, %v", calls, err)
	}
}
