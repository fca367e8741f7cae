package main

import (
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-session/holdfast/cmd/holdfast/internal/demo"
)

func demoCommand() *cobra.Command {
	var (
		mode     string
		handover bool
		workers  int
		listen   string
		timeout  time.Duration
		verbose  bool
	)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a small shop whose worker processes you kill and recycle while you shop",
		Long: `The demo is a small shop on the worker host. Every page says which worker process
answered it, and has buttons that kill that process, recycle it, let it leak memory until
it is recycled, and touch or change a file that the host watches. Its journal shows what
happens, and why.

  holdfast demo                            two workers, sessions in a state server:
                                           the cart survives everything
  holdfast demo --mode inproc              one worker, sessions in its memory: the
                                           same clicks lose the cart, and the page
                                           says when and why
  holdfast demo --mode inproc --handover   two workers which hand their sessions over:
                                           the cart survives each recycle, not a kill
  holdfast demo --mode inproc --workers 2  sessions that flicker: each worker has
                                           its own`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch mode {
			case demo.InProc, demo.StateServer:
			default:
				return fmt.Errorf("--mode %s: there is %s and %s", mode, demo.InProc, demo.StateServer)
			}
			if handover && mode != demo.InProc {
				return fmt.Errorf("--handover: sessions are in the workers only with --mode %s", demo.InProc)
			}
			if workers == 0 {
				workers = 2
				if mode == demo.InProc && !handover {
					workers = 1
				}
			}
			if workers < 1 || workers > 64 {
				return fmt.Errorf("--workers %d: from 1 to 64", workers)
			}
			if timeout < time.Second {
				return fmt.Errorf("--timeout %s: at least a second", timeout)
			}
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("cannot find this program, to start its workers: %w", err)
			}
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return listenError(listen, "--listen", err, "Another demo, or another web server,")
			}
			log := logger(cmd.ErrOrStderr(), verbose)
			if !l.Addr().(*net.TCPAddr).IP.IsLoopback() {
				log.Warn("other machines can open the demo, and kill its workers", "addr", l.Addr())
			}
			g := &demo.Garden{
				Mode: mode, Handover: handover, Workers: workers, Listener: l, Timeout: timeout,
				Program: program, Stdout: cmd.OutOrStdout(), Stderr: cmd.ErrOrStderr(), Log: log,
			}
			return g.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&mode, "mode", demo.StateServer, "where sessions are kept: `inproc` or stateserver")
	f.BoolVar(&handover, "handover", false, "with --mode inproc: a worker that is recycled hands its sessions to the next process, and visitors stay with their worker")
	f.IntVar(&workers, "workers", 0, "`number` of worker processes (default 2, with --mode inproc alone 1)")
	f.StringVar(&listen, "listen", "127.0.0.1:8080", "`address` to listen on (port 0 takes a free one)")
	f.DurationVar(&timeout, "timeout", 20*time.Minute, "the sessions' sliding timeout")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

// demoWorkerCommand is what the demo starts its workers by.
func demoWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "demo-worker",
		Short:  "A worker process of the demo",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo.Work(cmd.Context(), logger(cmd.ErrOrStderr(), false))
		},
	}
}
