package peers_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/fsmeta"
	bolt "go.etcd.io/bbolt"
	errbolt "go.etcd.io/bbolt/errors"
)

// Most tests here are scripts: a call on each line and, behind =>, its outcome. A
// player plays a script on one of the peers. What it writes down is the script again,
// with the outcomes that there really were, so that it can be compared with what was
// expected and with what the other peer made of the same calls. The lines are
//
//	begin NAME write|read [in NAME]      begin a transaction, perhaps inside another
//	commit NAME, rollback NAME           end it
//	close, open, reopen                  the store
//	NAME: CALL                           in a transaction; "-" is none
//
// and the calls
//
//	create KIND KEY [on PARENT] [OPTION]...
//	commit KEY as NAME [usage INODES SIZE] [OPTION]...
//	update NAME [:FIELDPATH]... [+KEY=VALUE]...
//	info NAME, get KEY, remove NAME, ids, walk [FILTER]...
//	walkto NAME [FILTER]...              a walk with a callback that fails at NAME
//
// with the options +KEY=VALUE for a label, + for no label, ^PARENT for
// snapshots.WithParent, ! for one that fails, and * for one that sets all other fields.
// A word that contains spaces or is empty is quoted as in Go, the whole of it.
//
// Outcomes are ok where it is not said, or what the call returned, or the class of its
// error, see classOf. Identifiers are numbered by the successful calls of create: #1,
// #2, and so on. Times are named in the order in which they are seen: t1, t2, and so on;
// an info ends with one of them where created and updated are the same. So identifiers
// and times can be compared between the peers.

// both are the peers that every script is played on.
var both = []peers.Peer{peers.Bolt, peers.FS}

// player plays scripts on one of the peers.
type player struct {
	t            *testing.T
	peer         peers.Peer
	path         string
	store        peers.Store
	transactions map[string]*transaction
	ids          map[string]string // what identifiers are called
	times        map[time.Time]string
	created      int
	err          error // of the last call

	// Where the peers are meant to differ, outcomes also tell of panics, of identifiers that
	// bbolt uses again, and of fsmeta's own errors.
	differs bool

	// Where it is set, every call and every begin gets the context that it makes of the
	// one that the script says.
	spoil func(context.Context) context.Context
}

type transaction struct {
	ctx  context.Context
	tx   peers.Transactor
	open bool
}

// newPlayer returns a player of a store that nothing was ever written to.
func newPlayer(t *testing.T, peer peers.Peer) *player {
	p := &player{
		t: t, peer: peer, path: filepath.Join(t.TempDir(), "store"), transactions: map[string]*transaction{},
		ids: map[string]string{}, times: map[time.Time]string{},
	}
	if peer.Name == peers.Bolt.Name {
		makeRoom(t, p.path)
	}
	p.openStore()
	t.Cleanup(p.leave)
	return p
}

// makeRoom makes an empty bbolt file that is mapped as a whole: else a commit can wait
// for all readers to end, also for those of its own goroutine.
func makeRoom(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	noError(t, err)
	noError(t, db.Close())
	noError(t, os.Truncate(path, 16<<20))
}

func (p *player) openStore() string {
	p.t.Helper()
	store, err := p.peer.Open(p.path)
	noError(p.t, err)
	p.store = store
	return "ok"
}

// leave ends what a failed script has left open, and closes the store.
func (p *player) leave() {
	p.rollbackAll()
	if err := p.store.Close(); err != nil {
		p.t.Errorf("%s: close: %v", p.peer.Name, err)
	}
}

func (p *player) rollbackAll() (left []string) {
	for name, t := range p.transactions {
		if t.open {
			left = append(left, name)
			t.open = false
			if err := t.tx.Rollback(); err != nil {
				p.t.Errorf("%s: rollback %s: %v", p.peer.Name, name, err)
			}
		}
	}
	return left
}

// play plays a script and returns it with the outcomes that there were. In the end no
// transaction may be left, and opening the store again must change nothing.
func (p *player) play(script string) string {
	p.t.Helper()
	var played strings.Builder
	for _, line := range lines(script) {
		call, _, _ := strings.Cut(line, " => ")
		fmt.Fprintf(&played, "%s => %s\n", call, p.do(call))
	}
	if left := p.rollbackAll(); left != nil {
		p.t.Errorf("%s: the script leaves transactions open: %v", p.peer.Name, left)
	}
	before := p.committed()
	p.do("reopen")
	if after := p.committed(); after != before {
		p.t.Errorf("%s: opened again, the store is\n%swhile it was\n%s", p.peer.Name, after, before)
	}
	return played.String()
}

