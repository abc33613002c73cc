// Package atomic publishes files, symlinks and directories in one step, and
// makes them durable in another.
//
// Two words are used with one meaning each. Atomic: a reader, at any time
// or after a crash, finds the former or the new state and nothing between.
// Durable: a crash, of the machine too, leaves what was there before it. A
// rename is atomic, and not durable before the directory is synced.
//
// What is assumed: that rename(2) is atomic on the filesystem, and that a sync
// which returns nil has reached the disk. Network filesystems may promise less;
// on some, a rename can be carried out and still return an error.
//
// Cleaning up: each function removes what it staged when it fails. What a
// crash left is for the caller to remove, under a lock, from the directory
// that was given for temporary files, and from those in which [Symlink] or
// [Exchange] was at work.
//
// Package fsmeta is built on this one. Drivers may use it by itself: its interface
// is as stable as that of fsmeta.
package atomic
