package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

var durableRow = row{
	name:  "durable",
	title: "State server: sessions written to disk",
	note: "Sessions of 500 bytes are saved over TCP. Written before the answer: an answer means that the session is on the disk (at ours --sync always, at Redis appendfsync always). " +
		"Written behind: at most the last interval is lost in a power cut (--sync interval; appendfsync everysec), against servers that keep nothing.",
	metrics: []metric{metricRate, metricP50, metricP99, metricCPU},
	charted: []string{durableCell, behindCell},
	cells:   durableCells,
}

const (
	durableCell = "written before the answer, 64 connections"
	behindCell  = "written behind, 64 connections"
)

func durableCells(s *suite) ([]cell, error) {
	if !s.onDisk() {
		return nil, nil
	}
	ok, err := s.serveHas("--data")
	if err != nil {
		return nil, err
	}
	if !ok {
		s.missing("durability: this holdfast serve has no --data")
		return nil, nil
	}
	always := []contender{
		{"holdfast --sync always", s.durable("--sync", "always")},
		{"Redis, AOF always", s.aof("always")},
	}
	behind := []contender{
		{"holdfast --memory", func() (*server, error) { return s.holdfast("tcp", "--memory") }},
		{"holdfast --sync interval", s.durable("--sync", "interval")},
		{"holdfast --sync never", s.durable("--sync", "never")},
		{"Redis, no AOF", s.aof("")},
		{"Redis, AOF everysec", s.aof("everysec")},
	}
	var cells []cell
	for _, c := range []struct {
		name        string
		connections int
		contenders  []contender
	}{
		{durableCell, 64, always},
		{"written before the answer, 1 connection", 1, always},
		{behindCell, 64, behind},
	} {
		one := cell{name: c.name}
		for _, k := range c.contenders {
			v, err := k.start()
			if errors.Is(err, errAbsent) {
				continue
			}
			if err != nil {
				return nil, err
			}
			made, err := k.storing(v, c.connections)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k.name, err)
			}
			one.sides = append(one.sides, made)
		}
		cells = append(cells, one)
	}
	return cells, nil
}

// onDisk reports whether what is written gets onto a disk.
func (s *suite) onDisk() bool {
	if fileSystem(s.dir) == "tmpfs" {
		s.missing("durability: the temporary files are in memory; name a folder on a disk with -dir")
		return false
	}
	return true
}

// A contender is a way to start a server.
type contender struct {
	name  string
	start func() (*server, error)
}

// durable starts our server with a new folder.
func (s *suite) durable(args ...string) func() (*server, error) {
	return func() (*server, error) {
		dir, err := s.temp("data-")
		if err != nil {
			return nil, err
		}
		return s.holdfast("tcp", append([]string{"--data", dir}, args...)...)
	}
}

func (s *suite) aof(durable string) func() (*server, error) {
	return func() (*server, error) { return s.redis("tcp", durable) }
}

// storing gives a server sessions, and then writes them over and over.
func (k contender) storing(v *server, connections int) (side, error) {
	h := shape{work: workStore, connections: connections, depth: 1, bytes: smallSession, network: "tcp"}
	if strings.HasPrefix(k.name, "holdfast") {
		sessions, err := v.open(h, h.sessions())
		if err != nil {
			return side{}, err
		}
		return oursSide(k.name, sessions, mixes[workStore])
	}
	p := redisPeer(v, h)
	if err := p.fill(h, h.sessions()); err != nil {
		return side{}, err
	}
	one := p.side(h, h.sessions())
	one.name = k.name
	return one, nil
}

// redisPeer is Redis without a lock.
func redisPeer(v *server, h shape) peer {
	all := (&contenders{redis: v}).peers(h)
	return all[slices.IndexFunc(all, func(p peer) bool { return len(p.steps) == 1 && !strings.Contains(p.name, "script") })]
}
