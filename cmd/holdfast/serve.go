package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-session/holdfast/cmd/holdfast/internal/demo"
	"github.com/holdfast-session/holdfast/cmd/holdfast/internal/serve"
)

// serveFlags are those of `holdfast serve` that are no settings of the server.
type serveFlags struct {
	config         string
	check          bool
	takeover       time.Duration
	verbose        bool
	untilStdinEnds bool
}

func serveCommand() *cobra.Command {
	var (
		s serveFlags
		c serve.Config
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the state server",
		Long: `The state server keeps sessions for any number of processes and machines, in a
process of its own, so that they survive when a web application is restarted, and in a
folder, so that they survive when the server is. It speaks the protocol of ASP.NET's
state service, and serves its clients too.

When it is ready it prints one line to standard output:

  holdfast: state server ready on 127.0.0.1:42424

Everything else is logged to standard error. SIGTERM and Ctrl-C stop it gracefully, a
second one cuts what is not finished, a third kills. SIGHUP reads the configuration
again.

Each setting can be given as a flag, as an environment variable (--max-memory is
HOLDFAST_SERVE_MAX_MEMORY; lists are separated by commas) and in the YAML file of
--config (max-memory: 2GiB). Flags win over the environment, and that over the file.
Tokens of applications are in the file only: see holdfast token.

Other machines may connect only where applications show a token or a certificate.

Exit status: 0 when it was stopped and every session is kept, 1 for everything else.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&s.config, "config", "", "`file` with settings, in YAML")
	f.BoolVar(&s.check, "check", false, "check the configuration, print it, and end")
	f.DurationVar(&s.takeover, "takeover", 0, "take over from the server that has the folder now; it goes on if that takes longer than this")
	f.Lookup("takeover").NoOptDefVal = "30s"
	c.AddFlags(f)
	f.BoolVarP(&s.verbose, "verbose", "v", false, "the same as --log-level debug")
	cmd.MarkFlagsMutuallyExclusive("verbose", "log-level")
	f.BoolVar(&s.untilStdinEnds, "until-stdin-ends", false, "stop when standard input ends instead of at Ctrl-C")
	if err := f.MarkHidden("until-stdin-ends"); err != nil {
		panic(err)
	}
	return cmd
}

// load reads the configuration as it is at this moment.
func (s *serveFlags) load(cmd *cobra.Command) (*serve.Config, error) {
	if s.config == "" {
		s.config = serve.ConfigFile(os.Environ())
	}
	return serve.Load(cmd.Flags(), os.Environ(), s.config)
}

func (s *serveFlags) run(cmd *cobra.Command) error {
	if s.verbose {
		if err := cmd.Flags().Set("log-level", "debug"); err != nil {
			return err
		}
	}
	if s.takeover < 0 {
		return errors.New("--takeover is less than 0; write how long it may take")
	}
	config, err := s.load(cmd)
	if err != nil {
		return err
	}
	if s.check {
		return check(config, cmd.OutOrStdout())
	}
	ctx, signals := cmd.Context(), []os.Signal{os.Interrupt, syscall.SIGTERM}
	if s.untilStdinEnds {
		// A child at a terminal gets its parent's Ctrl-C too, but is to outlive
		// those that the parent stops first.
		signal.Ignore(os.Interrupt)
		signals = signals[1:]
		var cancel context.CancelFunc
		ctx, cancel = demo.WithStdin(ctx)
		defer cancel()
	}
	reloads := make(chan os.Signal, 1)
	signal.Notify(reloads, syscall.SIGHUP)
	defer signal.Stop(reloads)

	var level slog.LevelVar
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: &level}))
	slog.SetDefault(log) // for stores that mode.Open opens
	server := &serve.Server{
		Config:   config,
		Reload:   func() (*serve.Config, error) { return s.load(cmd) },
		Reloads:  reloads,
		Hurry:    second(signals),
		Takeover: s.takeover,
		Version:  version(),
		Log:      log,
		Level:    &level,
		Ready: func(addrs []string) {
			// Whoever does not read it finds out soon enough.
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s%s\n", demo.ReadyLine, strings.Join(addrs, " "))
		},
	}
	err = server.Run(ctx)
	if taken := new(serve.ListenError); errors.As(err, &taken) {
		return listenError(taken.Addr, "--"+taken.Setting(), taken.Err, "Another holdfast serve, or ASP.NET's state service,")
	}
	return err
}

// check prints a configuration that is in order.
func check(config *serve.Config, w io.Writer) error {
	if err := config.Check(); err != nil {
		return err
	}
	_, err := config.WriteTo(w)
	return err
}

// second returns a channel that is closed at the second of the signals. (The first
// ends the command's context.) The third one kills.
func second(signals []os.Signal) <-chan struct{} {
	all := make(chan os.Signal, 2)
	signal.Notify(all, signals...)
	hurry := make(chan struct{})
	go func() {
		<-all
		<-all
		signal.Stop(all)
		close(hurry)
	}()
	return hurry
}