// prepare plays a script in which every call must succeed.
func (p *player) prepare(script string) {
	p.t.Helper()
	for _, line := range lines(script) {
		call, _, _ := strings.Cut(line, " => ")
		if outcome := p.do(call); p.err != nil {
			p.t.Fatalf("%s: %s: %s", p.peer.Name, call, outcome)
		}
	}
}

// lines returns the lines of a script, with an outcome on each.
func lines(script string) []string {
	var lines []string
	for line := range strings.Lines(script) {
		line, comment := strings.TrimSpace(line), "//"
		if line == "" || strings.HasPrefix(line, comment) {
			continue
		}
		call, outcome, found := strings.Cut(line, "=>")
		if !found {
			outcome = "ok"
		}
		lines = append(lines, strings.TrimSpace(call)+" => "+strings.TrimSpace(outcome))
	}
	return lines
}

// Names too long to be spelled out, and what they are called in scripts.
var (
	longName    = strings.Repeat("long/", 1000)
	longerName  = longName + "er"
	longestName = strings.Repeat("most", 32768/4)

	expand  = strings.NewReplacer("$longest", longestName, "$longer", longerName, "$long", longName)
	shorten = strings.NewReplacer(longestName, "$longest", longerName, "$longer", longName, "$long")
)

// words splits a line at its spaces. Those in quoted words are left.
func (p *player) words(line string) []string {
	var words []string
	for line = strings.TrimSpace(expand.Replace(line)); line != ""; line = strings.TrimSpace(line) {
		word, rest, _ := strings.Cut(line, " ")
		if line[0] == '"' {
			quoted, err := strconv.QuotedPrefix(line)
			noError(p.t, err)
			word, err = strconv.Unquote(quoted)
			noError(p.t, err)
			rest = line[len(quoted):]
		}
		words, line = append(words, word), rest
	}
	return words
}

// do makes one call and returns its outcome.
func (p *player) do(call string) string {
	p.t.Helper()
	p.err = nil
	words := p.words(call)
	if name, ok := strings.CutSuffix(words[0], ":"); ok {
		return shorten.Replace(p.call(p.context(name), words[1], words[2:]))
	}
	switch words[0] {
	case "begin":
		return p.begin(words[1], words[2] == "write", words[3:])
	case "commit", "rollback":
		return p.end(words[0], p.transactions[words[1]])
	case "open":
		return p.openStore()
	case "close":
		return p.outcome(p.store.Close())
	case "reopen":
		return p.do("close") + "," + p.openStore()
	}
	p.t.Fatalf("no such line: %s", call)
	return ""
}

func (p *player) context(name string) context.Context {
	p.t.Helper()
	if name == "-" {
		return p.spoiled(context.Background())
	}
	if p.transactions[name] == nil {
		p.t.Fatalf("%s: no transaction %s", p.peer.Name, name)
	}
	return p.spoiled(p.transactions[name].ctx)
}

func (p *player) spoiled(ctx context.Context) context.Context {
	if p.spoil == nil {
		return ctx
	}
	return p.spoil(ctx)
}

func (p *player) begin(name string, writable bool, in []string) string {
	p.t.Helper()
	ctx := p.spoiled(context.Background())
	if len(in) == 2 {
		ctx = p.context(in[1])
	}
	inside, tx, err := p.store.TransactionContext(ctx, writable)
	if err != nil {
		return p.failed(err, inside == ctx && tx == nil)
	}
	if old := p.transactions[name]; old != nil && old.open {
		p.t.Fatalf("%s: %s is open", p.peer.Name, name)
	}
	p.transactions[name] = &transaction{inside, tx, true}
	return "ok"
}

func (p *player) end(how string, t *transaction) string {
	end := t.tx.Commit
	if how == "rollback" {
		end = t.tx.Rollback
	}
	err := end()
	t.open = t.open && err != nil
	return p.outcome(err)
}

// outcome is ok or the class of an error.
func (p *player) outcome(err error) string {
	if err == nil {
		return "ok"
	}
	return p.failed(err, true)
}

// failed is the class of an error, which must have a text. A call that fails must return
// nothing else.
func (p *player) failed(err error, nothing bool) string {
	p.err = err
	class := classOf(err, p.peer.NoTransaction)
	if p.differs {
		class = cmp.Or(ownClassOf(err), class)
	}
	if !nothing {
		class += " and values"
	}
	if err.Error() == "" {
		class += " without a text"
	}
	return class
}

