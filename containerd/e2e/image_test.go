//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// image is a container image.
type image struct {
	name    string
	layers  []blob
	command []string // that it runs; a shell, where there is none
}

func newImage(t testing.TB, name string, layers []layer) *image {
	t.Helper()
	im := &image{name: "e2e.test/" + name + ":1"}
	for _, l := range layers {
		im.layers = append(im.layers, l.blob(t))
	}
	return im
}

// on returns an image with one more layer on this one.
func (im *image) on(name string, top blob) *image {
	return &image{name: "e2e.test/" + name + ":1", layers: append(im.layers[:len(im.layers):len(im.layers)], top)}
}

// chainIDs returns the names of the snapshots that the layers are unpacked to, the lowest
// first.
func (im *image) chainIDs() (names []string) {
	var diffIDs []digest.Digest
	for _, l := range im.layers {
		diffIDs = append(diffIDs, l.diffID)
	}
	for _, id := range identity.ChainIDs(diffIDs) {
		names = append(names, id.String())
	}
	return names
}

// top returns the name of the snapshot that the highest layer is unpacked to.
func (im *image) top() string {
	chain := im.chainIDs()
	return chain[len(chain)-1]
}

// save writes the image as an archive of an OCI layout to a new file in a directory, and
// returns its path.
func (im *image) save(t testing.TB, dir string) string {
	t.Helper()
	out, err := os.CreateTemp(dir, "image-*.tar")
	must(t, err)
	w := tar.NewWriter(out)
	add := func(name string, data []byte) {
		must(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data)), ModTime: modified}))
		_, err := w.Write(data)
		must(t, err)
	}
	index, blobs := im.layout(t)
	add(ocispec.ImageLayoutFile, encode(t, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}))
	for _, data := range blobs {
		d := digest.FromBytes(data)
		add(filepath.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), data)
	}
	add(ocispec.ImageIndexFile, index)
	must(t, w.Close())
	must(t, out.Close())
	return out.Name()
}

// layout returns the image's index and blobs.
func (im *image) layout(t testing.TB) (index []byte, blobs [][]byte) {
	t.Helper()
	put := func(mediaType string, data []byte) ocispec.Descriptor {
		blobs = append(blobs, data)
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	}
	config := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   ocispec.ImageConfig{Cmd: im.command, Env: []string{"PATH=/bin"}},
		RootFS:   ocispec.RootFS{Type: "layers"},
	}
	if im.command == nil {
		config.Config.Cmd = []string{"/bin/sh"}
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range im.layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		manifest.Layers = append(manifest.Layers, put(ocispec.MediaTypeImageLayerGzip, l.data))
	}
	manifest.Config = put(ocispec.MediaTypeImageConfig, encode(t, config))
	top := put(ocispec.MediaTypeImageManifest, encode(t, manifest))
	top.Platform = &config.Platform
	top.Annotations = map[string]string{"io.containerd.image.name": im.name, ocispec.AnnotationRefName: "1"}
	return encode(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{top},
	}), blobs
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, json.NewEncoder(&b).Encode(v))
	return b.Bytes()
}
