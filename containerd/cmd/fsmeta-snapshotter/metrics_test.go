//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// scraper asks for metrics over a unix socket.
func scraper(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
}

// get returns what is served there.
func get(t *testing.T, from *http.Client, path string) string {
	t.Helper()
	response, err := from.Get("http://daemon" + path)
	must(t, err)
	defer response.Body.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(response.Body)
	must(t, err)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", path, response.Status, body)
	}
	return string(body)
}

// scrape returns the values of the own metrics, each as NAME{LABEL=VALUE,…}, of histograms the
// number of observations.
func scrape(t *testing.T, from *http.Client) (values map[string]float64) {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(get(t, from, "/metrics")))
	must(t, err)
	values = map[string]float64{}
	for name, family := range families {
		if !strings.HasPrefix(name, "fsmeta_") {
			continue
		}
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			if family.GetType() == dto.MetricType_HISTOGRAM {
				value = float64(m.GetHistogram().GetSampleCount())
			}
			values[name+"{"+strings.Join(labels, ",")+"}"] = value
		}
	}
	return values
}

// What is scraped says what was done, and how things stand on the disk.
func TestMetrics(t *testing.T) {
	root, dir := filepath.Join(t.TempDir(), "root"), t.TempDir()
	address, metrics := filepath.Join(dir, "sock"), filepath.Join(dir, "metrics")
	p := startDaemon(t, "--root", root, "--address", address, "--snapshotter", "native", "--metrics-address", "unix:"+metrics).ready()
	sn, from := client(connect(t, address)), scraper(metrics)
	for i := range 3 {
		key := fmt.Sprint("key", i)
		_, err := sn.Prepare(t.Context(), key, "")
		must(t, err)
		must(t, sn.Commit(t.Context(), fmt.Sprint("name", i), key))
	}
	_, err := sn.Prepare(t.Context(), "active", "name0")
	must(t, err)
	_, err = sn.View(t.Context(), "view", "name0")
	must(t, err)
	if _, err := sn.View(t.Context(), "view", "name0"); err == nil {
		t.Error("a snapshot was made twice")
	}
	must(t, sn.Remove(t.Context(), "name2"))
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) { // the first probe may not be over
		if values := scrape(t, from); values["fsmeta_healthy{}"] == 1 && values["fsmeta_cleanup_timestamp_seconds{}"] > 0 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the daemon does not become healthy: %v", values)
		}
	}
	values := scrape(t, from)
	for name, want := range map[string]float64{
		"fsmeta_calls_total{code=OK,method=Prepare}":         4,
		"fsmeta_calls_total{code=OK,method=Commit}":          3,
		"fsmeta_calls_total{code=OK,method=View}":            1,
		"fsmeta_calls_total{code=AlreadyExists,method=View}": 1,
		"fsmeta_calls_total{code=OK,method=Remove}":          1,
		"fsmeta_call_duration_seconds{method=View}":          2,
		"fsmeta_sync_duration_seconds{of=content}":           8,
		"fsmeta_sync_failures_total{of=content}":             0,
		"fsmeta_sync_failures_total{of=metadata}":            0,
		"fsmeta_snapshots{kind=active}":                      1,
		"fsmeta_snapshots{kind=view}":                        1,
		"fsmeta_snapshots{kind=committed}":                   2,
		"fsmeta_snapshots_lagging{}":                         0,
		"fsmeta_snapshots_damaged{}":                         0,
		"fsmeta_snapshots_missing{}":                         0,
		"fsmeta_snapshots_set_aside{}":                       0,
		"fsmeta_directories{state=kept}":                     0,
		"fsmeta_directories_bytes{state=orphaned}":           0,
		"fsmeta_store_damage{}":                              0,
		"fsmeta_info{snapshotter=native,version=(devel)}":    1,
	} {
		if got, there := values[name]; !there || got != want {
			t.Errorf("%s is %v (%v), not %v", name, got, there, want)
		}
	}
	if commits := values["fsmeta_sync_duration_seconds{of=metadata}"]; commits < 9 {
		t.Errorf("%v commits of metadata were counted", commits)
	}
	checkStore(t, root, values)
	if profile := get(t, from, "/debug/pprof/goroutine?debug=1"); !strings.Contains(profile, "goroutine profile") {
		t.Errorf("this is no profile: %.200s", profile)
	}
	p.stop()
	if _, err := os.Lstat(metrics); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a stopped daemon leaves the socket for metrics: %v", err)
	}
}

