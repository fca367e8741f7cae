package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"strings"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The charts, one for each table: bars of the first metric. They are drawn by
// gonum.org/v1/plot, which is maintained, writes SVG itself, and needs neither a browser
// nor a network. There is no background, and the colours are as far from white as from
// GitHub's dark, so that one file serves both.

var (
	chartText  = color.RGBA{0x76, 0x80, 0x8b, 0xff} // 4.0 : 1 on white, 4.7 : 1 on #0d1117
	chartOurs  = color.RGBA{0x1f, 0x8f, 0x6d, 0xff}
	chartPeers = color.RGBA{0x8a, 0x94, 0xa3, 0xff}
)

const (
	chartWidth = 640 * vg.Length(1)
	chartLine  = 19 * vg.Length(1) // the height of a bar with what is around it
	chartFont  = 11
	// chartLetter is the width of a letter, with room for readers' wider letters: all
	// words begin at a fixed place, and none is placed by where it ends.
	chartLetter = 6.6 * vg.Length(1)
	chartValue  = 60 * vg.Length(1) // the width of a value behind its bar
	chartCells  = 2                 // at most, of a table
)

// A bar is a side in a chart; a bar without a value is a cell's name.
type bar struct {
	name, value string
	length      float64
	ours        bool
	head        bool
}

// bars are the sides of the cells that a chart shows: those that the row names, or the
// first.
func (t *tableResult) bars() []bar {
	m := t.Metrics[0]
	var all []bar
	shown := 0
	for _, c := range t.Cells {
		if shown == chartCells || !t.charted(c.Name) {
			continue
		}
		shown++
		all = append(all, bar{name: c.Name, head: true})
		for _, s := range c.Sides {
			v := s.Figures[m.Name].Median
			all = append(all, bar{name: s.Name, value: m.text(v), length: v, ours: ourSide(s.Name)})
		}
	}
	return all
}

// charted reports whether a chart shows a cell.
func (t *tableResult) charted(cell string) bool {
	if len(t.Charted) == 0 {
		return true
	}
	for _, prefix := range t.Charted {
		if strings.HasPrefix(cell, prefix) {
			return true
		}
	}
	return false
}

// ourSide reports whether a side is Holdfast's, as the log store's all are.
func ourSide(name string) bool {
	return strings.HasPrefix(name, "holdfast") || strings.HasPrefix(name, "after it was")
}

// chart draws a table.
func (t *tableResult) chart() ([]byte, error) {
	m := t.Metrics[0]
	better := "less is better"
	if m.More {
		better = "more is better"
	}
	title := fmt.Sprintf("%s: %s (%s)", t.Title, strings.TrimSuffix(m.Name+", "+m.Unit, ", "), better)
	bars := append([]bar{{name: title, head: true}}, t.bars()...)
	names, longest := 0, 0.0
	for _, b := range bars {
		if !b.head {
			names = max(names, len(b.name))
		}
		longest = max(longest, b.length)
	}
	// The bars begin at 0 and the longest ends at 1; what is on their sides is given as
	// shares of that.
	left := vg.Length(names) * chartLetter
	width := chartWidth - left - chartValue
	p := plot.New()
	p.BackgroundColor = color.Transparent
	p.HideAxes()
	p.X.Min, p.X.Max = -float64(left/width), 1+float64(chartValue/width)
	p.Y.Min, p.Y.Max = -0.5, float64(len(bars))-0.5
	style := text.Style{
		Color:  chartText,
		Font:   font.Font{Typeface: plot.DefaultFont.Typeface, Variant: "Sans", Size: chartFont},
		YAlign: draw.YCenter, Handler: plot.DefaultTextHandler,
	}
	for i, b := range bars {
		y := float64(len(bars) - 1 - i)
		words := plotter.XYLabels{XYs: plotter.XYs{{X: p.X.Min, Y: y}}, Labels: []string{b.name}}
		if !b.head {
			length := b.length / max(longest, math.SmallestNonzeroFloat64)
			one, err := plotter.NewBarChart(plotter.Values{length}, chartLine*0.7)
			if err != nil {
				return nil, err
			}
			one.Horizontal, one.XMin, one.LineStyle.Width, one.Color = true, y, 0, chartPeers
			if b.ours {
				one.Color = chartOurs
			}
			p.Add(one)
			words.XYs = append(words.XYs, plotter.XY{X: length, Y: y})
			words.Labels = append(words.Labels, b.value)
		}
		l, err := plotter.NewLabels(words)
		if err != nil {
			return nil, err
		}
		for i := range l.TextStyle {
			l.TextStyle[i] = style
			if b.head {
				l.TextStyle[i].Font.Weight = xfont.WeightBold
			}
		}
		l.Offset.X = vg.Points(3)
		p.Add(l)
	}

	c := vgsvg.New(chartWidth, chartLine*vg.Length(len(bars)))
	p.Draw(draw.New(c))
	var out bytes.Buffer
	if _, err := c.WriteTo(&out); err != nil {
		return nil, err
	}
	// In the letters that a reader has.
	return bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif")), nil
}

// writeCharts draws all tables into a folder.
func (r *results) writeCharts(dir string) error {
	for _, t := range r.Tables {
		svg, err := t.chart()
		if err != nil {
			return fmt.Errorf("the chart of %s: %w", t.Name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, t.chartFile()), svg, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (t *tableResult) chartFile() string { return t.Name + ".svg" }