// call makes a call in a transaction.
func (p *player) call(ctx context.Context, verb string, args []string) (outcome string) {
	p.t.Helper()
	if p.differs {
		defer func() {
			if recover() != nil {
				outcome = "panic"
			}
		}()
	}
	switch verb {
	case "create":
		return p.create(ctx, args)
	case "commit":
		return p.commitActive(ctx, args)
	case "update":
		return p.update(ctx, args)
	case "remove":
		id, kind, err := p.store.Remove(ctx, args[0])
		if err != nil {
			return p.failed(err, id == "" && kind == 0)
		}
		return p.id(id) + " " + kindName(kind)
	case "info":
		id, info, usage, err := p.store.GetInfo(ctx, args[0])
		if err != nil {
			return p.failed(err, id == "" && isZero(info) && usage == snapshots.Usage{})
		}
		return p.id(id) + " " + p.info(info, usage)
	case "get":
		return p.snapshot(p.store.GetSnapshot(ctx, args[0]))
	case "ids":
		return p.idMap(ctx)
	case "walk":
		return p.walk(ctx, "", args)
	case "walkto":
		return p.walk(ctx, args[0], args[1:])
	}
	p.t.Fatalf("no such call: %s", verb)
	return ""
}

var kinds = map[string]snapshots.Kind{
	"unknown": snapshots.KindUnknown, "active": snapshots.KindActive, "view": snapshots.KindView,
	"committed": snapshots.KindCommitted, "kind77": 77,
}

func kindName(kind snapshots.Kind) string { return strings.ToLower(kind.String()) }

func (p *player) create(ctx context.Context, args []string) string {
	kind, key, parent, args := kinds[args[0]], args[1], "", args[2:]
	if len(args) > 0 && args[0] == "on" {
		parent, args = args[1], args[2:]
	}
	s, err := p.store.CreateSnapshot(ctx, kind, key, parent, options(args)...)
	if err != nil {
		return p.snapshot(s, err)
	}
	p.created++
	again := ""
	if (p.differs || p.peer.Name == peers.FS.Name) && p.ids[s.ID] != "" {
		again = " which was " + p.ids[s.ID]
	}
	p.ids[s.ID] = fmt.Sprintf("#%d", p.created)
	return p.snapshot(s, nil) + again
}

func (p *player) commitActive(ctx context.Context, args []string) string {
	key, name, args := args[0], args[2], args[3:]
	var usage snapshots.Usage
	if len(args) > 0 && args[0] == "usage" {
		usage, args = snapshots.Usage{Inodes: p.number(args[1]), Size: p.number(args[2])}, args[3:]
	}
	id, err := p.store.CommitActive(ctx, key, name, usage, options(args)...)
	if err != nil {
		return p.failed(err, id == "")
	}
	return p.id(id)
}

func (p *player) number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	noError(p.t, err)
	return n
}

// errOption is what the option ! returns, errStop what the callback of a walk does.
var (
	errOption = errors.New("the option fails")
	errStop   = errors.New("the walk ends")
)

func options(words []string) []snapshots.Opt {
	var opts []snapshots.Opt
	for _, word := range words {
		opts = append(opts, option(word[0], word[1:]))
	}
	return opts
}

func option(kind byte, value string) snapshots.Opt {
	switch kind {
	case '+':
		labels := map[string]string{}
		addLabel(labels, value)
		return snapshots.WithLabels(labels)
	case '^':
		return withParent(value)
	case '!':
		return func(*snapshots.Info) error { return errOption }
	case '*':
		return setOtherFields
	}
	panic("no such option: " + string(kind) + value)
}

func setOtherFields(info *snapshots.Info) error {
	long := time.Unix(1, 0)
	info.Name, info.Kind, info.Created, info.Updated = "other", snapshots.KindView, long, long
	return nil
}

// addLabel adds KEY=VALUE to labels, or nothing if it is empty.
func addLabel(labels map[string]string, word string) {
	if key, value, ok := strings.Cut(word, "="); ok {
		labels[key] = value
	}
}

