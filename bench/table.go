package main

import (
	"context"
	"fmt"
	"time"
)

// A row is one subject of the suite: a file of its own, and a table in the results.
type row struct {
	name  string
	title string
	note  string
	// metrics are the columns; contenders are compared by the first.
	metrics []metric
	// slow is a row that a quick run measures once only.
	slow bool
	// charted are how the names of the cells begin that the chart shows; the first if
	// there are none.
	charted []string
	// cells starts what the row needs, and says what is measured.
	cells func(*suite) ([]cell, error)
}

// A cell is the same work done by several contenders.
type cell struct {
	name  string
	sides []side
}

// A side is a contender in a cell. The first is the one that the others are
// compared with.
type side struct {
	name string
	// measure does the work once, for about the time of w.
	measure func(ctx context.Context, w window) (figures, error)
}

// A window is how long one measurement takes.
type window struct{ warmup, measure time.Duration }

// A tableResult is a row as it was measured.
type tableResult struct {
	Name    string       `json:"name"`
	Title   string       `json:"title"`
	Note    string       `json:"note,omitempty"`
	Metrics []metric     `json:"metrics"`
	Charted []string     `json:"charted,omitempty"`
	Cells   []cellResult `json:"cells"`
}

type cellResult struct {
	Name  string       `json:"name"`
	Sides []sideResult `json:"sides"`
}

type sideResult struct {
	Name    string             `json:"name"`
	Figures map[string]summary `json:"figures"`
	// Verdict compares the first metric with that of the cell's first side.
	Verdict *verdict `json:"verdict,omitempty"`
}

// run measures a row: in each cell the sides by turns, round after round, so that
// what else happens on the machine befalls all of them.
func (s *suite) run(ctx context.Context, r row) (tableResult, error) {
	t := tableResult{Name: r.name, Title: r.title, Note: r.note, Metrics: r.metrics, Charted: r.charted}
	defer s.cleanUp()
	cells, err := r.cells(s)
	if err != nil {
		return t, fmt.Errorf("%s: %w", r.name, err)
	}
	for _, c := range cells {
		if len(c.sides) == 0 {
			continue
		}
		begin := time.Now()
		res, err := s.runCell(ctx, r, c)
		if err != nil {
			return t, fmt.Errorf("%s: %s: %w", r.name, c.name, err)
		}
		t.Cells = append(t.Cells, res)
		first := res.Sides[0].Figures[r.metrics[0].Name]
		fmt.Fprintf(s.log, "%s: %s: %s %s %s (%.0fs)\n", r.name, c.name, res.Sides[0].Name, number(first.Median), r.metrics[0].Unit, time.Since(begin).Seconds())
	}
	return t, nil
}

// roundsOf is how often a row is measured.
func (s *suite) roundsOf(r row) int {
	if r.slow && s.quick {
		return 1
	}
	return s.rounds
}

func (s *suite) runCell(ctx context.Context, r row, c cell) (cellResult, error) {
	values := make([]map[string][]float64, len(c.sides))
	for round := range s.roundsOf(r) {
		for i, side := range c.sides {
			f, err := side.measure(ctx, s.window)
			if err != nil {
				return cellResult{}, fmt.Errorf("%s, round %d: %w", side.name, round+1, err)
			}
			if _, ok := f[r.metrics[0].Name]; !ok {
				return cellResult{}, fmt.Errorf("%s: %s was not measured", side.name, r.metrics[0].Name)
			}
			if values[i] == nil {
				values[i] = make(map[string][]float64)
			}
			for name, v := range f {
				values[i][name] = append(values[i][name], v)
			}
		}
	}
	res := cellResult{Name: c.name}
	for i, side := range c.sides {
		sr := sideResult{Name: side.name, Figures: make(map[string]summary)}
		for name, v := range values[i] {
			sr.Figures[name] = summarize(v)
		}
		if i > 0 {
			main := r.metrics[0].Name
			v := compare(res.Sides[0].Figures[main], sr.Figures[main])
			sr.Verdict = &v
		}
		res.Sides = append(res.Sides, sr)
	}
	return res, nil
}
