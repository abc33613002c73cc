// Package storage keeps the metadata of containerd snapshot drivers in an fsmeta
// store. It has the exported surface of
// github.com/containerd/containerd/v2/core/snapshots/storage, which keeps it in a
// bbolt file, and behaves the same: a driver switches by changing the import path. README.md in the directory
// above has the commands, and what they do to a go.mod.
//
// The path that [NewMetaStore] is given becomes a directory. Where it is a bbolt file
// already, [WithImport] puts a store with the same content in its place, and [GoBack] is the
// way back.
//
// # Switching, and going back
//
// A driver that passes WithImport at every start switches by itself when it is updated. At every
// moment, also after a power cut, the path is the file as it was or the whole store, so no driver
// that is started meanwhile finds an empty one, and deletes what it takes for garbage. The file stays, as
// PATH.bolt. Without the option NewMetaStore fails, and changes nothing: an operator runs
//
//	fsmeta import PATH PATH        # with the driver stopped
//
// The way back, with what was made since, is [GoBack], or
//
//	fsmeta export PATH PATH        # with the driver stopped
//
// which puts a file that containerd's package opens in the place of the store, in the same way. The
// store stays, as PATH.fsmeta. Delete PATH.bolt then: it is of an earlier time, and the next switch
// refuses to replace it, as the next way back refuses to replace PATH.fsmeta. [Export] writes such a file anywhere, also of a store in use.
//
// Identifiers, kinds, parents, labels, times and usage stay as they are both ways, and no identifier
// that was handed out is handed out again. What can't be in the file are records of snapshots that a repair
// has set aside or an import left out, and that there may be content newer than a backup from which the store
// was restored, see [fsmeta.Store.RestoredBelow]: Export refuses a store that has such.
//
// # What differs
//
// On purpose, and for the better:
//
//   - Identifiers are never handed out twice. bbolt's are used again after a rollback. They
//     are reserved in blocks of 256, so there are gaps after a crash, and where
//     processes write in turn.
//   - A writable transaction begun inside a writable one of the same store is an
//     error ([fsmeta.ErrNestedTransaction]); with bbolt it waits for itself forever.
//   - A context ends the wait for a writable transaction, where that lasts for over a quarter of a
//     second. It is heeded for nothing else, as by containerd's package: a call with a context that
//     has ended does what it does with any other.
//   - Any number of processes can have a store open, and see each other's commits. A
//     read-only transaction that is held for long beside them may end in
//     [fsmeta.ErrOutdated]: begin it again.
//   - Readers never block writers. [MetaStore.Close] doesn't wait for open
//     transactions: it rolls them back.
//   - A call in a transaction that has ended is an error; with bbolt it panics. A
//     panic in the function given to [MetaStore.WithTransaction] rolls back; with bbolt
//     it leaves the store locked.
//   - A call that fails leaves nothing of itself in its transaction. bbolt's leave an
//     empty snapshot under the new name if [CommitActive] fails, changed labels if
//     [UpdateInfo] does, and make a store count as written to if [CreateSnapshot] does.
//   - Maps that are passed in are never changed. bbolt's functions delete empty labels
//     from them. Where no label is left, labels are nil.
//   - A snapshot can't become its own parent in [CommitActive]: with bbolt it can, and
//     every later look at its parents hangs.
//   - [MetaStore.WithTransaction] returns the callback's error as it is, and logs nothing.
//   - What a callback of [WalkInfo] changes does not change what is visited.
//   - One damaged snapshot gives an error ([fsmeta.ErrDamaged]) that names its
//     path where it is asked for. Walks visit all others before they report it.
//
// And what can't be the same:
//
//   - A program that opens the driver's file with bbolt itself finds a directory: [Export] writes it a file.
//   - It does not build on Windows, where containerd's package does: the store needs POSIX renames,
//     symbolic links and flock.
//   - A transaction with a thousand changes takes several times as long to commit, since each
//     change is a few system calls at its end, where bbolt writes pages: with a thousand creations
//     97.0 ms on ext4, and bbolt 15.5. (An ordinary durable create takes 0.33 ms, and bbolt's 0.58.
//     README.md in the directory above says where that was measured, and has the other filesystems.)
//   - The texts of errors. Their classes, of package errdefs and of bbolt, are.
//   - Names, and label keys and values, must be valid UTF-8, and names at most 32,768
//     bytes long: errdefs.ErrInvalidArgument.
//   - IDMap has the identifiers of snapshots that a repair has set aside or an import has left out,
//     with an empty name, so that a driver's cleanup keeps their content.
//   - The options are bbolt's, so that what sets them compiles. ReadOnly, NoSync and Timeout are
//     heeded, see [Opt]; the others have no counterpart, and are named in a warning where they are set.
//   - A store on which nothing but rolled back transactions were tried is as one that was
//     never written to (WalkInfo and IDMap say errdefs.ErrNotFound) until it is opened
//     the next time, and then as an empty one. bbolt forgets the attempts altogether.
//
// # The order of parents
//
// [Snapshot].ParentIDs is in the order of containerd's package today: the immediate parent
// first, the lowest base last, as overlayfs takes its lowerdir. The MetaStore interface that containerd had in
// 2017 has it the other way round, and so has [fsmeta.Active], which implements that: the lowest base
// first, the immediate parent last. Code that changes from one to the other reverses it.
package storage
