package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-session/holdfast/internal/load"
	"github.com/holdfast-session/holdfast/stateserver"
)

// A bench is what `holdfast bench` was asked for.
type bench struct {
	load.Options
	mix      string
	duration time.Duration
	warmup   time.Duration
	json     bool
	keep     bool
	tls      tlsFlags
}

func benchCommand() *cobra.Command {
	var b bench
	cmd := &cobra.Command{
		Use:   "bench [address]",
		Short: "Put load on a running state server and measure it",
		Long: `Puts load on the state server at the address (host:port or unix:/path, by default
127.0.0.1:42424), which may be another's than Holdfast's, and prints what it gave:
requests per second, how long they took, and the processor time that the server used.

The sessions are its own: it makes them before, and removes them afterwards. --mix
says what is asked for. Each entry is a sequence of requests about one session, with
the weight that it has among the entries:

  load:90,lock+save:10     read a session; now and then lock, change and save it
  lock+save                what a web request does with its session
  lock, or save            the one or the other alone, over and over
  load+save                a change without a lock
  create+remove            sessions that come and go

Each connection has sessions of its own, so that none waits for another's lock.
--hot sends a share of the sequences to one session, for which all of them queue.

The load is closed: a connection sends its next requests when those before have been
answered. The processor time of a server on this machine is known on Linux.`,
		Example: `  holdfast bench
  holdfast bench --connections 256 --mix load:50,lock+save:50 --duration 30s
  holdfast bench unix:/run/holdfast.sock --depth 16 --mix lock --json
  holdfast bench --connections 32 --hot 1 --mix lock+save
  holdfast bench state:42424 --tls-ca ca.pem`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr := "127.0.0.1:42424"
			if len(args) > 0 {
				addr = args[0]
			}
			return b.run(cmd, addr)
		},
	}
	f := cmd.Flags()
	f.IntVarP(&b.Connections, "connections", "c", 64, "how many connections")
	f.IntVarP(&b.Depth, "depth", "d", 1, "how many requests are under way on each connection")
	f.StringVarP(&b.mix, "mix", "m", "lock+save", "what is asked for, as above: load, lock, save, unlock, touch, create, remove")
	f.IntVarP(&b.Size, "size", "s", 500, "how many bytes a session has")
	f.IntVarP(&b.Count, "sessions", "n", 0, "how many sessions there are (default 10000, or more if the connections need more)")
	f.Float64Var(&b.Hot, "hot", 0, "which share of the sequences goes to one session of all connections, from 0 to 1")
	f.DurationVar(&b.Wait, "wait", 30*time.Second, "how long a request waits for that session's lock; 0 to be refused at once")
	f.DurationVarP(&b.duration, "duration", "t", 10*time.Second, "how long requests are counted")
	f.DurationVar(&b.warmup, "warmup", 2*time.Second, "how long requests are sent before")
	f.StringVar(&b.App, "app", "/holdfast-bench", "the `application` that the sessions belong to")
	f.StringVar(&b.Token, "token", "", "the `token` of that application, with the right to write (default that in "+tokenVar+")")
	b.tls.addTo(f)
	f.IntVar(&b.PID, "pid", 0, "the server's `process`, if it is not found by its socket")
	f.BoolVar(&b.keep, "keep", false, "leave the sessions on the server")
	f.BoolVar(&b.json, "json", false, "print the result as JSON")
	return cmd
}

// check refuses numbers that make no load.
func (b *bench) check() error {
	for _, c := range []struct {
		ok   bool
		want string
	}{
		{b.Connections >= 1, "--connections: at least 1"},
		{b.Depth >= 1, "--depth: at least 1"},
		{b.Size >= 0, "--size: 0 or more bytes"},
		{b.Count >= 0, "--sessions: 1 or more, or 0 to choose"},
		{b.Hot >= 0 && b.Hot <= 1, "--hot: from 0 to 1"},
		{b.duration > 0, "--duration: more than 0"},
		{b.warmup >= 0, "--warmup: 0 or more"},
		{b.Wait >= 0, "--wait: 0 or more"},
	} {
		if !c.ok {
			return errors.New(c.want)
		}
	}
	return nil
}

