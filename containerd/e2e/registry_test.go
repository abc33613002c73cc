//go:build linux

package e2e

import (
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// serveRegistry serves an image over HTTP, as a registry does, until the test ends. It
// returns the name under which the image can be pulled.
func (im *image) serveRegistry(t testing.TB) (name string) {
	t.Helper()
	_, blobs := im.layout(t)
	byDigest := map[string][]byte{}
	for _, data := range blobs {
		byDigest[digest.FromBytes(data).String()] = data
	}
	manifest := blobs[len(blobs)-1]
	byDigest["1"] = manifest // the tag
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, ok := byDigest[path.Base(r.URL.Path)]
		switch {
		case r.URL.Path == "/v2/":
			return
		case !ok:
			http.NotFound(w, r)
			return
		case strings.Contains(r.URL.Path, "/manifests/"):
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		}
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(data).String())
		_, _ = w.Write(data) // the client notices what is missing
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://") + "/pulled:1"
}
