package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-session/holdfast/cmd/holdfast/internal/demo"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/stateserver"
)

// A server is what `holdfast serve` was asked for.
type server struct {
	listen         string
	memory         bool
	exact          bool
	allowRemote    bool
	drain          time.Duration
	verbose        bool
	untilStdinEnds bool
}

func serveCommand() *cobra.Command {
	var s server
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the state server",
		Long: `The state server keeps sessions for any number of processes and machines, in a
process of its own, so that they survive when a web application is restarted. It
speaks the protocol of ASP.NET's state service, and serves its clients too.

When it is ready it prints one line to standard output:

  holdfast: state server ready on 127.0.0.1:42424

Everything else is logged to standard error. SIGTERM and Ctrl-C stop it gracefully.

The protocol has neither encryption nor passwords. That is why only this machine may
connect, unless --allow-remote is given.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&s.listen, "listen", "127.0.0.1:42424", "`address` to listen on: host:port (port 0 takes a free one) or unix:/path")
	f.BoolVar(&s.memory, "memory", true, "keep sessions in memory; they end with this process")
	f.BoolVar(&s.exact, "exact", false, "behave as Microsoft's state server in every answer, lost updates included")
	f.BoolVar(&s.allowRemote, "allow-remote", false, "let other machines connect: whoever can reach the port can read and change every session")
	f.DurationVar(&s.drain, "drain", 10*time.Second, "how long requests that have begun may take when the server stops")
	f.BoolVarP(&s.verbose, "verbose", "v", false, "log what peers do wrong, too")
	f.BoolVar(&s.untilStdinEnds, "until-stdin-ends", false, "stop when standard input ends instead of at Ctrl-C")
	if err := f.MarkHidden("until-stdin-ends"); err != nil {
		panic(err)
	}
	return cmd
}

func (s *server) run(cmd *cobra.Command) error {
	ctx, log := cmd.Context(), logger(cmd.ErrOrStderr(), s.verbose)
	if !s.memory {
		return errors.New("--memory=false: this version keeps sessions in memory only; leave the flag out")
	}
	if s.untilStdinEnds {
		// A child at a terminal gets its parent's Ctrl-C too, but is to outlive
		// those that the parent stops first.
		signal.Ignore(os.Interrupt)
		var cancel context.CancelFunc
		ctx, cancel = demo.WithStdin(ctx)
		defer cancel()
	}
	if _, _, err := stateserver.ParseAddr(s.listen); err != nil {
		return fmt.Errorf("--listen %s: %w", s.listen, err)
	}
	l, err := stateserver.Listen(s.listen)
	if err != nil {
		return listenError(s.listen, err, "Another holdfast serve, or ASP.NET's state service,")
	}
	if t, ok := l.Addr().(*net.TCPAddr); ok && !s.allowRemote && !t.IP.IsLoopback() {
		l.Close()
		return fmt.Errorf("%s can be reached from other machines, and the protocol has no passwords: listen on 127.0.0.1, "+
			"or add --allow-remote where a firewall lets only your web servers in", l.Addr())
	}

	sessions := inproc.New(&inproc.Options{CountCookies: s.exact})
	defer sessions.Close()
	srv := &stateserver.Server{Store: sessions, Exact: s.exact, AllowRemote: s.allowRemote, Logger: log}

	log.Info("state server starting", "addr", l.Addr(), "pid", os.Getpid(), "version", version(), "exact", s.exact)
	log.Warn("sessions are kept in memory only: nothing survives a restart of this server")
	if s.exact {
		log.Warn("--exact: updates are lost, and ended sessions brought back, wherever Microsoft's server does it")
	}
	if s.allowRemote {
		log.Warn("--allow-remote: whoever can reach the port can read and change every session")
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s%s\n", demo.ReadyLine, l.Addr()); err != nil {
		log.Warn("the line that says ready could not be written", "err", err)
	}

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	log.Info("state server stopping", "drain", s.drain)
	patience, cancel := context.WithTimeout(context.Background(), s.drain)
	defer cancel()
	if err := srv.Shutdown(patience); err != nil {
		log.Warn("some connections were still busy and are cut", "err", err)
		if err := srv.Close(); err != nil {
			return err
		}
	}
	if err := <-served; !errors.Is(err, stateserver.ErrServerClosed) {
		return err
	}
	log.Info("state server stopped")
	return nil
}
