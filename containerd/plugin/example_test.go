//go:build linux

package plugin_test

import (
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	_ "github.com/fsmeta/fsmeta/containerd/plugin" // registers it
)

// The import alone makes the snapshotter one of containerd's. A main package that imports containerd's own
// builtins and command besides is a containerd that has it: see the package's comment.
func Example() {
	for _, r := range registry.Graph(func(r *plugin.Registration) bool { return r.Type != plugins.SnapshotPlugin }) {
		if strings.Contains(r.ID, "fsmeta") {
			fmt.Println(r.URI())
		}
	}
	// Output: io.containerd.snapshotter.v1.fsmeta
}