// checkStore compares metrics with what an inspection says of the store.
func checkStore(t *testing.T, root string, values map[string]float64) {
	t.Helper()
	look, err := fsmeta.Inspect(filepath.Join(root, "meta"))
	must(t, err)
	defer func() { must(t, look.Close()) }()
	sum, err := look.Summary()
	must(t, err)
	for name, want := range map[string]float64{"journal_bytes": float64(sum.JournalSize), "transaction": float64(sum.Transaction), "checkpoint_transaction": float64(sum.Checkpoint)} {
		if got, there := values["fsmeta_"+name+"{}"]; !there || got != want {
			t.Errorf("fsmeta_%s is %v (%v), and the store says %v", name, got, there, want)
		}
	}
	if sum.JournalSize == 0 || sum.Transaction == 0 {
		t.Errorf("the store says %+v", sum)
	}
}

// A damaged snapshot, a set aside one and what is kept for them are counted.
func TestMetricsOfDamage(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	sn, _, err := open(serveOptions{root: root, kind: "native"})
	must(t, err)
	for _, key := range []string{"whole", "damaged"} {
		_, err := sn.Prepare(t.Context(), key, "")
		must(t, err)
	}
	must(t, sn.Close())
	must(t, os.WriteFile(filepath.Join(root, "meta", "snapshots", "damaged", "metadata.json"), []byte("{"), 0o600))
	must(t, os.Mkdir(filepath.Join(root, "snapshots", "rm-2"), 0o700))
	dir := t.TempDir()
	address, metrics := filepath.Join(dir, "sock"), filepath.Join(dir, "metrics")
	p := startDaemon(t, "--root", root, "--address", address, "--snapshotter", "native", "--metrics-address", "unix:"+metrics).ready()
	values := scrape(t, scraper(metrics))
	if values["fsmeta_snapshots_damaged{}"] != 1 || values["fsmeta_snapshots{kind=active}"] != 1 {
		t.Errorf("one of two snapshots is damaged, and the metrics say %v", values)
	}
	p.stop()
	if _, err := fsmeta.Repair(t.Context(), filepath.Join(root, "meta"), nil); err != nil {
		t.Fatal(err)
	}
	startDaemon(t, "--root", root, "--address", address, "--snapshotter", "native", "--metrics-address", "unix:"+metrics).ready()
	if values := scrape(t, scraper(metrics)); values["fsmeta_snapshots_set_aside{}"] != 1 || values["fsmeta_snapshots_damaged{}"] != 0 {
		t.Errorf("one snapshot is set aside, and the metrics say %v", values)
	}
}

// The names keep to Prometheus's rules, and docs/operations.md lists them all, and no others.
func TestMetricsAreDocumented(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	sn, _, err := open(serveOptions{root: root, kind: "native"})
	must(t, err)
	defer func() { must(t, sn.Close()) }()
	m := newMetrics("native", root, sn)
	m.count("Stat", 0, time.Second)
	problems, err := testutil.GatherAndLint(m.registry)
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families, err := m.registry.Gather()
	must(t, err)
	are := map[string]bool{}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "fsmeta_") {
			are[f.GetName()] = true
		}
	}
	text, err := os.ReadFile("../../../docs/operations.md")
	must(t, err)
	said := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "| `fsmeta_"); ok {
			name, _, _ = strings.Cut(name, "`")
			name, _, _ = strings.Cut(name, "{")
			said["fsmeta_"+name] = true
		}
	}
	if !maps.Equal(are, said) {
		t.Errorf("docs/operations.md lists\n%v\nand the metrics are\n%v", slices.Sorted(maps.Keys(said)), slices.Sorted(maps.Keys(are)))
	}
}
