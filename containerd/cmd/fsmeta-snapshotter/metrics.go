//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
)

// Buckets of the histograms, in seconds. A call takes a millisecond on a quick disk, and
// seconds where the disk is busy or a parent is copied.
var seconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// metrics are those that are counted while the daemon works. The others are gathered when
// they are asked for, see survey.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	syncs    *prometheus.HistogramVec
	failures *prometheus.CounterVec
	healthy  prometheus.Gauge
}

// newMetrics returns those of a snapshotter of a kind in a root directory.
func newMetrics(kind, root string, sn snapshots.Snapshotter) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "fsmeta_calls_total", Help: "Calls of the snapshotter that have ended, by method and gRPC code."}, []string{"method", "code"}),
		latency:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "fsmeta_call_duration_seconds", Help: "How long calls take, by method.", Buckets: seconds}, []string{"method"}),
		syncs:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "fsmeta_sync_duration_seconds", Help: "How long it takes until something is on disk: metadata (a commit of a transaction) or content (of a snapshot).", Buckets: seconds}, []string{"of"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "fsmeta_sync_failures_total", Help: "How often that has failed."}, []string{"of"}),
		healthy:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "fsmeta_healthy", Help: "1 while the last probe of root, disk, store and socket was good, else 0."}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "fsmeta_info", Help: "1, with the version and the kind of snapshotter as labels.", ConstLabels: prometheus.Labels{"version": tool.Version(), "snapshotter": kind}})
	info.Set(1)
	for _, of := range []string{ofMetadata, ofContent} { // so that there is a 0 to begin with
		m.syncs.WithLabelValues(of)
		m.failures.WithLabelValues(of)
	}
	m.registry.MustRegister(m.calls, m.latency, m.syncs, m.failures, m.healthy, info, &survey{root: root, sn: sn},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// What is synced.
const (
	ofMetadata = "metadata"
	ofContent  = "content"
)

// count counts a call.
func (m *metrics) count(method string, code codes.Code, took time.Duration) {
	m.calls.WithLabelValues(method, code.String()).Inc()
	m.latency.WithLabelValues(method).Observe(took.Seconds())
}

// observer counts what waits for the disk.
func (m *metrics) observer() driver.Observer {
	count := func(of string) func(time.Duration, error) {
		return func(took time.Duration, err error) {
			m.syncs.WithLabelValues(of).Observe(took.Seconds())
			if err != nil {
				m.failures.WithLabelValues(of).Inc()
			}
		}
	}
	return driver.Observer{Metadata: count(ofMetadata), Content: count(ofContent)}
}

// health notes what the last probe has found.
func (m *metrics) health(ok bool) {
	m.healthy.Set(0)
	if ok {
		m.healthy.Set(1)
	}
}

// handler serves the metrics at /metrics, and Go's profiles at /debug/pprof/.
func (m *metrics) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, ErrorLog: log.L, ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// listenMetrics listens on an address, HOST:PORT or unix:PATH. A crash leaves the socket,
// and the next start takes its place.
func listenMetrics(ctx context.Context, address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listen(ctx, path)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--metrics-address: %w", err)
	}
	return l, nil
}

// serve serves the metrics until ctx ends. An error is logged, as the snapshotter
// goes on without.
func (m *metrics) serve(ctx context.Context, l net.Listener) {
	server := &http.Server{Handler: m.handler(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // what is asked for then is of no use
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		log.L.WithError(err).Error("the metrics are not served any more")
	}
}
