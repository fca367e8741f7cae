package main

import (
	"fmt"
	"strings"
)

// A target is what a figure has to be, and what we are out for.
type target struct {
	what string
	// must and aim bound the value: from above, or from below if more is set.
	must, aim float64
	more      bool
	unit      string
	value     func(r *results) (float64, bool)
}

// A targetResult is a target with what was measured.
type targetResult struct {
	What     string  `json:"what"`
	MustText string  `json:"must_be"`
	AimText  string  `json:"aim_at"`
	Measured string  `json:"measured"`
	Value    float64 `json:"value"`
	Must     string  `json:"must"`
	Aim      string  `json:"aim"`
}

const (
	stateMet    = "met"
	stateMissed = "missed"
	stateOpen   = "not measured"
)

const (
	acquire64 = "acquire, 64 connections, 500 bytes, TCP"
	store64   = "store, 64 connections, 500 bytes, TCP"
	acquire16 = "acquire, 64 connections × 16 pipelined, 500 bytes, TCP"
)

// noBound is a must or an aim that is none.
const noBound = -1

var targets = []target{
	{what: "state server, CPU of an acquire at 64 connections, by the C echo's", must: 1.65, aim: 1.45, value: ratio("server", acquire64, metricCPU, "holdfast", "C echo")},
	{what: "the same by Redis GET's", must: 1.3, aim: 1.2, value: ratio("server", acquire64, metricCPU, "holdfast", "Redis GET")},
	{what: "Redis lock script's by the same", must: 1.35, aim: 1.6, more: true, value: ratio("server", acquire64, metricCPU, "Redis lock", "holdfast")},
	{what: "state server, CPU of an acquire pipelined 16 deep, by the C echo's", must: 2, aim: 1.5, value: ratio("server", acquire16, metricCPU, "holdfast", "C echo")},
	{what: "Redis lock script's by the same", must: 5, aim: noBound, more: true, value: ratio("server", acquire16, metricCPU, "Redis lock", "holdfast")},
	{what: "the same by Redis GET's", must: noBound, aim: 1 + noDifference, value: ratio("server", acquire16, metricCPU, "holdfast", "Redis GET")},
	{what: "state server, allocations of an acquire", must: 0, aim: 0, value: figure("server", acquire64, metricAllocs, "holdfast")},
	{what: "the same of a store", must: 0, aim: 0, value: figure("server", store64, metricAllocs, "holdfast")},
	{what: "web requests per CPU second, through StateServer, by scs with Redis", must: 2, aim: 3, more: true, value: ratio("web", webServerCell, metricServed, "holdfast, StateServer", "scs, goredisstore")},
	{what: "Go client, loads by 64 goroutines, by valkey-go's GET", must: 1.5, aim: 2, more: true, value: ratio("client", "load, 64 goroutines", metricRate, "holdfast", "valkey-go")},
	{what: "Go client, loads by 1 goroutine, by go-redis' GET", must: 0.85, aim: 1, more: true, value: ratio("client", "load, 1 goroutine", metricRate, "holdfast", "go-redis")},
	{what: "one session, 32 requests at once: updates lost", must: 0, aim: 0, unit: "%", value: figure("contention", "32 requests at once", metricLost, "holdfast")},
	{what: "lock handed over between two processes, p50", must: 1000, aim: noBound, unit: "µs", value: figure("handover", handoverCell, metricP50, "holdfast")},
	{what: "requests of two processes served out of order", must: 0, aim: 0, value: figure("handover", handoverCell, metricWrong, "holdfast")},
	{what: "durable before the answer, 64 writers, by Redis' AOF always", must: 1.3, aim: 2, more: true, value: ratio("durable", durableCell, metricRate, "holdfast", "Redis")},
	{what: "written behind, CPU, by memory only", must: 1.15, aim: 1.05, value: ratio("durable", behindCell, metricCPU, "holdfast --sync interval", "holdfast --memory")},
	{what: "state server, many sessions by few: CPU of an acquire", must: 1.3, aim: 1.15, value: ratio("many", "acquire", metricCPU, "holdfast, many", "holdfast, few")},
	{what: "state server, many sessions by few: p99 of an acquire", must: 1.3, aim: 1.15, value: ratio("many", "acquire", metricP99, "holdfast, many", "holdfast, few")},
	{what: "state server, memory of many sessions, by Redis'", must: 1, aim: 0.85, value: ratio("many", "acquire", metricPerByte, "holdfast, many", "Redis GET, many")},
	{what: "InProc, get, lock, increment, touch: hot", must: 110, aim: 55, unit: "ns", value: figure("inproc", "hot", metricTime, oursInprocName)},
	{what: "the same, allocations", must: 0, aim: 0, value: figure("inproc", "hot", metricAllocs, oursInprocName)},
	{what: "the same cold: xsync's map by ours", must: 1, aim: 2.5, more: true, value: ratio("inproc", "cold", metricTime, "xsync", oursInprocName)},
	{what: "InProc, touch of a cold session", must: noBound, aim: 80, unit: "ns", value: figure("inproc", "touch", metricTime, "holdfast")},
	{what: "InProc, the longest read while very many sessions expire", must: 500, aim: noBound, unit: "µs", value: figure("expiry", "", metricMax, "holdfast inproc")},
	{what: "InProc, memory of a session of five values", must: 360, aim: 300, unit: "B", value: figure("memory", "", metricBytes, "holdfast")},
	{what: "middleware over the bare handler, InProc, a counter", must: 2000, aim: 1000, unit: "ns", value: excess("middleware", middlewareCount, metricTime, "holdfast, InProc", "bare")},
	{what: "the same, allocations", must: 6, aim: 3, value: excess("middleware", middlewareCount, metricAllocs, "holdfast, InProc", "bare")},
	{what: "five values, encode: msgp's map by ours", must: 2, aim: 3.5, more: true, value: ratio("items", "encode", metricTime, "tinylib/msgp, map", "holdfast")},
	{what: "five values, decode: msgp's map by ours", must: 1.5, aim: 1.8, more: true, value: ratio("items", "decode", metricTime, "tinylib/msgp, map", "holdfast")},
	{what: "five values, index only", must: 100, aim: 60, unit: "ns", value: figure("items", "index", metricTime, "holdfast")},
	{what: "the same, allocations", must: noBound, aim: 0, value: figure("items", "index", metricAllocs, "holdfast")},
}

