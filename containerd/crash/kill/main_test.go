//go:build linux && amd64

package kill

import (
	"os"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/crash/apart"
	"github.com/fsmeta/fsmeta/containerd/crash/kill/traced"
)

func TestMain(m *testing.M) {
	traced.Main()
	portMain()
	os.Exit(apart.Main(m))
}
