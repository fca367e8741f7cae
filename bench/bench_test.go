package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The tests' binary is the program, so that it can be a worker.
func TestMain(m *testing.M) {
	if where := os.Getenv(workerRole); where != "" {
		if err := work(where, os.Stdin, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	dir, err := os.MkdirTemp("", "holdfast-bench-test-")
	if err != nil {
		panic(err)
	}
	binaries = newSuite(dir, io.Discard)
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// binaries has what was built, for all tests.
var binaries *suite

// brief is a suite of no more than a look at everything.
func brief(t *testing.T) *suite {
	s := newSuite(t.TempDir(), io.Discard)
	for _, build := range []func() (string, error){binaries.holdfastBinary, binaries.echoBinary} {
		if _, err := build(); err != nil && !errors.Is(err, errAbsent) {
			t.Fatal(err)
		}
	}
	maps.Copy(s.built, binaries.built)
	s.hurry()
	s.rounds = 1
	s.window = window{time.Millisecond, 5 * time.Millisecond}
	s.many, s.cold = 20_000, 1000
	s.handovers, s.arrivals = 5, 6
	return s
}

// Every row runs, with whatever is installed; in continuous integration that has to
// be everything that scripts/install installs. What is measured in so short a time
// says nothing, but for what is so whatever the time. And every target finds what it is
// about, by the names of rows, cells and sides.
func TestRows(t *testing.T) {
	var res results
	var absent []string
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			s := brief(t)
			table, err := s.run(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			res.Tables = append(res.Tables, table)
			absent = append(absent, s.absent...)
			for _, absent := range s.absent {
				t.Log("missing:", absent)
				if os.Getenv("CI") == "true" && (strings.Contains(absent, "redis-server") || strings.Contains(absent, "no cc") || strings.Contains(absent, "scripts/install")) {
					t.Errorf("scripts/install should have installed it: %s", absent)
				}
			}
			if len(table.Cells) == 0 && len(s.absent) == 0 {
				t.Error("nothing was measured, and nothing is missing")
			}
			for _, c := range table.Cells {
				for i, side := range c.Sides {
					f := side.Figures[r.metrics[0].Name]
					if f.Median < 0 || f.Median == 0 && r.name != "correctness" || f.Low > f.Median || f.High < f.Median || len(f.Values) != s.roundsOf(r) {
						t.Errorf("%s: %s: %+v", c.Name, side.Name, f)
					}
					for name := range side.Figures {
						if !slices.ContainsFunc(r.metrics, func(m metric) bool { return m.Name == name }) {
							t.Errorf("%s: %s has %q, which is no column", c.Name, side.Name, name)
						}
					}
					if (side.Verdict == nil) != (i == 0) {
						t.Errorf("%s: %s: verdict %+v", c.Name, side.Name, side.Verdict)
					}
					// What is so whatever the time.
					for _, m := range []metric{metricLost, metricLost50, metricUndone, metricAdopted, metricLate, metricStrange} {
						if f, ok := side.Figures[m.Name]; ok && f.High != 0 && ourSide(side.Name) {
							t.Errorf("%s: %s: %s: %v", c.Name, side.Name, m.Name, f.Values)
						}
					}
				}
			}
			chart, err := table.chart()
			if err != nil {
				t.Fatal(err)
			}
			var words []byte
			for d := xml.NewDecoder(bytes.NewReader(chart)); err == nil; {
				var token xml.Token
				token, err = d.Token()
				if data, ok := token.(xml.CharData); ok {
					words = append(words, data...)
				}
			}
			if err != io.EOF || !bytes.Contains(words, []byte(table.Title)) {
				t.Errorf("its chart is no SVG with its title: %v, %q", err, words)
			}
		})
	}
	if len(absent) > 0 || len(res.Tables) < len(rows) || t.Failed() {
		return // not everything was there, or asked for (-run)
	}
	res.judge()
	for _, target := range res.Targets {
		if target.Must == stateOpen {
			t.Errorf("%s: nothing measures it", target.What)
		}
	}
}

// The program itself, from its arguments to its files.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	var out, log bytes.Buffer
	if err := run([]string{"-quick", "-rounds", "1", "-only", "items", "-out", dir, "-dir", t.TempDir()}, &out, &log); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "LATEST.json"))
	if err != nil {
		t.Fatal(err)
	}
	var res results
	if err := json.Unmarshal(b, &res); err != nil {
		t.Fatal(err)
	}
	if res.Kind != "quick" || res.Rounds != 1 || len(res.Tables) != 1 || len(res.Targets) != len(targets) || res.Machine.Processors == 0 {
		t.Errorf("%+v", res)
	}
	for _, target := range res.Targets {
		measured := strings.HasPrefix(target.What, "five values") || target.Must == "–" && target.Aim == stateMet
		if (target.Must == stateOpen) == measured {
			t.Errorf("%+v", target)
		}
	}
	md, err := os.ReadFile(filepath.Join(dir, "LATEST.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## Targets", "## A session of five values", "(items.svg)", "| **encode** |", "| holdfast items |", "tinylib/msgp, struct", "Quick run of "} {
		if !bytes.Contains(md, []byte(want)) {
			t.Errorf("LATEST.md lacks %q", want)
		}
	}
	// Each line of a table has as many columns as the others.
	columns := 0
	for line := range strings.Lines(string(md)) {
		n := strings.Count(line, "|")
		if n > 0 && columns > 0 && n != columns {
			t.Errorf("%d bars, not %d: %s", n, columns, line)
		}
		columns = n
	}
	// Nothing in the results names the machine, or where things are on it.
	names := []string{dir, os.TempDir()}
	if host, err := os.Hostname(); err == nil && len(host) > 3 {
		names = append(names, host)
	}
	if wd, err := os.Getwd(); err == nil {
		names = append(names, wd)
	}
	for _, name := range names {
		if bytes.Contains(b, []byte(name)) || bytes.Contains(md, []byte(name)) {
			t.Errorf("the results name %s", name)
		}
	}
	if !strings.Contains(out.String(), "musts met") {
		t.Errorf("it said %q", out.String())
	}
}

