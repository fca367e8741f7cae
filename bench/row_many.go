package main

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/holdfast-session/holdfast/internal/load"
)

var manyRow = row{
	name:  "many",
	title: "State server: many sessions against few",
	note: "64 connections ask for sessions of 500 bytes at random, of a thousand (few) or of very many. The memory is what the process has more than when it began, " +
		"for each byte of the sessions' content. Ours keeps them in its folder besides, which is its default; Redis has no AOF.",
	metrics: []metric{metricCPU, metricP50, metricP99, metricRate, metricPerByte},
	cells:   manyCells,
}

func manyCells(s *suite) ([]cell, error) {
	works := []string{workAcquire, workStore}
	var cells []cell
	for _, work := range works {
		cells = append(cells, cell{name: fmt.Sprintf("%s, few and %s sessions", work, number(float64(s.many)))})
	}
	for _, size := range []struct {
		name  string
		count int
	}{{"few", min(1000, s.many)}, {"many", s.many}} {
		h := shape{work: workAcquire, connections: 64, depth: 1, bytes: smallSession, network: "tcp"}
		v, err := s.durable("--max-memory", "none")()
		if err != nil {
			return nil, err
		}
		var sessions *load.Sessions
		perByte, err := grown(v, size.count, func() error {
			sessions, err = v.open(h, size.count)
			return err
		})
		if err != nil {
			return nil, err
		}
		for i, work := range works {
			one, err := oursSide("holdfast, "+size.name, sessions, mixes[work])
			if err != nil {
				return nil, err
			}
			cells[i].sides = append(cells[i].sides, one.with(perByte))
		}
		r, err := s.redis("tcp", "")
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p := redisPeer(r, h)
		perByte, err = grown(r, size.count, func() error { return p.fill(h, size.count) })
		if err != nil {
			return nil, err
		}
		for i, work := range works {
			h.work = work
			p := redisPeer(r, h)
			one := p.side(h, size.count)
			one.name += ", " + size.name
			cells[i].sides = append(cells[i].sides, one.with(perByte))
		}
	}
	return cells, nil
}

// manyEnough is from how many sessions on a server's memory is theirs, and not its
// connections'.
const manyEnough = 10_000

// grown returns by how much a server's memory grows, per byte of the sessions that
// it is given; nothing where they are few.
func grown(v *server, count int, fill func() error) (figures, error) {
	before, err := load.Resident(v.pid)
	if err != nil {
		return nil, err
	}
	if err := fill(); err != nil {
		return nil, err
	}
	after, err := load.Resident(v.pid)
	if err != nil || count < manyEnough {
		return nil, err
	}
	return figures{metricPerByte.Name: float64(after-before) / float64(count*smallSession)}, nil
}

// with adds figures that were measured before.
func (s side) with(more figures) side {
	return side{s.name, func(ctx context.Context, w window) (figures, error) {
		f, err := s.measure(ctx, w)
		if err == nil {
			maps.Copy(f, more)
		}
		return f, err
	}}
}
