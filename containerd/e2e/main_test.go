//go:build linux

// Package e2e tests the snapshotter from end to end: a containerd of its own runs real
// containers on it, and is compared with what ls, cat, readlink and jq find in the store.
//
// The tests need root, containerd, ctr, runc, a static busybox, jq and mkfs.ext4, and are
// skipped where something is missing, or fail if FSMETA_E2E=1 is set.
//
//	FSMETA_CONTAINERD=DIR    take containerd, ctr and its shim from there, not from PATH;
//	                         go build -o DIR/ ./containerd ./containerd-inside tool
//	                         builds those of go.mod
//	FSMETA_E2E_DIR=DIR       put the disk image there, not into the directory for temporary files
//	FSMETA_E2E_DAEMON=FILE   test this fsmeta-snapshotter, instead of building one
//	FSMETA_TEST_RUNS=N       kill the daemon N times as often
//	FSMETA_TEST_SEED=N       repeat the random choices of a run that has printed this seed
//
// # What the tests run in
//
// Everything is started in a process and a mount namespace, where /run is an empty
// tmpfs, and every snapshot is on a filesystem in a disk image: however the tests end,
// the kernel ends every process and takes away every mount with them. The test binary
// plays three parts for that, each of which starts the next: the supervisor, which makes
// and removes the directory of a run and its control groups; init, the first process
// of the namespace; and the tests.
package e2e

import (
	"fmt"
	"os"
	"testing"
)

// partVariable says which part this process plays. It is not set for the first.
const partVariable = "FSMETA_E2E_PART"

func TestMain(m *testing.M) {
	switch part := os.Getenv(partVariable); part {
	case "":
		missing = findMissing()
		if len(missing) > 0 {
			os.Exit(m.Run())
		}
		os.Exit(supervise())
	case "init":
		os.Exit(runInit())
	case "tests":
		os.Exit(m.Run())
	default:
		fmt.Fprintf(os.Stderr, "%s=%s: unset it, it is for the tests themselves\n", partVariable, part)
		os.Exit(2)
	}
}
