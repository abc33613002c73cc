//go:build linux

// Command bench measures the metadata store of this module against containerd's, which
// keeps it in a bbolt file, with the same calls on the same filesystem, in turns.
//
//	go run . [-dir DIR] [-svg FILE] [-markdown FILE]
//	go run . -images ext4,xfs,btrfs,tmpfs   # as root, on fresh filesystems
//
// It prints a table of both times, their ratio, and what was promised, and ends with
// an error, and without a table, if anything that it measures fails.
//
// main.go has the flags, operations.go the table of what is measured; reading.go,
// writing.go, children.go, beside.go and systemcalls.go say how. measure.go takes turns
// and statistics.go sums up. images.go makes filesystems.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
)

func main() {
	beChild()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", err)
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

// options are what the flags say.
type options struct {
	sizes
	dir, imageDir, svg, markdown string
	quick                        bool
	images                       []image
	pattern                      *regexp.Regexp
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.dir, "dir", "", "measure in `DIR`, on the filesystem it is on (default: where temporary files are)")
	list := flags.String("images", "", "measure on fresh `FILESYSTEMS`, such as ext4,xfs,btrfs,tmpfs (needs root)")
	flags.StringVar(&o.imageDir, "image-dir", os.TempDir(), "make the files for -images in `DIR`")
	flags.StringVar(&o.svg, "svg", "", "draw the ratios to `FILE`")
	flags.StringVar(&o.markdown, "markdown", "", "write the tables to `FILE` (default: standard output)")
	rounds := flags.Int("rounds", 0, "measure `N` pairs of batches (default 15, with -quick 2)")
	quick := flags.Bool("quick", false, "only show that everything works: small stores, few rounds")
	pattern := flags.String("run", "", "measure only the operations with names that match `REGEXP`")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("there are no arguments, but there is %q", flags.Arg(0))
	}
	o.sizes = fullSizes
	if *quick {
		o.sizes = quickSizes
	}
	o.quick = *quick
	flags.Visit(func(f *flag.Flag) {
		if f.Name == "rounds" {
			o.rounds = *rounds
		}
	})
	if o.rounds < 1 {
		return o, fmt.Errorf("-rounds: %d is less than one", o.rounds)
	}
	if o.pattern, err = regexp.Compile(*pattern); err != nil {
		return o, fmt.Errorf("-run: %w", err)
	}
	if *list != "" {
		if o.dir != "" {
			return o, errors.New("-dir and -images exclude one another")
		}
		o.images, err = parseImages(*list)
	}
	return o, err
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	for _, file := range []string{o.svg, o.markdown} { // before everything else, not after
		if _, err := os.Stat(filepath.Dir(file)); err != nil {
			return fmt.Errorf("no file can be written there: %w", err)
		}
	}
	r := report{Rounds: o.rounds, Quick: o.quick}
	if r.Machine, err = thisMachine(); err != nil {
		return err
	}
	if r.Filesystems, err = o.measureAll(ctx, stderr); err != nil {
		return err
	}
	if r.Quick {
		r.dropTargets()
	}
	if o.svg != "" {
		if err := r.draw(o.svg); err != nil {
			return err
		}
	}
	if o.markdown != "" {
		return os.WriteFile(o.markdown, []byte(r.markdown()), 0o666)
	}
	_, err = io.WriteString(stdout, r.markdown())
	return err
}

// measureAll measures on every filesystem that is asked for.
func (o options) measureAll(ctx context.Context, progress io.Writer) ([]filesystem, error) {
	if o.images == nil {
		fs, err := o.measureDir(ctx, progress)
		return []filesystem{fs}, err
	}
	if err := available(o.images, o.imageDir); err != nil {
		return nil, err
	}
	var all []filesystem
	for _, im := range o.images {
		err := im.use(ctx, o.imageDir, func(dir, detail string) error {
			fs, err := o.measureIn(ctx, dir, im.name, detail, progress)
			all = append(all, fs)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", im.name, err)
		}
	}
	return all, nil
}

// measureDir measures in a new directory in the one that is asked for.
func (o options) measureDir(ctx context.Context, progress io.Writer) (_ filesystem, err error) {
	dir, err := os.MkdirTemp(o.dir, "fsmeta-bench-")
	if err != nil {
		return filesystem{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	kind, special, err := filesystemOf(dir)
	if err != nil {
		return filesystem{}, err
	}
	detail := "an existing filesystem"
	if special != "" {
		detail += ", " + special
	}
	return o.measureIn(ctx, dir, kind, detail, progress)
}