func TestArguments(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-quick", "-full"}, "help requested"},
		{[]string{"server"}, "help requested"},
		{[]string{"-rounds", "-1"}, "help requested"},
		{[]string{"-quick", "-agree", "other.json"}, "help requested"},
		{[]string{"-only", "server,coffee"}, `no row "coffee", only middleware`},
		{[]string{"-fast"}, "not defined"},
	} {
		if err := run(c.args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
}

// A row that fails is named, and the others are measured.
func TestFailure(t *testing.T) {
	s := brief(t)
	good := row{name: "good", metrics: []metric{metricTime}, cells: func(*suite) ([]cell, error) {
		return []cell{{"cell", []side{timed("side", func(int) error { return nil })}}}, nil
	}}
	bad := good
	bad.name = "bad"
	bad.cells = func(*suite) ([]cell, error) {
		return []cell{{"cell", []side{timed("side", func(int) error { return errors.New("broken") })}}}, nil
	}
	res, err := s.measure(t.Context(), []row{bad, good})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Failed) != 1 || !strings.Contains(res.Failed[0], "bad: cell: side, round 1: broken") || len(res.Tables) != 1 {
		t.Errorf("failed: %q; %d tables", res.Failed, len(res.Tables))
	}
	if !strings.Contains(string(res.markdown()), "Failed:\n\n- bad: cell") {
		t.Error("LATEST.md does not name it")
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v", c.values, got)
		}
	}
}

func TestCompare(t *testing.T) {
	ours := summarize([]float64{10, 11, 12, 10, 11})
	for _, c := range []struct {
		peer []float64
		want verdict
	}{
		{[]float64{20, 21, 22, 23, 22}, verdict{2, true, ""}},
		{[]float64{12, 12, 12, 12, 12}, verdict{12. / 11, false, "no difference: under 15 %"}},
		{[]float64{11, 19, 22, 23, 24}, verdict{2, false, "hidden by the spread"}},
		{[]float64{5, 5.5, 5.5, 6, 5}, verdict{0.5, true, ""}},
	} {
		if d := cmp.Diff(c.want, compare(ours, summarize(c.peer))); d != "" {
			t.Errorf("%v: %s", c.peer, d)
		}
	}
	if got := compare(summarize([]float64{0}), summarize([]float64{3})); got.Ratio != 0 || !got.Clear {
		t.Errorf("by zero: %+v", got)
	}
}

