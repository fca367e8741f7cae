package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/holdfast-session/holdfast/internal/load"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

var handoverRow = row{
	name:  "handover",
	title: "A session's lock between two processes",
	note: "Two processes take turns: from when one begins to save and give the session up, to when the other has it. " +
		"Then requests of both queue, one after the other, behind somebody who has the session; \"out of order\" are those that were served after one that came later.",
	metrics: []metric{metricP50, metricP99, metricWrong},
	slow:    true,
	cells:   handoverCells,
}

const handoverCell = "two processes"

func handoverCells(s *suite) ([]cell, error) {
	c, err := s.clients()
	if err != nil {
		return nil, err
	}
	one := cell{name: handoverCell}
	add := func(name, where string, l locker) error {
		var workers [2]*worker
		for i := range workers {
			var err error
			if workers[i], err = s.worker(where); err != nil {
				return err
			}
		}
		one.sides = append(one.sides, side{name, func(ctx context.Context, _ window) (figures, error) {
			if err := l.reset(ctx, nil); err != nil {
				return nil, err
			}
			var h load.Histogram
			if err := takeTurns(workers, s.handovers, &h); err != nil {
				return nil, err
			}
			wrong, err := arrive(ctx, workers, s.arrivals, l)
			return figures{
				metricP50.Name:   micros(h.Quantile(0.5)),
				metricP99.Name:   micros(h.Quantile(0.99)),
				metricWrong.Name: float64(wrong),
			}, err
		}})
		return nil
	}
	if err := add("holdfast", "holdfast "+c.server.addr(), &oursLocker{c.ours, handoverID}); err != nil {
		return nil, err
	}
	if c.redis != nil {
		for _, pause := range []time.Duration{time.Millisecond, 10 * time.Millisecond} {
			l, err := newRedisLocker(context.Background(), c.goRedis, handoverID.Session, pause)
			if err != nil {
				return nil, err
			}
			if err := add(fmt.Sprintf("Redis lock script, asked every %v", pause), fmt.Sprintf("redis %s %v", c.redis.address, pause), l); err != nil {
				return nil, err
			}
		}
	}
	return []cell{one}, nil
}

var handoverID = store.ID{App: "/", Session: "handed-over"}

// A worker is another process of this program that is told what to do, line by line.
type worker struct {
	pid  int
	in   io.Writer
	out  *bufio.Scanner
	kill func() error
}

// workerRole is the environment variable that makes this program a worker: where
// the session is, or which application it is to be.
const workerRole = "HOLDFAST_BENCH_WORKER"

func (s *suite) worker(where string) (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), workerRole+"="+where)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.start(cmd); err != nil {
		return nil, err
	}
	kill := func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // it says that it was killed
		return err
	}
	return &worker{cmd.Process.Pid, in, bufio.NewScanner(out), kill}, nil
}

// say tells the worker to do something.
func (w *worker) say(format string, args ...any) error {
	_, err := fmt.Fprintf(w.in, format+"\n", args...)
	return err
}

// hear returns what the worker answers.
func (w *worker) hear() ([]string, error) {
	if !w.out.Scan() {
		return nil, errors.Join(errors.New("a worker is gone"), w.out.Err())
	}
	line := w.out.Text()
	if text, failed := strings.CutPrefix(line, "error "); failed {
		return nil, errors.New(text)
	}
	return strings.Fields(line), nil
}

