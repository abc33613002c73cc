package lock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/fsmeta/fsmeta/lock"
)

// One program at a time works in a directory. Another says so after a while, rather than waiting for ever.
func Example() {
	dir, err := os.MkdirTemp("", "lock")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	unlock, err := lock.New(dir).Lock(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("locked")

	// In this process or in another: it makes no difference.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err = lock.New(dir).Lock(ctx)
	fmt.Println("given up:", errors.Is(err, context.DeadlineExceeded))

	if err := unlock(); err != nil {
		log.Fatal(err)
	}
	unlock, ok, err := lock.New(dir).TryLock()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("free again:", ok)
	if err := unlock(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// locked
	// given up: true
	// free again: true
}
