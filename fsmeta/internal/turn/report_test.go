package turn_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// logTo collects what slog.Default logs until the test ends, a line each.
func logTo(t *testing.T) *bytes.Buffer {
	var log bytes.Buffer // the handler writes under a mutex of its own
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &log
}

func wantText(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not contain %q", text, part)
		}
	}
}

// reported is what a report says of a holder in this process.
const reported = "another writer of this process has had the turn since "

func TestReportOfThisProcess(t *testing.T) {
	log := logTo(t)
	synctest.Test(t, func(t *testing.T) {
		p := start(t, t.TempDir())
		must(t, p.Take(context.Background()))
		time.Sleep(5 * time.Second)

		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		late, stop := context.WithTimeout(context.Background(), 900*time.Millisecond)
		defer stop()
		short := make(chan error)
		go func() { short <- p.TakeTurn(late) }()
		err := p.Take(ctx)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		wantText(t, err.Error(), "waited 3s", reported, "for 8s")
		if err = <-short; !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		wantText(t, err.Error(), "waited 900ms", reported, "for 5.9s")
		p.End()
		p.Release()
		p.End()
		time.Sleep(5 * time.Second) // a warning too many would come now
	})
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d warnings: %s", n, log)
	}
	wantText(t, log.String(), "level=WARN", reported, "for 6s", "waited=1s")
}

func TestReportOfAnotherProcess(t *testing.T) {
	log := logTo(t)
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		other, p := start(t, dir), start(t, dir)
		other.take()
		ctx, cancel := context.WithTimeout(context.Background(), 2500*time.Millisecond)
		defer cancel()
		queued, stop := context.WithTimeout(context.Background(), 1500*time.Millisecond)
		defer stop()
		behind := make(chan error)
		first := make(chan error)
		go func() { first <- p.Take(ctx) }()
		synctest.Wait()
		go func() { behind <- p.Take(queued) }()

		holder := fmt.Sprintf("process %d (this one, through another Store) has the lock", os.Getpid())
		if runtime.GOOS != "linux" {
			holder = "another process"
		}
		err := <-behind
		wantText(t, err.Error(), "waited 1.5s", context.DeadlineExceeded.Error(), holder)
		err = <-first
		wantText(t, err.Error(), "waited 2.5s", holder)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		p.End()
		p.End()
		other.Release()
		other.End()
		time.Sleep(5 * time.Second)
	})
	if n := strings.Count(log.String(), "\n"); n != 2 { // one for each wait
		t.Errorf("%d warnings: %s", n, log)
	}
	wantText(t, log.String(), "waited=1s", "the lock on staging/")
}

// A wait that goes on behind another one is one wait: in the queue, then for another process.
func TestOneWarningPerWait(t *testing.T) {
	log := logTo(t)
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		other, p := start(t, dir), start(t, dir)
		other.take()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		first := make(chan error)
		go func() { first <- p.Take(ctx) }()
		synctest.Wait()
		second := make(chan error)
		go func() { second <- p.Take(context.Background()) }()
		<-first // 2 s: the second has been warned, and waits for the other process now
		time.Sleep(2 * time.Second)
		other.Release()
		other.End()
		must(t, <-second)
		p.Release()
		p.End()
		p.End()
		time.Sleep(5 * time.Second)
	})
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("%d warnings: %s", n, log)
	}
}
