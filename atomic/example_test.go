package atomic_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"

	"github.com/fsmeta/fsmeta/atomic"
)

// A directory is built out of sight, and appears as a whole. After the last sync no power cut takes it back.
func Example() {
	dir, err := os.MkdirTemp("", "atomic")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	staging, layers := filepath.Join(dir, "staging"), filepath.Join(dir, "layers")
	for _, path := range []string{staging, layers} {
		if err := atomic.MkdirAll(path, 0o700); err != nil {
			log.Fatal(err)
		}
	}

	layer := filepath.Join(layers, "sha256:4f53")
	build := func() error {
		tmp, err := os.MkdirTemp(staging, "layer-")
		if err != nil {
			return err
		}
		if err := atomic.WriteFile(filepath.Join(tmp, "size"), staging, []byte("4096\n")); err != nil {
			return err
		}
		if err := atomic.SyncDir(tmp); err != nil { // what is in it, before its name
			return err
		}
		if err := atomic.RenameNew(tmp, layer); err != nil { // atomic
			return errors.Join(err, os.RemoveAll(tmp))
		}
		return atomic.SyncDir(layers) // durable
	}
	fmt.Println("made:", build())
	fmt.Println("made twice:", errors.Is(build(), fs.ErrExist))

	size, err := os.ReadFile(filepath.Join(layer, "size"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("size: %s", size)
	// Output:
	// made: <nil>
	// made twice: true
	// size: 4096
}
