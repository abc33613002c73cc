// Package format is the bytes of a store: names of entries, metadata.json, the journal's
// header and lines, and the layout file. It turns values into bytes and back, strictly,
// and touches no disk. Its errors name the fault in the bytes; the caller knows where
// they stand.
package format

import "time"

// Version is the format's version, in the layout file and in the header of a journal.
const Version = 2

// The names in a store's directory, and the modes of its files and directories.
const (
	LayoutFile   = "layout"
	JournalFile  = "journal"
	SnapshotsDir = "snapshots"
	StagingDir   = "staging"
	DamagedDir   = "damaged" // holds what a repair has set aside
	BackupFile   = "backup"  // in a copy that a backup has made

	UnfinishedEnd = ".unfinished" // of the path of a backup that is being made
	MetadataFile  = "metadata.json"
	ParentLink    = "parent"

	DirMode  = 0o700
	FileMode = 0o600
)

// Limits. What exceeds them is damage, never an overflow.
const (
	MaxName   = 32768     // bytes in a snapshot's name, and in a label's key
	MaxEntry  = 255       // bytes in a directory entry
	MaxFile   = 64 << 20  // bytes in a metadata.json
	MaxLine   = 256 << 20 // bytes in a line of the journal
	MaxNumber = 1<<63 - 1 // the highest transaction and identifier
)

// Kind is what can be done with a snapshot.
type Kind uint8

// The kinds.
const (
	Active Kind = iota + 1
	Committed
)

// Usage is the size of a snapshot's content, as the driver measured it.
type Usage struct{ Inodes, Size int64 }

// Label is one label. A snapshot has few, and they are copied for every caller: a slice
// is smaller than a map, and as fast.
type Label struct{ Key, Value string }

// Snapshot is one version of one snapshot: the content of its metadata.json, and, as the
// before and after of a change, an image in a journal line. It never changes once it is
// made, so that versions can be shared without a lock.
type Snapshot struct {
	ID       string
	Name     string
	Parent   string // "" for none
	Kind     Kind
	Readonly bool    // true for every committed one
	Labels   []Label // sorted by key
	Created  time.Time
	Updated  time.Time
	Usage    Usage
	Txn      uint64 // the transaction that wrote this version, 0 where a person did
}

// Change is what a transaction did to one name. An image is nil where there is no snapshot.
type Change struct {
	Name          string
	Before, After *Snapshot
}

// Txn is the content of one line: one transaction.
type Txn struct {
	Number  uint64
	Time    time.Time
	NextID  uint64 // identifiers below are handed out or reserved
	Synced  uint64 // the last transaction that was known to be durable when the line was written
	Filled  uint64 // the durable length of the file when the line was written
	Names   Names  // after this transaction
	Changes []Change
}

// Header is the first line of a journal: where its lines begin.
type Header struct {
	Txn    uint64 // the checkpoint: the tree holds every transaction up to here
	NextID uint64 // identifiers below are handed out or reserved
	Names  Names  // after transaction Txn
	Filled uint64 // the length of the file when it was put in place
	Boot   string // the boot during which the file was made, "" where it is not known
	Prev   uint32 // checksum of the line of transaction Txn, 0 where there was none
	Sealed bool   // it has a checksum; else a person wrote it
}

// Line is one whole line as it stands in a file: verified by its checksum, the numbers at
// its front read, its changes not decoded.
type Line struct {
	Txn, NextID, Synced, Filled uint64
	Names                       Names
	Raw                         []byte // without the byte behind it
	Prev, CRC                   uint32
	Off                         int64 // where it stands in the file; set by the journal
	Newline                     bool  // the newline is there: it is published; set by the journal
}
