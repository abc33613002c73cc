//go:build linux

package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/prometheus/client_golang/prometheus"
)

// surveyAge is how old what a look at every snapshot's directory has found may be.
const surveyAge = 10 * time.Minute

// survey gathers how things stand on the disk when the metrics are asked for.
type survey struct {
	root string
	sn   snapshots.Snapshotter

	mu      sync.Mutex
	at      time.Time // of the last look at all
	lagging int       // as it was found
	damaged int
}

// newDesc describes a metric of a survey.
func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("fsmeta_"+name, help, labels, nil)
}

var (
	descSnapshots   = newDesc("snapshots", "Snapshots that can be read, by kind.", "kind")
	descLagging     = newDesc("snapshots_lagging", "Names with a directory in meta/snapshots that could not be brought up to the journal, at most ten minutes ago.")
	descDamaged     = newDesc("snapshots_damaged", "Snapshots that can't be read, at most ten minutes ago.")
	descAside       = newDesc("snapshots_set_aside", "Snapshots that repairs have set aside in meta/damaged.")
	descMissing     = newDesc("snapshots_missing", "1 where snapshots are missing, or others are there than the store has counted, as the last cleanup has found; else 0.")
	descDirectories = newDesc("directories", "Directories that no snapshot has, as the last cleanup has left them: kept, since they may be a snapshot's, or orphaned, that can't be deleted.", "state")
	descBytes       = newDesc("directories_bytes", "What those directories take.", "state")
	descCleaned     = newDesc("cleanup_timestamp_seconds", "When the last cleanup has come to its end, 0 for none since the start.")
	descStoreDamage = newDesc("store_damage", "How much is wrong with the layout, the journal and the backup file of the store.")
	descJournal     = newDesc("journal_bytes", "The size of the journal, most of it filled ahead.")
	descTransaction = newDesc("transaction", "The number of the last transaction.")
	descCheckpoint  = newDesc("checkpoint_transaction", "The number of the last transaction that a checkpoint has brought into the tree; it changes with each checkpoint.")
)

// Describe implements prometheus.Collector.
func (s *survey) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{descSnapshots, descLagging, descDamaged, descAside, descMissing, descDirectories,
		descBytes, descCleaned, descStoreDamage, descJournal, descTransaction, descCheckpoint} {
		to <- desc
	}
}

// Collect implements prometheus.Collector. It costs a walk over what is in memory, some
// system calls, and once in a while a read of every snapshot's file.
func (s *survey) Collect(to chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	ctx := context.Background()
	kinds := map[snapshots.Kind]int{snapshots.KindActive: 0, snapshots.KindView: 0, snapshots.KindCommitted: 0}
	err := s.sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		kinds[info.Kind]++
		return nil
	})
	if errdefs.IsNotFound(err) {
		err = nil // there was never a snapshot
	}
	for kind, n := range kinds {
		gauge(descSnapshots, float64(n), strings.ToLower(kind.String()))
	}
	s.state(gauge)
	if ierr := s.inspect(ctx, gauge); ierr != nil || err != nil {
		log.L.WithError(errors.Join(err, ierr)).Warn("some metrics of the store can't be gathered")
	}
}

// state gathers what the last cleanup has found.
func (s *survey) state(gauge func(desc *prometheus.Desc, value float64, labels ...string)) {
	sn, ok := s.sn.(interface{ State() driver.State })
	if !ok {
		return
	}
	now, missing, cleaned := sn.State(), 0.0, 0.0
	if now.Missing {
		missing = 1
	}
	if !now.Cleaned.IsZero() {
		cleaned = float64(now.Cleaned.Unix())
	}
	gauge(descMissing, missing)
	gauge(descCleaned, cleaned)
	gauge(descDirectories, float64(now.Kept), "kept")
	gauge(descDirectories, float64(now.Orphaned), "orphaned")
	gauge(descBytes, float64(now.KeptBytes), "kept")
	gauge(descBytes, float64(now.OrphanedBytes), "orphaned")
}

// inspect gathers what the store doesn't say to drivers.
func (s *survey) inspect(ctx context.Context, gauge func(desc *prometheus.Desc, value float64, labels ...string)) (err error) {
	look, err := fsmeta.Inspect(filepath.Join(s.root, "meta"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, look.Close()) }()
	sum, err := look.Summary()
	if err != nil {
		return err
	}
	gauge(descAside, float64(sum.SetAside))
	gauge(descStoreDamage, float64(len(sum.Damage)))
	gauge(descJournal, float64(sum.JournalSize))
	gauge(descTransaction, float64(sum.Transaction))
	gauge(descCheckpoint, float64(sum.Checkpoint))
	lagging, damaged, err := s.countAll(ctx, look)
	if err != nil {
		return err
	}
	gauge(descLagging, float64(lagging))
	gauge(descDamaged, float64(damaged))
	return nil
}

// countAll returns how many names lag and how many snapshots are damaged, as it was found
// not long ago.
func (s *survey) countAll(ctx context.Context, look *fsmeta.Inspection) (lagging, damaged int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.at.IsZero() && time.Since(s.at) < surveyAge {
		return s.lagging, s.damaged, nil
	}
	lagging = len(look.Removed())
	for sight, err := range look.All(ctx) {
		switch {
		case err != nil && !errors.Is(err, fsmeta.ErrDamaged):
			return 0, 0, err
		case err == nil && sight.Damage != nil:
			damaged++
		case err == nil && sight.Lags != "":
			lagging++
		}
	}
	s.lagging, s.damaged, s.at = lagging, damaged, time.Now()
	return lagging, damaged, nil
}
