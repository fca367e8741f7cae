package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAgree(t *testing.T) {
	run := func(sides ...[]float64) *results {
		c := cellResult{Name: "cell"}
		for i, values := range sides {
			s := sideResult{Name: string(rune('a' + i)), Figures: map[string]summary{metricTime.Name: summarize(values)}}
			if i > 0 {
				v := compare(c.Sides[0].Figures[metricTime.Name], s.Figures[metricTime.Name])
				s.Verdict = &v
			}
			c.Sides = append(c.Sides, s)
		}
		return &results{Tables: []tableResult{{Name: "row", Title: "Row", Metrics: []metric{metricTime}, Cells: []cellResult{c}}}}
	}
	first := run([]float64{10, 11, 12}, []float64{20, 22, 24}, []float64{5, 5, 5})
	for name, c := range map[string]struct {
		other *results
		want  agreement
	}{
		"itself":                       {first, agreement{figures: 3, overlap: 3, ratios: 2, agree: 2}},
		"a machine of half the speed":  {run([]float64{20, 22, 24}, []float64{40, 44, 48}, []float64{10, 10, 10}), agreement{figures: 3, ratios: 2, agree: 2}},
		"one is much slower":           {run([]float64{10, 11, 12}, []float64{40, 44, 48}, []float64{5, 5, 5}), agreement{figures: 3, overlap: 2, ratios: 2, agree: 1, off: []string{"row: cell: b: 2.00 and 4.00"}}},
		"the other way round":          {run([]float64{10, 11, 12}, []float64{20, 22, 24}, []float64{50, 55, 60}), agreement{figures: 3, overlap: 2, ratios: 2, agree: 1, off: []string{"row: cell: c: 0.455 and 5.00"}, contradicted: []string{"row: cell: c: 0.455 and 5.00"}}},
		"one that was not there":       {run([]float64{10, 11, 12}, []float64{20, 22, 24}), agreement{figures: 2, overlap: 2, ratios: 1, agree: 1}},
		"nothing, which has no ratio":  {run([]float64{0, 0, 0}, []float64{20, 22, 24}), agreement{figures: 2, overlap: 1}},
		"a contender that is as quick": {run([]float64{10, 11, 12}, []float64{10, 11, 24}, []float64{5, 5, 5}), agreement{figures: 3, overlap: 3, ratios: 2, agree: 2}},
	} {
		if d := cmp.Diff(c.want, agree(first, c.other), cmp.AllowUnexported(agreement{})); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}

	dir, otherDir := t.TempDir(), t.TempDir()
	other := filepath.Join(otherDir, "LATEST.json")
	said := new(bytes.Buffer)
	if err := agrees(said, dir, other); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("without results: %v", err)
	}
	for d, r := range map[string]*results{dir: first, otherDir: run([]float64{10, 11, 12}, []float64{40, 44, 48}, []float64{50, 55, 60})} {
		r.Kind = "standard"
		if err := r.write(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := agrees(said, dir, other); err != nil {
		t.Fatal(err)
	}
	want := "0 of 2 ratios to the first of their cell agree within the spread of both runs; 1 of 3 ranges overlap\n" +
		"differ: row: cell: b: 2.00 and 4.00\ndiffer: row: cell: c: 0.455 and 5.00\ncontradict each other: row: cell: c: 0.455 and 5.00\n"
	if d := cmp.Diff(want, said.String()); d != "" {
		t.Error(d)
	}
	if err := (&results{Kind: "standard"}).write(otherDir); err != nil {
		t.Fatal(err)
	}
	if err := agrees(said, dir, other); err == nil || !strings.Contains(err.Error(), "no cell in common") {
		t.Errorf("of nothing: %v", err)
	}
}

// agrees asks whether the results in a folder agree with another run's.
func agrees(said *bytes.Buffer, dir, other string) error {
	return run([]string{"-out", dir, "-agree", other}, said, said)
}