// With many rounds a small difference that is always there is found, and one that
// is not is not.
func TestCompareManyRounds(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var ours, slower, same []float64
	for range manyRounds {
		noise := 10 * (1 + r.Float64()) // what befalls both
		ours = append(ours, noise*(1+0.02*r.Float64()))
		slower = append(slower, noise*1.08*(1+0.02*r.Float64()))
		same = append(same, noise*(1+0.02*r.Float64()))
	}
	if v := compare(summarize(ours), summarize(slower)); !v.Clear {
		t.Errorf("8 %% more: %+v", v)
	}
	if v := compare(summarize(ours), summarize(same)); v.Clear || !strings.Contains(v.Why, "no difference") {
		t.Errorf("the same: %+v", v)
	}
}

func TestTargets(t *testing.T) {
	up := target{must: 1.5, aim: 2, more: true}
	down := target{must: 1.5, aim: noBound, unit: "µs"}
	zero := target{}
	for _, c := range []struct {
		t         target
		v         float64
		must, aim string
	}{
		{up, 1.4, stateMissed, stateMissed},
		{up, 1.5, stateMet, stateMissed},
		{up, 3, stateMet, stateMet},
		{down, 1.5, stateMet, "–"},
		{down, 1.6, stateMissed, "–"},
		{zero, 0, stateMet, stateMet},
		{zero, 0.1, stateMissed, stateMissed},
	} {
		if must, aim := c.t.holds(c.v, c.t.must), c.t.holds(c.v, c.t.aim); must != c.must || aim != c.aim {
			t.Errorf("%v against %+v: %s, %s", c.v, c.t, must, aim)
		}
	}
	if got := up.text(up.must) + "; " + down.text(down.must) + "; " + down.text(down.aim); got != "≥ 1.50; ≤ 1.50 µs; –" {
		t.Errorf("%q", got)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1.00", 0.1234: "0.123", 12.345: "12.3", 123.6: "124", 1234: "1,234", 1234567: "1,234,567",
		-1234: "-1,234", 0.00001: "0.0000", math.Inf(1): "+Inf", 999.6: "1,000",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestPeerAnswers(t *testing.T) {
	for _, c := range []struct {
		read func([]byte) (int, error)
		text string
		n    int
		err  string
	}{
		{respAnswer, "+OK\r\n", 5, ""},
		{respAnswer, ":1\r\n+OK\r\n", 4, ""},
		{respAnswer, "$5\r\nhello\r\n:1", 11, ""},
		{respAnswer, "$5\r\nhello\r", 0, ""},
		{respAnswer, "$5", 0, ""},
		{respAnswer, "$-1\r\n", 0, "nothing"},
		{respAnswer, "-LOCKED\r\n", 0, "LOCKED"},
		{memcachedAnswer, "STORED\r\n", 8, ""},
		{memcachedAnswer, "VALUE k 0 5\r\nhello\r\nEND\r\nVAL", 25, ""},
		{memcachedAnswer, "VALUE k 0 5\r\nhello\r\nEND", 0, ""},
		{memcachedAnswer, "END\r\n", 0, "refused"},
		{memcachedAnswer, "VALUE k 0 x\r\n", 0, "answered"},
	} {
		n, err := c.read([]byte(c.text))
		if n != c.n || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %d, %v", c.text, n, err)
		}
	}
}

func TestWebAnswer(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
	for _, c := range []struct {
		text string
		n    int
		err  string
	}{
		{head + "hello", len(head) + 5, ""},
		{head + "hello" + head, len(head) + 5, ""},
		{head + "hell", 0, ""},
		{head[:30], 0, ""},
		{"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", 0, "500"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0, "chunked"},
		{"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", 0, "invalid syntax"},
	} {
		n, err := webAnswer([]byte(c.text))
		if n != c.n || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %d, %v", c.text, n, err)
		}
	}
}

func TestForged(t *testing.T) {
	for _, cookie := range []string{"session=abcdef", "s=aaaa", "long_name=x"} {
		got := forged(cookie)
		name, value, _ := strings.Cut(cookie, "=")
		if rest, ok := strings.CutPrefix(got, name+"="); !ok || rest == value || len(rest) != len(value) {
			t.Errorf("%q became %q", cookie, got)
		}
	}
}

