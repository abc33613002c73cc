package fsmeta

// An Option changes how [Open] opens a store.
type Option func(*options)

type options struct {
	readOnly  bool // default: read and write
	mustExist bool // default: make the store where there is none
}

// ReadOnly opens a store that exists and writes nothing to it, at no time and
// not to repair it either: it works on a read-only mount. It sees what other
// processes commit meanwhile. Writable transactions fail with
// [ErrReadOnlyTransaction].
func ReadOnly() Option {
	return func(o *options) { o.readOnly = true }
}

// MustExist makes [Open] fail with [ErrNotStore] (and fs.ErrNotExist) where there
// is no store yet, instead of making one: for programs that would take an empty
// store, say because a filesystem is not mounted, for leave to delete all content.
func MustExist() Option {
	return func(o *options) { o.mustExist = true }
}
