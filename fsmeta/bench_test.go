package fsmeta_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// benchDir returns a new directory on the filesystem to measure: below
// FSMETA_BENCH_DIR, else where temporary files are.
func benchDir(b *testing.B) string {
	b.Helper()
	top := os.Getenv("FSMETA_BENCH_DIR")
	if top == "" {
		return b.TempDir()
	}
	dir := must(os.MkdirTemp(top, "fsmeta-bench-"))
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	return dir
}

// benchStore opens a store that has the active snapshot "work" on ten parents.
func benchStore(b *testing.B) *fsmeta.Store {
	b.Helper()
	s := must(fsmeta.Open(filepath.Join(benchDir(b), "store")))
	b.Cleanup(func() { s.Close() })
	benchWrite(b, s, func(ctx context.Context) {
		parent := ""
		for i := range 10 {
			must(s.CreateActive(ctx, "key", parent, false))
			parent = fmt.Sprint("layer", i)
			must(s.Commit(ctx, "key", parent))
		}
		must(s.CreateActive(ctx, "work", parent, false))
	})
	return s
}

func benchWrite(b *testing.B, s *fsmeta.Store, fn func(ctx context.Context)) {
	b.Helper()
	err := s.WithTransaction(context.Background(), true, func(ctx context.Context) error {
		fn(ctx)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// benchmark is an operation to measure. What before does is not measured.
type benchmark struct {
	name   string
	writes bool
	before func(ctx context.Context, s *fsmeta.Store, i int)
	do     func(ctx context.Context, s *fsmeta.Store, i int)
}

var benchmarks = []benchmark{
	{"Stat", false, nil, func(ctx context.Context, s *fsmeta.Store, i int) { must(s.Stat(ctx, "work")) }},
	{"GetActive", false, nil, func(ctx context.Context, s *fsmeta.Store, i int) { must(s.GetActive(ctx, "work")) }},
	{"IDs", false, nil, func(ctx context.Context, s *fsmeta.Store, i int) { must(s.IDs(ctx)) }},
	{"NameOf", false, nil, func(ctx context.Context, s *fsmeta.Store, i int) { must(s.NameOf(ctx, "1")) }},
	{"Create", true, nil, func(ctx context.Context, s *fsmeta.Store, i int) {
		must(s.CreateActive(ctx, benchKey(i), "layer9", false))
	}},
	{"Commit", true, func(ctx context.Context, s *fsmeta.Store, i int) {
		must(s.CreateActive(ctx, benchKey(i), "layer9", false))
	}, func(ctx context.Context, s *fsmeta.Store, i int) {
		must(s.Commit(ctx, benchKey(i), fmt.Sprintf("sha256:%064d", i)))
	}},
	{"Remove", true, func(ctx context.Context, s *fsmeta.Store, i int) {
		must(s.CreateActive(ctx, benchKey(i), "layer9", false))
	}, func(ctx context.Context, s *fsmeta.Store, i int) {
		must(s.Remove(ctx, benchKey(i)))
	}},
	{"Update", true, nil, func(ctx context.Context, s *fsmeta.Store, i int) {
		must(s.Update(ctx, fsmeta.Info{Name: "work", Labels: map[string]string{"label": fmt.Sprint(i)}}, "labels.label"))
	}},
	{"SetUsage", true, nil, func(ctx context.Context, s *fsmeta.Store, i int) {
		must(s.SetUsage(ctx, "work", fsmeta.Usage{Size: int64(i)}))
	}},
}

func benchKey(i int) string { return fmt.Sprintf("default/%d/extract", i) }

// BenchmarkInside measures operations inside a long transaction.
func BenchmarkInside(b *testing.B) {
	for _, bm := range benchmarks {
		for _, writable := range []bool{false, true} {
			if bm.writes && !writable {
				continue
			}
			b.Run(fmt.Sprintf("%s/writable=%v", bm.name, writable), func(b *testing.B) {
				s := benchStore(b)
				ctx, tx, err := s.TransactionContext(context.Background(), writable)
				if err != nil {
					b.Fatal(err)
				}
				defer tx.Rollback()
				bm.run(b, func(i int) { bm.before(ctx, s, i) }, func(i int) { bm.do(ctx, s, i) })
			})
		}
	}
}

// BenchmarkAlone measures each operation as a transaction of its own. Those that
// write are durable.
func BenchmarkAlone(b *testing.B) {
	for _, bm := range benchmarks {
		b.Run(bm.name, func(b *testing.B) {
			s := benchStore(b)
			do := func(i int) { bm.do(context.Background(), s, i) }
			if bm.writes {
				do = func(i int) { benchWrite(b, s, func(ctx context.Context) { bm.do(ctx, s, i) }) }
			}
			bm.run(b, func(i int) { benchWrite(b, s, func(ctx context.Context) { bm.before(ctx, s, i) }) }, do)
		})
	}
}

func (bm benchmark) run(b *testing.B, before, do func(i int)) {
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if bm.before != nil {
			b.StopTimer()
			before(i)
			b.StartTimer()
		}
		do(i)
	}
}

// BenchmarkTransaction measures what begins and ends transactions, without any
// operation in them, and a rollback with one.
func BenchmarkTransaction(b *testing.B) {
	for _, bm := range []struct {
		name     string
		writable bool
		do       func(ctx context.Context, s *fsmeta.Store, tx fsmeta.Transactor) error
	}{
		{"Read", false, func(_ context.Context, _ *fsmeta.Store, tx fsmeta.Transactor) error { return tx.Rollback() }},
		{"Empty", true, func(_ context.Context, _ *fsmeta.Store, tx fsmeta.Transactor) error { return tx.Commit() }},
		{"Rollback", true, func(ctx context.Context, s *fsmeta.Store, tx fsmeta.Transactor) error {
			must(s.CreateActive(ctx, "new", "layer9", false))
			return tx.Rollback()
		}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			s := benchStore(b)
			b.ReportAllocs()
			for b.Loop() {
				ctx, tx, err := s.TransactionContext(context.Background(), bm.writable)
				if err != nil {
					b.Fatal(err)
				}
				if err := bm.do(ctx, s, tx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCreate measures durable creates, each in a transaction of its own, by
// several writers at once. The time is that of one create.
func BenchmarkCreate(b *testing.B) {
	for _, writers := range []int{1, 4, 16} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := benchStore(b)
			todo := make(chan int)
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					for i := range todo {
						benchWrite(b, s, func(ctx context.Context) {
							must(s.CreateActive(ctx, benchKey(i), "layer9", false))
						})
					}
				})
			}
			for i := 0; b.Loop(); i++ {
				todo <- i
			}
			close(todo)
			wg.Wait()
		})
	}
}

// bigStore makes a store of 10,000 snapshots and returns its directory.
func bigStore(b *testing.B) string {
	b.Helper()
	dir := filepath.Join(benchDir(b), "store")
	s := must(fsmeta.Open(dir))
	for i := range 10 {
		benchWrite(b, s, func(ctx context.Context) {
			parent := ""
			for j := range 1000 {
				name := fmt.Sprintf("sha256:%060d", i*1000+j)
				must(s.CreateActive(ctx, "key", parent, false))
				must(s.CommitWith(ctx, "key", name, fsmeta.WithLabels(map[string]string{"containerd.io/snapshot.ref": name})))
				if parent = name; j%10 == 9 {
					parent = ""
				}
			}
		})
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	return dir
}

// BenchmarkBig measures what a large store could make slow: walks, and what a
// process that starts asks first.
func BenchmarkBig(b *testing.B) {
	dir := bigStore(b)
	b.Run("Walk/snapshots=10000", func(b *testing.B) {
		s := must(fsmeta.Open(dir))
		defer s.Close()
		walk := func() (n int) {
			if err := s.Walk(context.Background(), func(context.Context, fsmeta.Info) error { n++; return nil }); err != nil || n != 10_000 {
				b.Fatal(n, err)
			}
			return n
		}
		walk() // what is measured is warm
		b.ReportAllocs()
		for b.Loop() {
			walk()
		}
	})
	b.Run("ColdWalk/snapshots=10000", func(b *testing.B) {
		for b.Loop() {
			s := must(fsmeta.Open(dir, fsmeta.ReadOnly()))
			n := 0
			for _, err := range s.All(context.Background()) {
				if n++; err != nil {
					b.Fatal(err)
				}
			}
			s.Close()
		}
	})
	for name, opts := range map[string][]fsmeta.Option{"ColdStat": nil, "ColdStatReadOnly": {fsmeta.ReadOnly()}} {
		b.Run(name+"/snapshots=10000", func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				s := must(fsmeta.Open(dir, opts...))
				must(s.Stat(context.Background(), fmt.Sprintf("sha256:%060d", i%10_000)))
				s.Close()
			}
		})
	}
}
