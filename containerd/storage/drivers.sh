#!/usr/bin/env bash
# Runs the tests of real snapshot drivers twice, unchanged: as the drivers are, and with the
# import path of containerd's storage package replaced by that of this folder's. Every
# test must have the same result both times. Beside other projects' drivers there are
# containerd's own, and the tests of its storage package.
#
#	drivers.sh [NAME...]     # all, or those of the names; as root, since they mount
#
# The drivers come from the Go module proxy. It needs jq, and what the drivers run:
# fuse-overlayfs, mkfs.ext4, mkfs.btrfs and mkfs.erofs. Where one is missing, tests skip, both times.
set -euo pipefail
cd -P "$(dirname "$0")"
storage=$PWD
root=$(cd ../.. && pwd)
containerd=$(cd ../cmd && GOWORK=off go list -m -f '{{.Version}}' github.com/containerd/containerd/v2)
export GOWORK=off GOFLAGS="${GOFLAGS:-} -mod=mod"
theirs=github.com/containerd/containerd/v2/core/snapshots/storage
ours=github.com/fsmeta/fsmeta/containerd/storage
tmp=$(mktemp -d)
export TMPDIR=$tmp
trap clean EXIT

# clean deletes what the tests have left, after it has unmounted what some of them leave mounted.
clean() {
	awk -v below="$tmp/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r -n 1 umount
	chmod -R u+w "$tmp"
	rm -rf "$tmp"
}

# The name of a driver, its module, and the packages with the tests that are run.
drivers() {
	cat <<-END
		fuse-overlayfs github.com/containerd/fuse-overlayfs-snapshotter/v2@v2.1.7 .
		soci github.com/awslabs/soci-snapshotter@v0.16.1 ./snapshot
		nydus github.com/containerd/nydus-snapshotter@v0.16.1 ./snapshot ./pkg/filesystem
		stargz github.com/containerd/stargz-snapshotter@v0.19.1 ./snapshot
		overlaybd github.com/containerd/accelerated-container-image@v1.4.5 ./pkg/snapshot
		containerd github.com/containerd/containerd/v2@$containerd ./core/snapshots/storage $(printf './plugins/snapshots/%s ' native overlay blockfile btrfs erofs)
	END
}

# copy MODULE@VERSION DIR copies a module's source there. What it would replace by another
# folder of its repository, which no module contains, it takes from the proxy, too.
copy() {
	local source replaced
	source=$(cd "$tmp" && go mod download -json "$1" | jq -r .Dir)
	cp -R "$source" "$2"
	chmod -R u+w "$2"
	cd "$2"
	for replaced in $(go mod edit -json | jq -r '.Replace[]? | select(.New.Version == null) | .Old.Path'); do
		go mod edit -dropreplace="$replaced"
	done
}

# swap DIR does what a driver does that changes to this package. The tests of containerd's storage
# package are part of it: in that one, our sources take the place of theirs.
swap() {
	local from=$storage
	cd "$1"
	if [ -d core/snapshots/storage ]; then
		from=$tmp/ours
		ours_beside_theirs "$from"
	fi
	grep -rl --include='*.go' "\"$theirs\"" . | xargs -r sed -i "s|\"$theirs\"|\"$ours\"|"
	go mod edit -replace="github.com/fsmeta/fsmeta=$root" -replace="$ours=$from"
	if [ -d core/snapshots/storage ]; then
		go mod edit -require="$ours@v0.0.0" # which nothing imports
		find core/snapshots/storage -name '*.go' -not -name '*_test.go' -delete
		find "$from" -maxdepth 1 -name '*.go' -not -name '*_test.go' -exec cp {} core/snapshots/storage \;
	else
		go mod tidy
	fi
}

# ours_beside_theirs DIR copies our module there. An export reads with containerd's own package, so
# that gets another name, here in containerd, for ours to be in its place.
ours_beside_theirs() {
	cp -R core/snapshots/storage core/snapshots/boltstorage
	rm core/snapshots/boltstorage/*_test.go
	cp -R "$storage" "$1"
	rm "$1"/*_test.go
	sed -i "s|\"$theirs\"|\"${theirs%/*}/boltstorage\"|" "$1"/*.go
}

# versions DIR prints the modules that a driver is built with.
versions() {
	cd "$1"
	go list -m -f '{{if not .Main}}{{.Path}} {{.Version}}{{end}}' all | sort
}

# build DIR builds all of a driver if the swap has changed the version of anything in it.
# Else building the packages that are tested is enough.
build() {
	if diff "$tmp/versions.before" "$tmp/versions.after" | grep '^<'; then
		cd "$1"
		go build ./...
	fi
}

# results DIR PACKAGE... runs tests, and prints PACKAGE TEST RESULT for each of them, and
# for each package. A package that fails is run once more: some tests depend on time.
results() {
	local package flags
	cd "$1"
	for package in "${@:2}"; do
		flags=()
		if grep -q containerd/v2/pkg/testutil "$package"/*_test.go; then
			flags=(-args -test.root)
		fi
		if ! go test -count=1 -timeout 30m -json "$package" "${flags[@]}" >"$tmp/once" 2>&1; then
			echo "$package fails: once more" >&2
			go test -count=1 -timeout 30m -json "$package" "${flags[@]}" >"$tmp/once" 2>&1 || true
		fi
		cat "$tmp/once"
	done >"$tmp/events"
	jq -rR 'fromjson? | select(.Action == "pass" or .Action == "fail" or .Action == "skip") | [.Package, .Test // "-", .Action] | @tsv' "$tmp/events" | sort
}

# compare NAME MODULE@VERSION PACKAGE... fails unless the driver builds with this package, and
# its tests have the results that they have without.
compare() {
	local name=$1 dir=$tmp/$1 begin=$SECONDS
	(copy "$2" "$dir")
	cp "$dir/go.mod" "$tmp/before.mod"
	(results "$dir" "${@:3}") >"$tmp/before"
	(versions "$dir") >"$tmp/versions.before"
	(swap "$dir")
	(versions "$dir") >"$tmp/versions.after"
	(build "$dir")
	(results "$dir" "${@:3}") >"$tmp/after"
	awk -v name="$name, $2" '$2 != "-" { n[$3]++ }
		END { printf "%s: %d tests pass, %d fail, %d skip\n", name, n["pass"], n["fail"], n["skip"] }' "$tmp/before"
	echo "$name: $(($(wc -l <"$dir/go.mod") - $(wc -l <"$tmp/before.mod"))) lines more in go.mod, $((SECONDS - begin)) s"
	if ! diff "$tmp/before" "$tmp/after" || ! grep -q 'pass$' "$tmp/before" || grep -q '"FailedBuild"' "$tmp/events"; then
		jq -rR 'fromjson? | .Output // empty' "$tmp/events" | tail -n 60
		return 1
	fi
}

tried=0
failed=()
while read -r name arguments; do
	for wanted in "${@:-$name}"; do
		[ "$name" = "$wanted" ] || continue
		tried=$((tried + 1))
		set +e
		# shellcheck disable=SC2086 # they are several
		(set -e && compare "$name" $arguments) </dev/null
		[ $? -eq 0 ] || failed+=("$name")
		set -e
	done
done < <(drivers)
echo "$tried drivers, with different results: ${failed[*]:-none}"
[ "$tried" -gt 0 ] && [ "${#failed[@]}" -eq 0 ]