func (b *bench) run(cmd *cobra.Command, addr string) error {
	if err := b.check(); err != nil {
		return err
	}
	mix, err := load.ParseMix(b.mix)
	if err != nil {
		return fmt.Errorf("--mix: %w", err)
	}
	b.Network, b.Address, err = stateserver.ParseAddr(addr)
	if err != nil {
		return err
	}
	if b.TLS, err = b.tls.config(); err != nil {
		return err
	}
	if b.TLS != nil && b.Network == "unix" {
		b.TLS.ServerName = "localhost"
	}
	if b.Count == 0 {
		b.Count = max(10_000, b.Connections*b.Depth)
	}
	if b.Token == "" {
		b.Token = os.Getenv(tokenVar)
	}
	ctx, say := cmd.Context(), cmd.ErrOrStderr()
	if b.PID == 0 {
		if b.PID, err = load.ListenerPID(b.Network, b.Address); err != nil {
			fmt.Fprintf(say, "the server's processor time is left out (%v); --pid names its process\n", err)
		}
	}
	s, err := load.Open(ctx, b.Options)
	if hint := b.tls.hint(err); hint != "" {
		return fmt.Errorf("%s: %s (%w)", addr, hint, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", addr, err)
	}
	if err := s.Check(mix); err != nil {
		return fmt.Errorf("--mix: %w", err)
	}
	report := benchReport{Server: "Holdfast", Address: addr, Mix: b.mix, Connections: b.Connections, Depth: b.Depth,
		Sessions: b.Count, Bytes: b.Size, Hot: b.Hot}
	if s.Foreign() {
		report.Server = "another server of the protocol"
	}
	fmt.Fprintf(say, "creating %d sessions of %d bytes\n", b.Count, b.Size)
	if !b.keep {
		defer func() {
			// Also after Ctrl-C, and without waiting for ever.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			if err := s.Remove(ctx); err != nil {
				fmt.Fprintf(say, "the sessions could not be removed and end by themselves in 20 minutes: %v\n", err)
			}
		}()
	}
	if err := s.Fill(ctx); err != nil {
		return fmt.Errorf("%s: %w", addr, err)
	}
	res, err := s.Run(ctx, mix, load.Config{
		Warmup:   b.warmup,
		Duration: b.duration,
		Every:    max(time.Second, b.duration/20),
		Progress: func(r load.Result) {
			all := r.All()
			fmt.Fprintf(say, "%5.0fs %10.0f requests/s so far   p50 %v   p99 %v   refused %d\n",
				r.Elapsed.Seconds(), r.Rate(), short(all.Latency.Quantile(0.5)), short(all.Latency.Quantile(0.99)), all.Refused)
		},
	})
	if err != nil {
		return fmt.Errorf("%s: %w", addr, err)
	}
	report.fill(&res)
	if b.json {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(&report)
	}
	return report.print(cmd.OutOrStdout())
}

// A benchReport is the outcome, as --json prints it. Latencies are in microseconds.
type benchReport struct {
	Server      string       `json:"server"`
	Address     string       `json:"address"`
	Mix         string       `json:"mix"`
	Connections int          `json:"connections"`
	Depth       int          `json:"depth"`
	Sessions    int          `json:"sessions"`
	Bytes       int          `json:"bytes"`
	Hot         float64      `json:"hot"`
	Seconds     float64      `json:"seconds"`
	Requests    []benchShare `json:"requests"`
	// CPUPerRequest is in microseconds, and CPUs how many processors the server kept
	// busy; both are left out where they are not known.
	CPUPerRequest float64 `json:"cpu_us_per_request,omitempty"`
	CPUs          float64 `json:"cpus,omitempty"`
}

// A benchShare is the requests of one kind, or all.
type benchShare struct {
	Name      string  `json:"name"`
	Count     uint64  `json:"count"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	P999      float64 `json:"p999_us"`
	Max       float64 `json:"max_us"`
	Refused   uint64  `json:"refused"`
}

func (r *benchReport) fill(res *load.Result) {
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	r.Seconds = res.Elapsed.Seconds()
	ops := res.Ops
	if len(ops) > 1 {
		ops = append(ops, res.All())
	}
	for i := range ops {
		o := &ops[i]
		n := o.Latency.Count()
		r.Requests = append(r.Requests, benchShare{
			Name: o.Name, Count: n, PerSecond: float64(n) / r.Seconds,
			P50: us(o.Latency.Quantile(0.5)), P99: us(o.Latency.Quantile(0.99)), P999: us(o.Latency.Quantile(0.999)), Max: us(o.Latency.Max()),
			Refused: o.Refused,
		})
	}
	if res.CPU > 0 {
		r.CPUPerRequest = us(res.CPUPerRequest())
		r.CPUs = res.CPU.Seconds() / r.Seconds
	}
}

func (r *benchReport) print(w io.Writer) error {
	fmt.Fprintf(w, "%s (%s), %d connections with %d under way, %d sessions of %d bytes, %v\n\n",
		r.Address, r.Server, r.Connections, r.Depth, r.Sessions, r.Bytes, short(time.Duration(r.Seconds*float64(time.Second))))
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "request\tcount\tper second\tp50\tp99\tp99.9\tmax\trefused\t")
	at := func(us float64) time.Duration { return short(time.Duration(us * float64(time.Microsecond))) }
	for _, s := range r.Requests {
		fmt.Fprintf(t, "%s\t%d\t%.0f\t%v\t%v\t%v\t%v\t%d\t\n", s.Name, s.Count, s.PerSecond, at(s.P50), at(s.P99), at(s.P999), at(s.Max), s.Refused)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if r.CPUPerRequest == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "\nthe server's processor time: %.2f µs per request, %.2f processors\n", r.CPUPerRequest, r.CPUs)
	return err
}

// short rounds a duration to three digits or so.
func short(d time.Duration) time.Duration {
	unit := time.Nanosecond
	for d >= 1000*unit {
		unit *= 10
	}
	return d.Round(unit)
}
