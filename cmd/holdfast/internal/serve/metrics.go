package serve

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-session/holdfast/internal/certs"
	"github.com/holdfast-session/holdfast/stateserver"
)

// figures are what Prometheus collects: the counts that the server and the store keep
// anyway, read when somebody asks.
type figures struct {
	admin        *admin
	certificates *certs.Files // nil without TLS
	version      string
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_"+name, help, labels, nil)
}

var (
	descBuild    = desc("build_info", "What this is; always 1.", "version")
	descReady    = desc("ready", "1 while it serves.")
	descCert     = desc("certificate_expires_seconds", "When the certificate expires, in seconds since 1970.")
	descRequests = desc("requests_total", "Requests by call and outcome; those of old clients have the names of their methods.", "call", "outcome")
	descLatency  = desc("request_seconds", "Time from a request's arrival to its answer, without the network and without those that waited for a lock.")
	descWaited   = desc("request_waited_seconds", "The same of requests that waited for a lock.")
	descIn       = desc("received_bytes_total", "Bytes read from clients.")
	descOut      = desc("sent_bytes_total", "Bytes written to clients.")
	descAccepted = desc("connections_accepted_total", "Connections that there were.")
	descConns    = desc("connections", "Connections that are open.")
	descWaiting  = desc("requests_waiting", "Requests that wait for a lock.")
	descBuffered = desc("buffered_bytes", "Memory that large requests take at this moment.")
	descRefused  = desc("refused_total", "Connections and requests that were refused, by reason.", "reason")
)

// Describe implements [prometheus.Collector]. It describes nothing, so that what is
// collected may depend on the store.
func (f *figures) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (f *figures) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge(descBuild, 1, f.version)
	ready := 0.0
	if *f.admin.notReady.Load() == "" {
		ready = 1
	}
	gauge(descReady, ready)
	if f.certificates != nil {
		gauge(descCert, float64(f.certificates.Expires().Unix()))
	}
	seen := f.admin.observed.Load()
	if seen.engine != nil {
		seen.engine.collect(gauge, count)
	}
	if seen.state == nil {
		return
	}
	t := seen.state.Stats()
	for kind, n := range t.Requests {
		count(descRequests, float64(n), kind.Call, kind.Outcome)
	}
	to <- histogram(descLatency, &t.Latency)
	to <- histogram(descWaited, &t.Waited)
	count(descIn, float64(t.BytesIn))
	count(descOut, float64(t.BytesOut))
	count(descAccepted, float64(t.Accepted))
	gauge(descConns, float64(t.Conns))
	gauge(descWaiting, float64(t.Waiting))
	gauge(descBuffered, float64(t.Buffered))
	for reason, n := range t.Refused {
		count(descRefused, float64(n), reason)
	}
}

// histogram is h as Prometheus counts: each bucket with those below it.
func histogram(d *prometheus.Desc, h *stateserver.Histogram) prometheus.Metric {
	buckets := make(map[float64]uint64)
	total := uint64(0)
	for i, n := range h.Buckets {
		total += n
		bound := stateserver.BucketBound(i).Seconds()
		if i == len(h.Buckets)-1 {
			bound = math.Inf(1)
		}
		buckets[bound] = total
	}
	return prometheus.MustNewConstHistogram(d, total, h.Sum.Seconds(), buckets)
}

// A sample passes one figure on.
type sample = func(d *prometheus.Desc, v float64, labels ...string)