// judge holds the results against the targets.
func (r *results) judge() {
	for _, t := range targets {
		res := targetResult{What: t.what, MustText: t.text(t.must), AimText: t.text(t.aim), Measured: "–", Must: stateOpen, Aim: stateOpen}
		if v, ok := t.value(r); ok {
			res.Value = v
			res.Measured = strings.TrimSpace(number(v) + " " + t.unit)
			res.Must, res.Aim = t.holds(v, t.must), t.holds(v, t.aim)
		}
		r.Targets = append(r.Targets, res)
	}
}

func (t *target) text(bound float64) string {
	sign := "≤"
	switch {
	case bound == noBound:
		return "–"
	case t.more:
		sign = "≥"
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", sign, number(bound), t.unit))
}

func (t *target) holds(v, bound float64) string {
	switch {
	case bound == noBound:
		return "–"
	case t.more == (v >= bound) || v == bound:
		return stateMet
	}
	return stateMissed
}

// find returns what was measured of a side; cell and side are named by how their
// names begin.
func (r *results) find(table, cell, side string, m metric) (float64, bool) {
	for _, t := range r.Tables {
		for _, c := range t.Cells {
			for _, s := range c.Sides {
				if f, ok := s.Figures[m.Name]; ok && t.Name == table && strings.HasPrefix(c.Name, cell) && strings.HasPrefix(s.Name, side) {
					return f.Median, true
				}
			}
		}
	}
	return 0, false
}

// figure is the median of one side.
func figure(table, cell string, m metric, side string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) { return r.find(table, cell, side, m) }
}

// ratio is the median of one side by that of another.
func ratio(table, cell string, m metric, side, by string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		a, ok := r.find(table, cell, side, m)
		b, also := r.find(table, cell, by, m)
		return a / b, ok && also && b != 0
	}
}

// excess is by how much the median of one side is above that of another.
func excess(table, cell string, m metric, side, over string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		a, ok := r.find(table, cell, side, m)
		b, also := r.find(table, cell, over, m)
		return a - b, ok && also
	}
}
