package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
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
	s.rounds = 2
	s.window = window{time.Millisecond, 5 * time.Millisecond}
	s.many, s.cold = 20_000, 1000
	s.handovers, s.arrivals = 5, 6
	return s
}

// Every row runs, with whatever is installed; in continuous integration that has to
// be everything that scripts/install installs. What is measured in so short a time
// says nothing, but for what is so whatever the time.
func TestRows(t *testing.T) {
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			s := brief(t)
			table, err := s.run(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			for _, absent := range s.absent {
				t.Log("missing:", absent)
				if os.Getenv("CI") == "true" && (strings.Contains(absent, "redis-server") || strings.Contains(absent, "no cc")) {
					t.Errorf("scripts/install should have installed it: %s", absent)
				}
			}
			if len(table.Cells) == 0 && len(s.absent) == 0 {
				t.Error("nothing was measured, and nothing is missing")
			}
			for _, c := range table.Cells {
				for i, side := range c.Sides {
					f := side.Figures[r.metrics[0].Name]
					if f.Median <= 0 || f.Low > f.Median || f.High < f.Median || len(f.Values) != s.rounds {
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
					if lost, ok := side.Figures[metricLost.Name]; ok && lost.Median != 0 && !strings.Contains(side.Name, "no lock") {
						t.Errorf("%s: %s lost %v %% of the updates", c.Name, side.Name, lost.Median)
					}
				}
			}
		})
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
	for _, want := range []string{"## Targets", "## A session of five values", "| **encode** |", "| holdfast items |", "tinylib/msgp, struct", "Quick run of "} {
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

// Each target finds what it is about: its row, cell and sides have these names.
func TestTargetsFindTheirRows(t *testing.T) {
	res := &results{}
	for _, r := range rows {
		s := brief(t)
		s.quick = false
		if has, err := s.serveHas("--data"); err != nil {
			t.Fatal(err)
		} else if r.name == "durable" && !has {
			continue
		}
		cells, err := r.cells(s)
		if err != nil {
			t.Fatal(err)
		}
		table := tableResult{Name: r.name}
		for _, c := range cells {
			one := cellResult{Name: c.name}
			for _, side := range c.sides {
				f := make(map[string]summary)
				for _, m := range r.metrics {
					f[m.Name] = summary{Median: 1}
				}
				one.Sides = append(one.Sides, sideResult{Name: side.name, Figures: f})
			}
			table.Cells = append(table.Cells, one)
		}
		s.cleanUp()
		res.Tables = append(res.Tables, table)
	}
	res.judge()
	_, err := exec.LookPath("redis-server")
	for _, target := range res.Targets {
		if target.Must != stateOpen {
			continue
		}
		if durable := strings.HasPrefix(target.What, "durable") || strings.HasPrefix(target.What, "written behind"); !durable && err == nil {
			t.Errorf("%s: nothing measures it", target.What)
		}
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
