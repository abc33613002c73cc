// Package fsmeta keeps the metadata of container snapshot drivers in the filesystem
// itself, with no database: which snapshots there are, by name and identifier, the
// parent of each, its state, labels and usage. The content of the snapshots is the
// driver's own.
//
// Every snapshot is a directory with a metadata.json, which says everything, and a
// parent symlink for people. The writer holds an flock over staging/, builds files and
// directories there, and renames each into place. A journal with one text line per
// transaction makes that atomic and durable: the synced line is the commit, and the
// renames follow it. All of it can be read with ls, cat, readlink and jq; layout.md at
// the root of the repository specifies it.
//
// # Words
//
//   - snapshot: has a name and an identifier. It is active, then committed; the name
//     of an active one is its key.
//   - parent: the committed snapshot that another stands on.
//   - transaction: read-only or writable; carried by a context.
//   - tree: the directories under snapshots/.
//   - journal: the transactions since the last checkpoint.
//   - staging: where files and directories are built, and where removed ones go to be
//     deleted or used again.
//   - checkpoint: syncs the tree, and drops the journal's lines.
//   - take-over: brings the tree up to the journal when a process becomes the writer.
//   - lagging: said of a name that can't be brought up, since its directory can't be
//     changed or there is no room. The journal goes on deciding for it.
//
// # Guarantees
//
//   - When Commit has returned nil, the transaction survives a power cut, and every
//     transaction that begins afterwards sees it, in every process. (Of a [Relaxed] Store,
//     a tenth of a second later.)
//   - Of a transaction that fails, or never gets to its Commit, nothing is ever seen;
//     unless the error is [ErrOutcomeUnknown], then all of it or nothing.
//   - There is one writer at a time, over all goroutines and processes. Readers see a
//     point in time. They wait for no writer, and no writer waits for them.
//   - An identifier is never handed out twice.
//   - A damaged snapshot damages nothing but itself. A directory that can't be changed
//     costs that snapshot's directory alone: all transactions go on.
//   - Snapshots that are missing without a transaction are an error of every enumeration.
//   - On a full disk snapshots can be removed.
//
// # Limits
//
// The store is for local filesystems that keep to POSIX: ext4, xfs, btrfs, and, as
// far as they go, tmpfs and overlayfs; not for network filesystems. Everything that
// was read stays in memory, about 0.75 kilobytes for a snapshot.
package fsmeta
