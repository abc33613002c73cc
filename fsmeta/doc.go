// Package fsmeta keeps the metadata of container snapshot drivers in the filesystem
// itself, with no database: which snapshots there are, by name and identifier, what
// each stands on, its state, labels and usage. The content of the snapshots is the
// driver's own.
//
// Every snapshot is a directory with a metadata.json and a parent symlink. Whoever
// writes holds an flock over staging/, builds directories there, and renames each
// into place. A journal with one text line per transaction makes that atomic and
// durable: the synced line is the commit, and the renames follow it. All of it can
// be read with ls, cat, readlink and jq; layout.md at the root of the repository
// specifies it.
//
// # Words
//
//   - snapshot: has a name and an identifier. It is active, then committed; the name
//     of an active one is its key.
//   - parent: the committed snapshot that another stands on.
//   - transaction: read-only or writable; carried by a context.
//   - tree: the directories under snapshots/.
//   - journal: the transactions since the last checkpoint.
//   - staging: where directories are built, and where they go to be deleted or used again.
//   - checkpoint: syncs the tree, and drops the journal's lines.
//   - replay: brings the tree up to the journal.
//
// # Guarantees
//
//   - A transaction whose Commit returned nil survives a power cut, and is seen by
//     every transaction that begins afterwards, in every process. (Of a [Relaxed] Store, a
//     tenth of a second later.)
//   - Of a transaction whose Commit failed, or that never got there, nothing is ever
//     seen; unless the error is [ErrOutcomeUnknown], then all of it or nothing.
//   - One writer at a time, over all goroutines and processes; readers see a point
//     in time, wait for nobody, and nobody waits for them.
//   - An identifier is never handed out twice.
//   - A damaged snapshot damages nothing but itself.
//
// # Limits
//
// The store is for local filesystems that keep to POSIX: ext4, xfs, btrfs, and, as
// far as they go, tmpfs and overlayfs; not for network filesystems. Everything that
// was read stays in memory, about 1.1 kilobytes for a snapshot.
package fsmeta
