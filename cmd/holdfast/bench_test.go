package main

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestBench(t *testing.T) {
	server := start(t, "serve", "--listen", "127.0.0.1:0", "--memory")
	addr := server.ready(ready)

	p := start(t, "bench", addr, "--connections", "4", "--depth", "2", "--sessions", "10", "--mix", "load:3,lock+save",
		"--warmup", "10ms", "--duration", "100ms", "--json")
	if status := p.wait(); status != 0 {
		t.Fatalf("status %d: %s", status, p.stderr)
	}
	var r benchReport
	if err := json.Unmarshal([]byte(p.stdout.String()), &r); err != nil {
		t.Fatalf("%v: %s", err, p.stdout)
	}
	if r.Server != "Holdfast" || r.Connections != 4 || r.Depth != 2 || r.Sessions != 10 || r.Mix != "load:3,lock+save" {
		t.Errorf("reported %+v", r)
	}
	var names []string
	for _, s := range r.Requests {
		names = append(names, s.Name)
		if s.Count == 0 || s.Refused != 0 || s.PerSecond <= 0 || s.P50 <= 0 || s.P50 > s.P99 || s.P99 > s.P999 || s.P999 > s.Max {
			t.Errorf("%+v", s)
		}
	}
	if got := strings.Join(names, " "); got != "load lock save all" {
		t.Errorf("requests %q", got)
	}
	if runtime.GOOS == "linux" && (r.CPUPerRequest <= 0 || r.CPUs <= 0) {
		t.Errorf("the server's processor time: %v µs per request, %v processors", r.CPUPerRequest, r.CPUs)
	}

	p = start(t, "bench", addr, "--connections", "2", "--sessions", "2", "--mix", "load", "--warmup", "0", "--duration", "50ms")
	if status := p.wait(); status != 0 {
		t.Fatalf("status %d: %s", status, p.stderr)
	}
	for _, want := range []string{addr + " (Holdfast), 2 connections with 1 under way, 2 sessions of 500 bytes", "p99.9", "load"} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("it printed %q, want %q", p.stdout, want)
		}
	}
	server.stop()
}

func TestBenchTLS(t *testing.T) {
	dir, hour := t.TempDir(), time.Now().Add(time.Hour)
	ours := newAuthority(t, "ours")
	ca := ours.file(dir, "ca")
	cert, key := ours.sign(dir, "server", hour)
	mine, mineKey := ours.sign(dir, "mine", hour)
	server := start(t, "serve", "--listen", "127.0.0.1:0", "--memory", "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ca)
	bench := func(status int, want string, flags ...string) {
		t.Helper()
		p := start(t, append([]string{"bench", server.ready(ready), "--connections", "2", "--depth", "3", "--sessions", "6", "--warmup", "0", "--duration", "50ms"}, flags...)...)
		if got := p.wait(); got != status || !strings.Contains(p.stdout.String()+p.stderr.String(), want) {
			t.Errorf("%s: status %d, %s%s; want %q", flags, got, p.stdout, p.stderr, want)
		}
	}
	bench(0, "(Holdfast), 2 connections with 3 under way", "--tls-ca", ca, "--tls-cert", mine, "--tls-key", mineKey)
	bench(1, "if the server encrypts, add --tls")
	bench(1, "with --tls-ca", "--tls")
	bench(1, "name its file with --tls-cert", "--tls-ca", ca)
	server.stop()
}

func TestBenchMistakes(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"nowhere"}, "write host:port"},
		{[]string{"--connections", "0"}, "--connections: at least 1"},
		{[]string{"--depth", "0"}, "--depth: at least 1"},
		{[]string{"--hot", "2"}, "--hot: from 0 to 1"},
		{[]string{"--duration", "0"}, "--duration: more than 0"},
		{[]string{"--mix", "fetch"}, `--mix: mix "fetch": there is no request "fetch"`},
		{[]string{"127.0.0.1:1", "--pid", "1"}, "connection refused"},
		{[]string{"127.0.0.1:1", "--pid", "1", "-n", "3"}, "too few for 64 connections"},
	} {
		p := start(t, append([]string{"bench"}, c.args...)...)
		if status := p.wait(); status != 1 || !strings.Contains(p.stderr.String(), c.want) {
			t.Errorf("%v: status %d: %q, want %q", c.args, status, p.stderr, c.want)
		}
	}
}
