package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// results are one run, as LATEST.json has it.
type results struct {
	Date    string         `json:"date"`
	Kind    string         `json:"kind"`
	Rounds  int            `json:"rounds"`
	Minutes float64        `json:"minutes"`
	Machine machine        `json:"machine"`
	Missing []string       `json:"missing,omitempty"`
	Failed  []string       `json:"failed,omitempty"`
	Targets []targetResult `json:"targets"`
	Tables  []tableResult  `json:"tables"`
}

func newResults(s *suite) *results {
	kind := "standard"
	switch {
	case s.quick:
		kind = "quick"
	case s.full:
		kind = "full"
	}
	return &results{Date: time.Now().UTC().Format(time.DateOnly), Kind: kind, Rounds: s.rounds, Machine: thisMachine(s)}
}

// write writes LATEST.md, LATEST.json and the charts.
func (r *results) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "LATEST.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "LATEST.md"), r.markdown(), 0o644); err != nil {
		return err
	}
	return r.writeCharts(dir)
}

// short says in a line how the targets stand.
func (r *results) short() string {
	met, missed, open := 0, 0, 0
	for _, t := range r.Targets {
		switch t.Must {
		case stateMet:
			met++
		case stateMissed:
			missed++
		default:
			open++
		}
	}
	return fmt.Sprintf("%d musts met, %d missed, %d not measured", met, missed, open)
}

func (r *results) markdown() []byte {
	var b bytes.Buffer
	m := r.Machine
	fmt.Fprintf(&b, "# Side by side\n\n")
	fmt.Fprintf(&b, "Written by `make bench`; do not edit. %s run of %s: %d rounds, %.0f minutes.\n\n", strings.ToUpper(r.Kind[:1])+r.Kind[1:], r.Date, r.Rounds, r.Minutes)
	fmt.Fprintf(&b, "%s, %d processors", m.CPU, m.Processors)
	if m.MemoryGiB > 0 {
		fmt.Fprintf(&b, ", %d GiB", m.MemoryGiB)
	}
	fmt.Fprintf(&b, "; %s", m.System)
	if m.Disk != "" {
		fmt.Fprintf(&b, ", %s", m.Disk)
	}
	if m.Load != "" {
		fmt.Fprintf(&b, "; load average when it began %s", m.Load)
		if atof(m.Load) > float64(m.Processors)/4 {
			fmt.Fprintf(&b, ", so the machine was not quiet")
		}
	}
	fmt.Fprintf(&b, ".\n\n")
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		versions = append(versions, name+" "+m.Versions[name])
	}
	fmt.Fprintf(&b, "Versions: %s.\n\n", strings.Join(versions, "; "))
	fmt.Fprintf(&b, "All contenders of a cell took turns in each round. Figures are medians of the rounds; \"low–high\" is the whole range of the first column. "+
		"\"× first\" compares with the first line of the cell, and says so where the difference is hidden by the spread or under 15 %%.\n\n")
	for _, list := range []struct {
		title string
		lines []string
	}{{"Not measured", r.Missing}, {"Failed", r.Failed}} {
		if len(list.lines) > 0 {
			fmt.Fprintf(&b, "%s:\n\n", list.title)
			for _, line := range list.lines {
				fmt.Fprintf(&b, "- %s\n", line)
			}
			fmt.Fprintln(&b)
		}
	}
	fmt.Fprintf(&b, "## Targets\n\n| what | must | aim | measured | must | aim |\n|---|---|---|---|---|---|\n")
	for _, t := range r.Targets {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", t.What, t.MustText, t.AimText, t.Measured, t.Must, t.Aim)
	}
	for _, t := range r.Tables {
		t.markdown(&b)
	}
	return b.Bytes()
}

func (t *tableResult) markdown(b *bytes.Buffer) {
	fmt.Fprintf(b, "\n## %s\n\n![%[1]s](%s)\n\n", t.Title, t.chartFile())
	if t.Note != "" {
		fmt.Fprintf(b, "%s\n\n", t.Note)
	}
	used := slices.DeleteFunc(slices.Clone(t.Metrics), func(m metric) bool { return !t.has(m) })
	head := []string{""}
	for i, m := range used {
		head = append(head, strings.TrimSuffix(m.Name+", "+m.Unit, ", "))
		if i == 0 {
			head = append(head, "low–high", "× first")
		}
	}
	fmt.Fprintf(b, "| %s |\n|---|%s\n", strings.Join(head, " | "), strings.Repeat("--:|", len(head)-1))
	for _, c := range t.Cells {
		fmt.Fprintf(b, "| **%s** |%s\n", c.Name, strings.Repeat(" |", len(head)-1))
		for _, s := range c.Sides {
			fmt.Fprintf(b, "| %s ", s.Name)
			for i, m := range used {
				f, ok := s.Figures[m.Name]
				if !ok {
					fmt.Fprintf(b, "| ")
					continue
				}
				fmt.Fprintf(b, "| %s ", m.text(f.Median))
				if i == 0 {
					fmt.Fprintf(b, "| %s–%s | %s ", number(f.Low), number(f.High), s.ratio())
				}
			}
			fmt.Fprintf(b, "|\n")
		}
	}
}

func (t *tableResult) has(m metric) bool {
	for _, c := range t.Cells {
		for _, s := range c.Sides {
			if _, ok := s.Figures[m.Name]; ok {
				return true
			}
		}
	}
	return false
}

func (s *sideResult) ratio() string {
	switch {
	case s.Verdict == nil:
		return "1"
	case s.Verdict.Clear && s.Verdict.Ratio > 0:
		return number(s.Verdict.Ratio)
	case s.Verdict.Ratio > 0:
		return number(s.Verdict.Ratio) + " (" + s.Verdict.Why + ")"
	}
	return s.Verdict.Why
}

// number writes a figure with three digits or more.
func number(v float64) string {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	text := strconv.FormatFloat(v, 'f', min(digits, 4), 64)
	whole, rest, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		return whole + "." + rest
	}
	return whole
}

func atof(s string) float64 {
	v, _ := strconv.ParseFloat(strings.TrimSpace(s), 64)
	return v
}
