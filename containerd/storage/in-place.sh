#!/usr/bin/env bash
# Runs containerd's own tests of its metastore and of the snapshotters that keep their
# metadata in it, compiled with the package in this folder in place of theirs. The
# snapshotters' tests mount filesystems, so they need root.
set -euo pipefail
cd -P "$(dirname "$0")/.."
if ! command -v go >/dev/null; then
	echo "go is not in the PATH of $(id -un)" >&2
	exit 1
fi
root=$(cd .. && pwd)
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT

go mod download github.com/containerd/containerd/v2
containerd=$(go list -m -f '{{.Dir}}' github.com/containerd/containerd/v2)
cp -R "$containerd" "$tmp/containerd"
chmod -R u+w "$tmp/containerd"
theirs=$tmp/containerd/core/snapshots/storage
find "$theirs" -name '*.go' -not -name '*_test.go' -delete
find storage -name '*.go' -not -name '*_test.go' -exec cp {} "$theirs" \;

cd "$tmp/containerd"
go mod edit -require=github.com/fsmeta/fsmeta@v0.0.0 -replace="github.com/fsmeta/fsmeta=$root"
export GOFLAGS=-mod=mod GOWORK=off
go test -count=1 ./core/snapshots/storage
if [ "$(id -u)" -ne 0 ]; then
	echo "not root: the tests of the native and the overlay snapshotter were not run"
	exit
fi
go test -count=1 ./plugins/snapshots/native ./plugins/snapshots/overlay -test.root
