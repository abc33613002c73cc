#!/usr/bin/env bash
# Runs the tests of real snapshot drivers twice, unchanged: as the drivers are, and with the
# import path of containerd's storage package replaced by that of this folder's. Every
# test must have the same result both times, and the whole driver must build. Beside other projects'
# drivers there are containerd's own, and the tests of its storage package.
#
#	drivers.sh [NAME...]     # all, or those that begin with a NAME; as root, since they mount
#
# The drivers come from the Go module proxy. It needs jq, and what the drivers run:
# fuse-overlayfs, mkfs.ext4, mkfs.btrfs and mkfs.erofs. Where one is missing, tests skip, both times.
set -euo pipefail
cd -P "$(dirname "$0")"
storage=$PWD
root=$(cd ../.. && pwd)
containerd=$(cd .. && GOWORK=off go list -m -f '{{.Version}}' github.com/containerd/containerd/v2)
export GOWORK=off GOFLAGS="${GOFLAGS:-} -mod=mod"
theirs=github.com/containerd/containerd/v2/core/snapshots/storage
ours=github.com/fsmeta/fsmeta/containerd/storage
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT

# The name of a driver, its module, whether its tests know -test.root, and the packages whose tests are run.
drivers() {
	cat <<-END
		fuse-overlayfs github.com/containerd/fuse-overlayfs-snapshotter/v2@v2.1.7 -test.root .
		soci github.com/awslabs/soci-snapshotter@v0.16.1 -test.root ./snapshot
		nydus github.com/containerd/nydus-snapshotter@v0.16.1 - ./snapshot ./pkg/snapshot ./pkg/filesystem ./pkg/tarfs
		stargz github.com/containerd/stargz-snapshotter@v0.19.1 -test.root ./snapshot
		containerd github.com/containerd/containerd/v2@$containerd -test.root ./plugins/snapshots/{native,overlay,blockfile,btrfs,erofs}
		containerd-storage github.com/containerd/containerd/v2@$containerd - ./core/snapshots/storage
	END
}

# copy MODULE@VERSION DIR copies a module's source there. What it would replace by another
# folder of its repository, which no module contains, it takes from the proxy, too.
copy() {
	local source replaced
	source=$(cd "$tmp" && go mod download -json "$1" | jq -r .Dir)
	cp -R "$source" "$2"
	chmod -R u+w "$2"
	for replaced in $(cd "$2" && go mod edit -json | jq -r '.Replace[]? | select(.New.Version == null) | .Old.Path'); do
		(cd "$2" && go mod edit -dropreplace="$replaced")
	done
}

# swap DIR does what a driver does that changes to this package. In containerd itself, the tests
# of the storage package are part of it: there the sources of this package take the place of theirs.
swap() {
	cd "$1"
	grep -rl --include='*.go' "\"$theirs\"" . | xargs -r sed -i "s|\"$theirs\"|\"$ours\"|"
	go mod edit -require="$ours@v0.0.0" -replace="$ours=$storage" -replace="github.com/fsmeta/fsmeta=$root"
	if [ -d core/snapshots/storage ]; then
		find core/snapshots/storage -name '*.go' -not -name '*_test.go' -delete
		find "$storage" -maxdepth 1 -name '*.go' -not -name '*_test.go' -exec cp {} core/snapshots/storage \;
	fi
}

# results DIR FLAG PACKAGE... runs tests, and prints PACKAGE TEST RESULT for each of them, and
# for each package.
results() {
	local flag=()
	if [ "$2" != - ]; then
		flag=(-args "$2")
	fi
	cd "$1"
	go test -count=1 -json "${@:3}" "${flag[@]}" 2>"$tmp/stderr" >"$tmp/events" || true
	jq -r 'select(.Action == "pass" or .Action == "fail" or .Action == "skip") | [.Package, .Test // "-", .Action] | @tsv' "$tmp/events" | sort
}

# compare NAME MODULE@VERSION FLAG PACKAGE... fails unless the driver builds with this package, and
# its tests have the results that they have without.
compare() {
	local name=$1 module=$2 dir=$tmp/$1 begin=$SECONDS
	copy "$module" "$dir"
	(cd "$dir" && go mod tidy && cp go.mod "$tmp/before.mod")
	(results "$dir" "${@:3}") >"$tmp/before"
	(swap "$dir")
	(cd "$dir" && go mod tidy && go build ./...)
	(results "$dir" "${@:3}") >"$tmp/after"
	echo "$name, $module: $(awk '$2 != "-" { n[$3]++ } END { printf "%d tests pass, %d fail, %d skip", n["pass"], n["fail"], n["skip"] }' "$tmp/before") ($((SECONDS - begin)) s)"
	diff "$tmp/before.mod" "$dir/go.mod" | grep '^[<>]' || true
	if ! grep -q '	pass$' "$tmp/before"; then
		echo "$name: no test passes as it is:"
		tail -n 40 "$tmp/stderr"
		return 1
	fi
	diff "$tmp/before" "$tmp/after"
}

failed=0
while read -r name arguments; do
	for wanted in "${@:-}"; do
		if [[ $name == "$wanted"* ]]; then
			set +e
			(set -e; compare "$name" $arguments) </dev/null
			[ $? -eq 0 ] || { failed=$((failed + 1)); echo "$name: NOT THE SAME"; }
			set -e
		fi
	done
done < <(drivers)
[ "$failed" -eq 0 ]