func TestLongestPause(t *testing.T) {
	h := func(counts ...uint64) *metrics.Float64Histogram {
		return &metrics.Float64Histogram{Counts: counts, Buckets: []float64{0, 1, 2, math.Inf(1)}}
	}
	for _, c := range []struct {
		before, after *metrics.Float64Histogram
		want          float64
		ok            bool
	}{
		{h(1, 1, 0), h(1, 1, 0), 0, false},
		{h(1, 1, 0), h(2, 1, 0), 1, true},
		{h(1, 1, 0), h(2, 2, 0), 2, true},
		{h(0, 0, 0), h(1, 1, 1), 2, true},
	} {
		if got, ok := longestPause(c.before, c.after); got != c.want || ok != c.ok {
			t.Errorf("from %v to %v: %v, %v", c.before.Counts, c.after.Counts, got, ok)
		}
	}
}

// A chart shows the cells that it is told to, ours in a colour of their own, and the
// longest bar is the largest figure.
func TestBars(t *testing.T) {
	one := func(cell string, a, b float64) cellResult {
		return cellResult{Name: cell, Sides: []sideResult{
			{Name: "holdfast", Figures: map[string]summary{"rate": {Median: a}}},
			{Name: "peer", Figures: map[string]summary{"rate": {Median: b}}},
		}}
	}
	table := tableResult{Metrics: []metric{{Name: "rate"}}, Charted: []string{"b", "c"}, Cells: []cellResult{one("a", 1, 2), one("b 1", 3, 4), one("c 1", 5, 6), one("c 2", 7, 8)}}
	want := []bar{
		{name: "b 1", head: true}, {name: "holdfast", value: "3.00", length: 3, ours: true}, {name: "peer", value: "4.00", length: 4},
		{name: "c 1", head: true}, {name: "holdfast", value: "5.00", length: 5, ours: true}, {name: "peer", value: "6.00", length: 6},
	}
	if d := cmp.Diff(want, table.bars(), cmp.AllowUnexported(bar{})); d != "" {
		t.Error(d)
	}
}

func TestWords(t *testing.T) {
	m := metric{Words: []string{"early", "late"}}
	if m.text(0) != "early" || m.text(1) != "late" || m.text(2) != "2.00" || metricTime.text(0) != "0" {
		t.Errorf("%q %q %q %q", m.text(0), m.text(1), m.text(2), metricTime.text(0))
	}
}

func TestTemplate(t *testing.T) {
	key := sessionKey(3, 77)
	if len(key) != keyLength {
		t.Fatalf("%q has %d bytes", key, len(key))
	}
	command := func(key string) []byte { return resp("EVALSHA", "x", "2", key, key+":lock") }
	if got := string(newTemplate(command).appendTo(nil, []byte(key))); got != string(command(key)) {
		t.Errorf("%q, want %q", got, command(key))
	}
}

func TestOvertaken(t *testing.T) {
	for _, c := range []struct {
		list string
		n    int
		want int
		err  string
	}{
		{"0 1 2 3 ", 4, 0, ""},
		{"0 2 1 3", 4, 1, ""},
		{"3 2 1 0", 4, 3, ""},
		{"0 1 3", 4, 0, "updates were lost"},
		{"0 x", 2, 0, "invalid syntax"},
	} {
		got, err := overtaken(c.list, c.n)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %d, %v", c.list, got, err)
		}
	}
}

// What one cell fills another must not find in another size.
func TestCellsOfAnotherSizeHaveOtherKeys(t *testing.T) {
	small, large := shape{connections: 256, bytes: smallSession}, shape{connections: 256, bytes: largeSession}
	seen := make(map[string]bool)
	for conn := range 256 {
		for _, h := range []shape{small, large} {
			keys := string(h.keys(conn, 1024))
			for ; keys != ""; keys = keys[keyLength:] {
				if seen[keys[:keyLength]] {
					t.Fatalf("two sessions are called %s", keys[:keyLength])
				}
				seen[keys[:keyLength]] = true
			}
		}
	}
}
