// Package powercut cuts the power under a store, on ext4, xfs and btrfs, and judges what is
// left. It has tests alone:
//
//	go test -count=1 -v ./powercut      # sixty cuts of each filesystem, in about a minute
//	FSMETA_CRASH_RUNS=1000 go test -count=1 -v -timeout 3h ./powercut
//
// The second is the long form, with a thousand cuts of each filesystem. More settings:
//
//	FSMETA_CRASH=1         fail, rather than skip, where something is missing that the tests need
//	FSMETA_CRASH_SEED=17   the random choices of a run that has printed this seed; what the
//	                       kernel does meanwhile is not repeated
//	-artifacts             keep the images that were judged wrong, and the logs that say why
//
// They need Linux, root, /dev/fuse, loop devices, and mkfs.ext4, mkfs.xfs and mkfs.btrfs (in
// Debian's e2fsprogs, xfsprogs and btrfs-progs), and are skipped where these are missing.
//
// # How it works
//
// The test is the disk: it serves one file through FUSE, a loop device makes a block device
// of it, and it records every write and every flush that reaches it, in order. What runs on
// the filesystem is another process, the machine, with the workloads in processes of their
// own. They say what they are about to commit, and what was acknowledged, to the test, and
// wait until it has put that in its place between the writes and flushes.
//
// So for every point of the record it is known what the disk was told to have for good,
// what it may have or not, and what was promised. A cut takes a point, an image of all that
// was flushed before and of any of the writes since, mounts it, and asks the workload's
// History for its verdict.
//
// That the verdicts can be wrong ones is tried, too: the machine is built once more from a
// library that does not sync the journal, or not the tree, renames too early, or syncs
// relaxed commits too late, and each of that must be seen on each filesystem.
package powercut
