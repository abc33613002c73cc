// Package fault lets the system calls of a process that works on a store fail, one after the
// other, and each kind of them from some call on, with errors that the kernel may give. The
// process neither panics nor hangs, and does not lie: of a transaction that failed nothing
// is there, unless it was told that the outcome is unknown, and what was acknowledged is
// there. After a single failure it goes on; after that of a sync when the store is opened
// anew. Then come calls on one snapshot that fail for as long as the process runs, while all
// others work, disks that are really full, and a process that really has no more files.
//
//	go test ./fault                                           # about a minute: some calls of each kind
//	FSMETA_CRASH_RUNS=all go test -v -timeout 0 -run '^Test(Fault|Full|Files)' ./fault # every call, with each error
//
// FSMETA_CRASH_RUNS may also be a number, of the calls that each test tries. The calls are
// chosen at random; FSMETA_CRASH_SEED repeats a choice, which is printed. FSMETA_CRASH=1
// makes tests fail that can't run here and would be skipped: they need Linux on amd64 that lets a
// process trace its children, and root to mount disks.
package fault
