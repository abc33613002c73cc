// Package kill kills a process that works on a store at each of its system calls in turn,
// before the call is made and after it. After each, the store opens, all that was
// acknowledged is there, nothing is there in part, and it can be written again.
//
// So it is killed where it puts a store in the place of a bbolt file, or goes back; each call of that
// fails for want of room, too, and on ext4 and xfs the power is cut, which needs root.
//
//	go test ./kill                                                     # two minutes: some calls of each kind
//	FSMETA_CRASH_RUNS=all go test -v -timeout 0 -run '^Test(Kill|Fail|Cut)' ./kill # every call
//
// FSMETA_CRASH_RUNS may also be a number, of the calls that each test tries. The calls are
// chosen at random; FSMETA_CRASH_SEED repeats a choice, which is printed. FSMETA_CRASH=1
// makes tests fail that can't run here and would be skipped: they need Linux on amd64 that lets a
// process trace its children.
package kill
