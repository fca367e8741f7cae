package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// An agreement says how two runs of the suite on one machine compare, by the first
// metric of each row.
type agreement struct {
	figures, overlap int      // how many figures both have, and how many ranges overlap
	ratios, agree    int      // the same of ratios to the first of the cell
	off              []string // the ratios that differ by more than both runs' spread
	contradicted     []string // those of which one run says clearly more, the other less
}

// agree compares the runs. The machine's speed drifts from one run to the next, which
// figures show and ratios do not, since contenders take turns.
func agree(one, other *results) (a agreement) {
	others := make(map[string]measured)
	other.each(func(name string, y measured) { others[name] = y })
	one.each(func(name string, x measured) {
		y, ok := others[name]
		if !ok {
			return
		}
		a.figures++
		if x.Low <= y.High && y.Low <= x.High {
			a.overlap++
		}
		if x.verdict == nil || y.verdict == nil || x.first.Low <= 0 || y.first.Low <= 0 {
			return
		}
		a.ratios++
		both := fmt.Sprintf("%s: %s and %s", name, number(x.verdict.Ratio), number(y.verdict.Ratio))
		if x.Low/x.first.High <= y.High/y.first.Low && y.Low/y.first.High <= x.High/x.first.Low {
			a.agree++
		} else {
			a.off = append(a.off, both)
		}
		if x.verdict.Clear && y.verdict.Clear && (x.verdict.Ratio > 1) != (y.verdict.Ratio > 1) {
			a.contradicted = append(a.contradicted, both)
		}
	})
	return a
}

// A measured is what a contender reached, and the first one of its cell.
type measured struct {
	summary
	first   summary
	verdict *verdict // nil for the first one
}

// each calls f for every contender, by its row, cell and name.
func (r *results) each(f func(name string, m measured)) {
	for _, t := range r.Tables {
		metric := t.Metrics[0].Name
		for _, c := range t.Cells {
			for _, s := range c.Sides {
				f(t.Name+": "+c.Name+": "+s.Name, measured{s.Figures[metric], c.Sides[0].Figures[metric], s.Verdict})
			}
		}
	}
}

// compareRuns prints how the results in a folder agree with those of another run.
func compareRuns(w io.Writer, dir, other string) error {
	var runs [2]*results
	for i, file := range []string{filepath.Join(dir, "LATEST.json"), other} {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(b, &runs[i]); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	a := agree(runs[0], runs[1])
	if a.figures == 0 {
		return fmt.Errorf("%s and the results in %s have no cell in common", other, dir)
	}
	fmt.Fprintf(w, "%d of %d ratios to the first of their cell agree within the spread of both runs; %d of %d ranges overlap\n", a.agree, a.ratios, a.overlap, a.figures)
	for _, o := range a.off {
		fmt.Fprintln(w, "differ:", o)
	}
	for _, c := range a.contradicted {
		fmt.Fprintln(w, "contradict each other:", c)
	}
	return nil
}
