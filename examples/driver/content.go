package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// readLayer hands the layer to read, as an uncompressed tar stream whether it is
// a directory, a tar or a tar.gz, and returns the digest of the whole stream.
func readLayer(name string, read func(io.Reader) error) (digest string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("layer %s: %w", name, err)
		}
	}()
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	buffered := bufio.NewReader(file)
	var stream io.Reader = buffered
	if info.IsDir() {
		reader, writer := io.Pipe()
		go func() { writer.CloseWithError(writeTar(writer, os.DirFS(name))) }()
		defer reader.Close() // ends writeTar
		stream = reader
	} else if magic, _ := buffered.Peek(2); string(magic) == "\x1f\x8b" {
		if stream, err = gzip.NewReader(buffered); err != nil {
			return "", err
		}
	}
	sum := sha256.New()
	stream = io.TeeReader(stream, sum)
	if err := read(stream); err != nil {
		return "", err
	}
	_, err = io.Copy(io.Discard, stream) // what read left, such as padding
	return fmt.Sprintf("sha256:%x", sum.Sum(nil)), err
}

// chain names a layer with all that is below it, as OCI's chainID does.
func chain(parent, digest string) string {
	if parent == "" {
		return digest
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(parent+" "+digest)))
}

// writeTar writes a directory as a tar stream, without owners and times, so that
// the same content always makes the same layer.
func writeTar(w io.Writer, dir fs.FS) error {
	archive := tar.NewWriter(w)
	err := fs.WalkDir(dir, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		target, _ := fs.ReadLink(dir, name) // "" for all but symlinks
		header, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		err = archive.WriteHeader(&tar.Header{
			Typeflag: header.Typeflag, Name: name, Linkname: target, Mode: header.Mode, Size: header.Size,
		})
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		file, err := dir.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = io.Copy(archive, file)
		return err
	})
	if err != nil {
		return err
	}
	return archive.Close()
}

// unpack writes the archive into the empty directory dir, and measures it. When
// it returns nil, all of it is on disk. It leaves out owners, times and extended
// attributes, and refuses whiteouts, devices and pipes.
func unpack(stream io.Reader, dir string) (usage fsmeta.Usage, err error) {
	// A Root refuses every path that leaves dir, through "..", an absolute path
	// or a symlink of the layer itself.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return usage, err
	}
	defer root.Close()
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return usage, err
		}
		if err := unpackEntry(root, header, archive); err != nil {
			return usage, fmt.Errorf("%q: %w", header.Name, err)
		}
	}
	// The files are synced. Now that directories have all their names, they are.
	err = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		usage.Inodes++
		usage.Size += info.Size()
		if entry.IsDir() {
			return atomic.SyncDir(name)
		}
		return nil
	})
	return usage, err
}

func unpackEntry(root *os.Root, header *tar.Header, content io.Reader) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil // a comment, from git archive
	}
	name, mode := path.Clean(header.Name), header.FileInfo().Mode()
	if strings.HasPrefix(path.Base(name), ".wh.") {
		return errors.New("whiteouts are not supported")
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	// A second entry of a name replaces the first, and isn't written to where
	// that leads if it is a symlink. Directories are merged.
	first, err := root.Lstat(name)
	if err == nil && !(first.IsDir() && mode.IsDir()) {
		if err := root.Remove(name); err != nil {
			return err
		}
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, mode.Perm()|0o700) // this driver's to enter and to delete
	case tar.TypeSymlink:
		return root.Symlink(header.Linkname, name)
	case tar.TypeLink:
		return root.Link(header.Linkname, name)
	case tar.TypeReg:
		file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer file.Close()
		if _, err := io.Copy(file, content); err != nil {
			return err
		}
		return errors.Join(file.Chmod(mode), file.Sync())
	}
	return fmt.Errorf("entries of type %q are not supported", header.Typeflag)
}