func (p *player) update(ctx context.Context, args []string) string {
	info, fieldpaths := snapshots.Info{Name: args[0]}, []string(nil)
	noError(p.t, setOtherFields(&info))
	info.Name, info.Parent = args[0], "other"
	for _, word := range args[1:] {
		if field, ok := strings.CutPrefix(word, ":"); ok {
			fieldpaths = append(fieldpaths, field)
			continue
		}
		if info.Labels == nil {
			info.Labels = map[string]string{}
		}
		addLabel(info.Labels, word[1:])
	}
	before := maps.Clone(info.Labels)
	updated, err := p.store.UpdateInfo(ctx, info, fieldpaths...)
	if p.peer.Name == peers.FS.Name && !maps.Equal(before, info.Labels) {
		p.t.Errorf("update %v changed its argument to %v", args, info.Labels)
	}
	if err != nil {
		return p.failed(err, isZero(updated))
	}
	return p.info(updated, snapshots.Usage{})
}

func isZero(info snapshots.Info) bool {
	return info.Kind == 0 && info.Name == "" && info.Parent == "" && info.Labels == nil &&
		info.Created.IsZero() && info.Updated.IsZero()
}

func (p *player) idMap(ctx context.Context) string {
	ids, err := p.store.IDMap(ctx)
	if err != nil {
		return p.failed(err, ids == nil)
	}
	if ids == nil {
		return "nil"
	}
	pairs := []string{}
	for id, name := range ids {
		pairs = append(pairs, word(name)+"="+p.id(id))
	}
	return list(slices.Sorted(slices.Values(pairs)))
}

// walk returns the names that a walk visits, in that order. At one of the name stop
// the callback fails. The infos must be those that GetInfo returns.
func (p *player) walk(ctx context.Context, stop string, filters []string) string {
	names := []string{}
	err := p.store.WalkInfo(ctx, func(inner context.Context, info snapshots.Info) error {
		names = append(names, word(info.Name))
		_, direct, _, err := p.store.GetInfo(inner, info.Name)
		if got, want := p.info(info, snapshots.Usage{}), p.info(direct, snapshots.Usage{}); got != want || err != nil {
			names = append(names, fmt.Sprintf("(visited as %s, while it is %s, %v)", got, want, err))
		}
		if inner != ctx {
			names = append(names, "(in another context)")
		}
		if info.Name == stop {
			return errStop
		}
		return nil
	}, filters...)
	if err != nil {
		return strings.TrimSpace(strings.Join(names, " ") + " " + p.outcome(err))
	}
	return list(names)
}

func list(words []string) string {
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, " ")
}

// id returns what an identifier is called.
func (p *player) id(id string) string {
	if name := p.ids[id]; name != "" {
		return name
	}
	return fmt.Sprintf("(an identifier that create never returned: %q)", id)
}

// snapshot returns what create and get return.
func (p *player) snapshot(s peers.Snapshot, err error) string {
	if err != nil {
		return p.failed(err, s.ID == "" && s.Kind == 0 && s.ParentIDs == nil)
	}
	outcome := p.id(s.ID) + " " + kindName(s.Kind)
	if s.ParentIDs != nil {
		outcome += " on"
	}
	for _, id := range s.ParentIDs {
		outcome += " " + p.id(id)
	}
	return outcome
}

func (p *player) info(info snapshots.Info, usage snapshots.Usage) string {
	outcome := kindName(info.Kind) + " " + word(info.Name)
	if info.Parent != "" {
		outcome += " on " + word(info.Parent)
	}
	if info.Labels != nil {
		outcome += " " + labelList(info.Labels)
	}
	if usage != (snapshots.Usage{}) {
		outcome += fmt.Sprintf(" usage %d %d", usage.Inodes, usage.Size)
	}
	outcome += " " + p.time(info.Created)
	if !info.Updated.Equal(info.Created) {
		outcome += " " + p.time(info.Updated)
	}
	return outcome
}

func labelList(labels map[string]string) string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, word(key+"="+labels[key]))
	}
	return "{" + strings.Join(pairs, " ") + "}"
}

// time returns what a time is called.
func (p *player) time(t time.Time) string {
	if t.Location() != time.UTC {
		return fmt.Sprintf("(a time that is not UTC: %v)", t)
	}
	t = t.Round(0)
	if p.times[t] == "" {
		p.times[t] = fmt.Sprintf("t%d", len(p.times)+1)
	}
	return p.times[t]
}

// word returns a word as scripts have it.
func word(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:/%=_-"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return strconv.Quote(s)
}

// committed returns everything that a transaction that begins now sees.
func (p *player) committed() string {
	p.t.Helper()
	p.do("begin committed read")
	defer p.do("rollback committed")
	return p.seen("committed")
}

