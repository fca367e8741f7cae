// Command bench measures Holdfast side by side with the programs and libraries that
// people use for the same purpose, and writes what it found to results/.
//
//	go run .              about 25 minutes
//	go run . -quick       about two
//	go run . -full        every cell of the state server's row
//	go run . -only server,client
//	go run . -agree FILE  whether the last run agrees with another one's LATEST.json
//
// It starts the servers that it needs itself: Redis, PostgreSQL, MariaDB and memcached
// as they are installed, a C echo server compiled with cc, and holdfast serve built from
// this working copy. What is not installed is named in the results and left out.
//
// Contenders take turns, round after round, so that what else happens on the machine
// befalls all of them. Where a server is involved, it is compared by the processor
// time that its process took for a request, which the load generator beside it
// disturbs less than anything that a clock shows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

var rows = []row{
	middlewareRow, webRow, contentionRow, correctnessRow, handoverRow,
	itemsRow, inprocRow, memoryRow, expiryRow, diskRow, reopenRow,
	serverRow, clientRow, manyRow, durableRow,
}

func main() {
	if role := os.Getenv(workerRole); role != "" {
		exit(work(role, os.Stdin, os.Stdout))
	}
	exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func exit(err error) {
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

// run is the program.
func run(args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	quick := f.Bool("quick", false, "two minutes: fewer cells, shorter rounds")
	full := f.Bool("full", false, "every cell")
	only := f.String("only", "", "the rows to measure, separated by commas: "+strings.Join(rowNames(), ", "))
	rounds := f.Int("rounds", 0, "how many rounds (default 5, with -quick 3); from 20 on, small differences are told by a confidence interval")
	out := f.String("out", "results", "the folder for LATEST.md, LATEST.json and the charts")
	dir := f.String("dir", "", "a folder on the disk that durable servers are to write to (default that of temporary files)")
	other := f.String("agree", "", "another run's LATEST.json: measure nothing, and say how far the results in the folder agree with it")
	if err := f.Parse(args); err != nil {
		return err
	}
	measures := *quick || *full || *only != "" || *rounds != 0
	if f.NArg() > 0 || *quick && *full || *rounds < 0 || *other != "" && measures {
		f.Usage()
		return flag.ErrHelp
	}
	if *other != "" {
		return compareRuns(stdout, *out, *other)
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(*dir, "holdfast-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	s := newSuite(work, stderr)
	s.full = *full
	if *quick {
		s.hurry()
	}
	if *rounds > 0 {
		s.rounds = *rounds
	}
	res, err := s.measure(ctx, chosen)
	if err != nil {
		return err
	}
	if err := res.write(*out); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s: %s\n", filepath.Join(*out, "LATEST.md"), res.short())
	if len(res.Failed) > 0 {
		return fmt.Errorf("%d rows failed: %s", len(res.Failed), strings.Join(res.Failed, "; "))
	}
	return nil
}

// choose returns the rows with these names, all of them if none are named.
func choose(names string) ([]row, error) {
	if names == "" {
		return rows, nil
	}
	var chosen []row
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(rows, func(r row) bool { return r.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no row %q, only %s", name, strings.Join(rowNames(), ", "))
		}
		chosen = append(chosen, rows[i])
	}
	return chosen, nil
}

func rowNames() []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	return names
}

// measure runs the rows.
func (s *suite) measure(ctx context.Context, chosen []row) (*results, error) {
	res := newResults(s)
	begin := time.Now()
	for _, r := range chosen {
		t, err := s.run(ctx, r)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			// The others may still tell something.
			res.Failed = append(res.Failed, err.Error())
			fmt.Fprintln(s.log, "failed:", err)
		}
		if len(t.Cells) > 0 {
			res.Tables = append(res.Tables, t)
		}
	}
	res.Minutes = time.Since(begin).Minutes()
	res.Missing = s.absent
	res.judge()
	return res, nil
}
