package storage

import (
	"reflect"
	"slices"

	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/fsmeta"
	bolt "go.etcd.io/bbolt"
)

// Opt sets options as containerd's package takes them. Those of [bolt.Options] that mean
// something here are heeded:
//
//   - ReadOnly is [fsmeta.ReadOnly].
//   - NoSync is [fsmeta.Relaxed]: a power cut may take the last moment's transactions, and
//     nothing else. (bbolt's file may be damaged then.)
//   - Timeout is [fsmeta.Patience]: for how long the first transaction, which opens the store, waits for a
//     program that has it for itself, a repair for one; then the error is bbolt's
//     ErrTimeout. Without, that is ten seconds and [fsmeta.ErrInUse]; bbolt waits forever. Other
//     drivers that have the store open are no reason to wait here.
//
// The others have no counterpart. A [NewMetaStore] with options that set some of them to other
// than their defaults logs one warning that names them.
type Opt func(*bolt.Options) error

// heeded are the fields of bolt.Options that have a counterpart, see storeOptions.
var heeded = []string{"ReadOnly", "NoSync", "Timeout"}

// defaults returns what options are given, as containerd's package gives it to them.
func defaults() bolt.Options {
	o := *bolt.DefaultOptions
	// bbolt 1.5 has this field, and older ones have no statistics to turn off.
	if f := reflect.ValueOf(&o).Elem().FieldByName("NoStatistics"); f.IsValid() {
		f.SetBool(true)
	}
	return o
}

// boltOptions runs opts, and logs once which ones are ignored of those that they have set.
func boltOptions(path string, opts []Opt) (bolt.Options, error) {
	o := defaults()
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return bolt.Options{}, err
		}
	}
	if names := ignored(&o); len(names) > 0 {
		log.L.WithField("path", path).WithField("options", names).Warn("these options of bbolt have no counterpart in an fsmeta store, and are ignored")
	}
	return o, nil
}

// ignored returns the names of the options that are not as they were given, and mean nothing here.
func ignored(o *bolt.Options) (names []string) {
	before, after := reflect.ValueOf(defaults()), reflect.ValueOf(*o)
	for i := range after.NumField() {
		name := after.Type().Field(i).Name
		same := reflect.DeepEqual(before.Field(i).Interface(), after.Field(i).Interface())
		if !same && !slices.Contains(heeded, name) {
			names = append(names, name)
		}
	}
	return names
}

// storeOptions returns the options of the store that those of bbolt stand for.
func storeOptions(o *bolt.Options) (opts []fsmeta.Option) {
	if o.ReadOnly {
		opts = append(opts, fsmeta.ReadOnly())
	}
	if o.NoSync {
		opts = append(opts, fsmeta.Relaxed())
	}
	if o.Timeout != 0 {
		opts = append(opts, fsmeta.Patience(o.Timeout))
	}
	return opts
}
