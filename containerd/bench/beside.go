//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/fsmeta/fsmeta/containerd/internal/peers"
)

// besideRow is a finished row of the second table, of what is not a race between both
// stores.
type besideRow struct {
	Name        string
	Bolt, Ours  string
	Limit       float64 // 0 where nothing is promised
	WithinLimit bool
}

// besideOperation measures such rows. Its name is what they have in common.
type besideOperation struct {
	name    string
	measure func(b *bench, name string) ([]besideRow, error)
}

func besideOperations(z sizes) []besideOperation {
	among := fmt.Sprintf("among %s snapshots, relative to among %s", thousands(z.big), thousands(z.small))
	return []besideOperation{
		{"read transaction with one GetInfo " + among, growthOfReads},
		{"create, durable, " + among, growthOfCreates},
		{"create, durable, relative to the bare system calls it can't do without", besideSystemCalls},
		{"resident memory, " + thousands(z.big) + " snapshots", memories},
		{"read transaction with one GetInfo in a second process", secondProcess},
	}
}

const none = "–"

// limited is a row of ratios that are to be at most that.
func limited(name string, limit float64, bolt, ours []float64) besideRow {
	row := besideRow{Name: name, Bolt: none, Ours: ratioText(spreadOf(ours)), Limit: limit}
	if bolt != nil {
		row.Bolt = ratioText(spreadOf(bolt))
	}
	row.WithinLimit = spreadOf(ours).median <= limit
	return row
}

// growthLimit is how much more an operation may cost in a store a hundred times as big.
const growthLimit = 1.25

func growthOfReads(b *bench, name string) ([]besideRow, error) {
	return b.growth(name, func(s *subject) (batch, error) { return b.readBatch(s, getInfoAlone(s)) })
}

func growthOfCreates(b *bench, name string) ([]besideRow, error) {
	return b.growth(name, func(s *subject) (batch, error) { return b.durableBatch(s, create, s.items(b.rounds*b.batch)), nil })
}

// growth measures the same in a big store and in a small one of either kind.
func (b *bench) growth(name string, of func(*subject) (batch, error)) ([]besideRow, error) {
	var ratios [2][]float64
	for i, peer := range []peers.Peer{peers.Bolt, peers.FS} {
		all, err := b.bigAndSmall(peer, of)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", peer.Name, err)
		}
		ratios[i] = all[0].ratios()
	}
	return []besideRow{limited(name, growthLimit, ratios[0], ratios[1])}, nil
}

// bigAndSmall has both open at once. It takes out again what was created.
func (b *bench) bigAndSmall(peer peers.Peer, of func(*subject) (batch, error)) (_ []samples, err error) {
	var stores [2]*subject
	var both [2]batch
	for i, open := range []func(peers.Peer) (*subject, error){b.kept(b.big), b.fresh(b.small)} {
		s, openErr := open(peer)
		if openErr != nil {
			return nil, openErr
		}
		stores[i] = s
		defer func() { err = errors.Join(err, s.Close()) }()
		if both[i], err = of(s); err != nil {
			return nil, err
		}
	}
	all, err := interleave(b.rounds, 1, b.settle, both[0], both[1])
	for _, s := range stores {
		if err == nil {
			err = s.removeMade(b.ctx)
		}
	}
	return all, err
}

// memories reports what a process has in memory that has read all of a big store.
func memories(b *bench, name string) ([]besideRow, error) {
	rows := []besideRow{{Name: name + ": opened"}, {Name: name + ": walked over"}, {Name: name + ": more for each snapshot"}}
	for _, peer := range []peers.Peer{peers.Bolt, peers.FS} {
		path, err := b.keptPath(peer, b.big)
		if err != nil {
			return nil, err
		}
		both, err := ask[[2]memory](b.ctx, job{Do: "memory", Peer: peer.Name, Path: path, Name: nameOf(0), Size: b.big})
		if err != nil {
			return nil, err
		}
		opened, walked := both[0], both[1]
		texts := []string{opened.text(), walked.text(), fmt.Sprintf("%.0f bytes", (walked.RSS-opened.RSS)/float64(b.big))}
		for i, text := range texts {
			if peer.Name == peers.Bolt.Name {
				rows[i].Bolt = text
			} else {
				rows[i].Ours = text
			}
		}
	}
	return rows, nil
}

func (m memory) text() string {
	const mega = 1 << 20
	return fmt.Sprintf("%.1f MiB (%.1f its own, %.1f of files)", m.RSS/mega, m.Anon/mega, m.File/mega)
}

// secondProcess measures what another process that has our store open pays to see a
// commit of this one, beside what it pays when there is nothing to see.
func secondProcess(b *bench, name string) (_ []besideRow, err error) {
	s, err := b.fresh(b.small)(peers.FS)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	w, err := startWatcher(b, s.path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if _, err := w.tell(nameOf(0)); err != nil { // opens the store
		return nil, err
	}
	all := make([][]float64, 2)
	for range b.told {
		items := s.items(1)
		if err := write(create).alone(b.ctx, s, items); err != nil {
			return nil, err
		}
		for i := range all { // the first time it is news, the second time not
			took, err := w.tell(items[0].key)
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], took)
		}
	}
	const can = "a second process can't open it"
	return []besideRow{
		{Name: name + ": after a commit of the first", Bolt: can, Ours: timeText(spreadOf(all[0]))},
		{Name: name + ": when nothing has changed", Bolt: can, Ours: timeText(spreadOf(all[1]))},
	}, nil
}

// watcher is a process that has our store open and reads what it is told.
type watcher struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func startWatcher(b *bench, path string) (*watcher, error) {
	cmd, err := command(b.ctx, job{Do: "watch", Peer: peers.FS.Name, Path: path})
	if err != nil {
		return nil, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &watcher{cmd, in, json.NewDecoder(bufio.NewReader(out))}, cmd.Start()
}

// tell has it read a snapshot and returns how long that took, in nanoseconds.
func (w *watcher) tell(name string) (took float64, err error) {
	if _, err := fmt.Fprintln(w.in, name); err != nil {
		return 0, fmt.Errorf("tell the second process: %w", err)
	}
	if err := w.out.Decode(&took); err != nil {
		return 0, fmt.Errorf("answer of the second process: %w", err)
	}
	return took, nil
}

func (w *watcher) close() error {
	err := w.in.Close()
	if werr := w.cmd.Wait(); werr != nil {
		err = errors.Join(err, fmt.Errorf("second process: %w", werr))
	}
	return err
}