// work is what a worker does.
func work(where string, in io.Reader, out io.Writer) error {
	switch f := strings.Split(where, "\t"); {
	case len(f) == 4 && f[0] == applicationRole:
		return serveApplication(f[1], f[2], f[3] != "", in, out)
	case len(f) == 2 && f[0] == reopenRole:
		return serveFolder(f[1], in, out)
	}
	l, err := lockerAt(where)
	if err != nil {
		return err
	}
	var mu sync.Mutex // out
	answer := func(err error, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			fmt.Fprintln(out, "error", err)
			return
		}
		fmt.Fprintln(out, args...)
	}
	ctx := context.Background()
	var all sync.WaitGroup
	defer all.Wait()
	for s := bufio.NewScanner(in); s.Scan(); {
		f := strings.Fields(s.Text())
		n, err := strconv.Atoi(f[1])
		if err != nil {
			return err
		}
		switch f[0] {
		case "turns":
			for range n {
				_, save, err := l.acquire(ctx)
				if err != nil {
					answer(err)
					break
				}
				granted := time.Now()
				time.Sleep(holdTime)
				released := time.Now()
				answer(save(ctx, nil), granted.UnixNano(), released.UnixNano())
			}
		case "arrive":
			all.Go(func() {
				body, save, err := l.acquire(ctx)
				if err == nil {
					err = save(ctx, fmt.Appendf(body, "%d ", n))
				}
				answer(err, n)
			})
		}
	}
	return nil
}

// holdTime is how long each has the session, so that the other surely waits for it.
const holdTime = 2 * time.Millisecond

// lockerAt connects to where a worker was told that the session is.
func lockerAt(where string) (locker, error) {
	f := strings.Fields(where)
	switch {
	case len(f) == 2 && f[0] == "holdfast":
		c, err := stateserver.Dial(f[1], nil)
		return &oursLocker{c, handoverID}, err
	case len(f) == 3 && f[0] == "redis":
		pause, err := time.ParseDuration(f[2])
		if err != nil {
			return nil, err
		}
		return newRedisLocker(context.Background(), redis.NewClient(&redis.Options{Addr: f[1]}), handoverID.Session, pause)
	}
	return nil, fmt.Errorf("%s=%q is nothing that a worker could do", workerRole, where)
}

// takeTurns has two workers pass the session to and fro, and measures the times
// from giving up to having.
func takeTurns(workers [2]*worker, turns int, h *load.Histogram) error {
	type turn struct {
		worker            int
		granted, released int64
	}
	var all []turn
	for _, w := range workers {
		if err := w.say("turns %d", turns); err != nil {
			return err
		}
	}
	for i, w := range workers {
		for range turns {
			f, err := w.hear()
			if err != nil {
				return err
			}
			t := turn{worker: i}
			var err2 error
			t.granted, err = strconv.ParseInt(f[0], 10, 64)
			t.released, err2 = strconv.ParseInt(f[1], 10, 64)
			if err := errors.Join(err, err2); err != nil {
				return err
			}
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b turn) int { return cmp.Compare(a.granted, b.granted) })
	for i := 1; i < len(all); i++ {
		if all[i].worker != all[i-1].worker {
			h.Add(time.Duration(all[i].granted-all[i-1].released), 1)
		}
	}
	if h.Count() == 0 {
		return errors.New("the session was never handed over")
	}
	return nil
}

// apart is how long after one request the next is sent. On a machine with nothing
// else to do the first is in the queue by then.
const apart = 10 * time.Millisecond

// arrive queues n requests of two workers behind a lock, and returns how many were
// served after one that came later.
func arrive(ctx context.Context, workers [2]*worker, n int, l locker) (int, error) {
	_, save, err := l.acquire(ctx)
	if err != nil {
		return 0, err
	}
	for i := range n {
		if err := workers[i%2].say("arrive %d", i); err != nil {
			return 0, err
		}
		time.Sleep(apart)
	}
	if err := save(ctx, nil); err != nil {
		return 0, err
	}
	for i := range n {
		if _, err := workers[i%2].hear(); err != nil {
			return 0, err
		}
	}
	body, err := l.load(ctx)
	if err != nil {
		return 0, err
	}
	return overtaken(string(body), n)
}

// overtaken counts the numbers in a list, which are those below n, that stand behind
// a larger one.
func overtaken(list string, n int) (int, error) {
	wrong, highest, seen := 0, math.MinInt, make(map[int]bool)
	for f := range strings.FieldsSeq(list) {
		k, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		if seen[k] = true; k < highest {
			wrong++
		}
		highest = max(highest, k)
	}
	if len(seen) != n {
		return 0, fmt.Errorf("%d of %d requests are in the session: updates were lost", len(seen), n)
	}
	return wrong, nil
}