// seen returns everything that a transaction sees. A store that nothing was ever written
// to is as an empty one: it may be one when it is opened again.
func (p *player) seen(transaction string) string {
	p.t.Helper()
	ids := p.do(transaction + ": ids")
	if p.err != nil || ids == "nothing" {
		return ""
	}
	seen := ids + "\n"
	for _, name := range p.words(p.do(transaction + ": walk")) {
		seen += p.do(transaction+": info "+word(name)) + "; " + p.do(transaction+": get "+word(name)) + "\n"
	}
	return seen
}

// classes are what an error can be, by errdefs and by bbolt.
var classes = []struct {
	name string
	is   func(error) bool
	err  error
}{
	{"Canceled", errdefs.IsCanceled, context.Canceled},
	{"DeadlineExceeded", errdefs.IsDeadlineExceeded, context.DeadlineExceeded},
	{"Unknown", errdefs.IsUnknown, errdefs.ErrUnknown},
	{"InvalidArgument", errdefs.IsInvalidArgument, errdefs.ErrInvalidArgument},
	{"NotFound", errdefs.IsNotFound, errdefs.ErrNotFound},
	{"AlreadyExists", errdefs.IsAlreadyExists, errdefs.ErrAlreadyExists},
	{"PermissionDenied", errdefs.IsPermissionDenied, errdefs.ErrPermissionDenied},
	{"ResourceExhausted", errdefs.IsResourceExhausted, errdefs.ErrResourceExhausted},
	{"FailedPrecondition", errdefs.IsFailedPrecondition, errdefs.ErrFailedPrecondition},
	{"Conflict", errdefs.IsConflict, errdefs.ErrConflict},
	{"NotModified", errdefs.IsNotModified, errdefs.ErrNotModified},
	{"Aborted", errdefs.IsAborted, errdefs.ErrAborted},
	{"OutOfRange", errdefs.IsOutOfRange, errdefs.ErrOutOfRange},
	{"NotImplemented", errdefs.IsNotImplemented, errdefs.ErrNotImplemented},
	{"Internal", errdefs.IsInternal, errdefs.ErrInternal},
	{"Unavailable", errdefs.IsUnavailable, errdefs.ErrUnavailable},
	{"DataLoss", errdefs.IsDataLoss, errdefs.ErrDataLoss},
	{"Unauthorized", errdefs.IsUnauthorized, errdefs.ErrUnauthenticated},
	{"DatabaseNotOpen", nil, errbolt.ErrDatabaseNotOpen},
	{"Timeout", nil, errbolt.ErrTimeout},
	{"TxNotWritable", nil, errbolt.ErrTxNotWritable},
	{"TxClosed", nil, errbolt.ErrTxClosed},
	{"DatabaseReadOnly", nil, errbolt.ErrDatabaseReadOnly},
	{"BucketNotFound", nil, errbolt.ErrBucketNotFound},
	{"BucketExists", nil, errbolt.ErrBucketExists},
	{"BucketNameRequired", nil, errbolt.ErrBucketNameRequired},
	{"KeyRequired", nil, errbolt.ErrKeyRequired},
	{"KeyTooLarge", nil, errbolt.ErrKeyTooLarge},
	{"ValueTooLarge", nil, errbolt.ErrValueTooLarge},
	{"IncompatibleValue", nil, errbolt.ErrIncompatibleValue},
	{"option", nil, errOption},
	{"stop", nil, errStop},
}

// classOf returns all classes that an error belongs to. One of containerd's that only
// errdefs.IsX knows, and not errors.Is, is marked. Errors that are passed through must
// be the same values; noTransaction is the ErrNoTransaction of the package.
func classOf(err, noTransaction error) string {
	var names []string
	for _, c := range classes {
		is := errors.Is(err, c.err)
		switch {
		case c.is != nil && c.is(err) != is:
			names = append(names, c.name+"(by errdefs alone)")
		case is && (c.err == errOption || c.err == errStop) && err != c.err:
			names = append(names, c.name+"(wrapped)")
		case is:
			names = append(names, c.name)
		}
	}
	if err == noTransaction {
		names = append(names, "NoTransaction")
	}
	if names == nil {
		return "error"
	}
	return strings.Join(names, "+")
}

// ownClassOf names an error that only fsmeta has.
func ownClassOf(err error) string {
	switch {
	case errors.Is(err, fsmeta.ErrNestedTransaction):
		return "nested"
	case errors.Is(err, fsmeta.ErrClosed):
		return "closed"
	case errors.Is(err, fsmeta.ErrDamaged):
		return "damaged"
	}
	return ""
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
