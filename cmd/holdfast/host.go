package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-session/holdfast/cmd/holdfast/internal/serve"
	"github.com/holdfast-session/holdfast/host"
	"github.com/holdfast-session/holdfast/stateserver"
)

// hostFlags are those of `holdfast host` that are no settings of [host.Host] as they
// are.
type hostFlags struct {
	place   hostPlace
	listen  []string
	memory  serve.Size
	at      []string
	routing string
	remote  bool
	verbose bool
}

// Names in the platform's place for state: of a host's folder, before the host's own name,
// and of the socket in it.
const (
	hostFolder  = "host-"
	adminSocket = "admin.sock"
)

// A hostPlace is where a host keeps its journal, and is asked how it is.
type hostPlace struct {
	name  string
	state string
	admin string
}

func (p *hostPlace) addFlags(f *pflag.FlagSet) {
	f.StringVar(&p.name, "name", "", "`name` of the application (default that of its program)")
	f.StringVar(&p.state, "state", "", "`folder` for the journal and the admin socket (default host-NAME in the platform's place for state)")
	f.StringVar(&p.admin, "admin", "", "`address` for status, metrics and recycling by hand, host:port or unix:/path, or "+serve.AdminOff+" (default unix:STATE/admin.sock)")
}

// complete fills in what is not given. program is that of the application.
func (p *hostPlace) complete(program string) error {
	if p.name == "" && program != "" {
		p.name = strings.TrimSuffix(filepath.Base(program), ".exe")
	}
	if p.state == "" {
		if p.name == "" { // there is --admin
			return nil
		}
		if p.name != filepath.Base(p.name) || strings.HasPrefix(p.name, ".") {
			return fmt.Errorf("--name %q: that cannot be the name of a folder", p.name)
		}
		data, err := serve.DefaultData(os.Getenv)
		if err != nil {
			return errors.New("there is no folder for state here (no home directory is known); name one with --state DIR")
		}
		p.state = filepath.Join(data, hostFolder+p.name)
	}
	if p.admin == "" {
		p.admin = "unix:" + filepath.Join(p.state, adminSocket)
	}
	return nil
}

// journal is the file of the journal, which is known if the folder is.
func (p *hostPlace) journal() string { return filepath.Join(p.state, "journal") }

func hostCommand() *cobra.Command {
	var (
		s hostFlags
		h host.Host
	)
	cmd := &cobra.Command{
		Use:   "host [flags] -- app [args]",
		Short: "Run a web application as worker processes, and recycle them",
		Long: `The host runs a web application, written in any language, as one or more worker
processes behind one port, as IIS does. A worker serves HTTP on 127.0.0.1 at the port
that the environment variable PORT names.

  holdfast host --workers 4 --health /healthz --max-memory 512MiB --watch config.yaml -- ./app -v

Workers are recycled when one of the limits is reached, a watched file changes, the
health check fails, or somebody asks for it (SIGHUP, or holdfast host recycle): a new
process is started, and gets the requests when it is ready; the old one finishes those
that it has. Nobody sees it, unless sessions are in the memory of the worker; holdfast
host status says what happened, and why.

What the workers print goes to standard output, each line with the worker's number and
PID; the host's own log goes to standard error. SIGTERM and Ctrl-C stop the host when
the requests that have begun are finished.`,
		Args: needs("the application", many),
		RunE: func(cmd *cobra.Command, args []string) error { return s.run(cmd, &h, args) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&s.listen, "listen", []string{"127.0.0.1:8080"}, "`address` to listen on: host:port (port 0 takes a free one) or unix:/path; may be repeated")
	f.IntVar(&h.Workers, "workers", 1, "`number` of worker processes")
	f.BoolVar(&h.Sockets, "sockets", false, "pass workers a listener by systemd's convention (LISTEN_FDS) instead of PORT")
	s.place.addFlags(f)

	f.StringVar(&s.routing, "routing", string(host.RoundRobin), "which worker gets a request: roundrobin, leastbusy, ip (one for a client's address) or session (one for a session)")
	f.StringVar(&h.Proxy.Cookie, "session-cookie", "", "`name` of the application's session cookie, for --routing session (default a cookie of the host's own)")
	f.DurationVar(&h.Proxy.Prefer, "prefer", 5*time.Second, "how long a request waits for its own worker before another one gets it")
	f.StringVar(&h.Proxy.Certificate, "tls-cert", "", "`file` with the certificate and those above it, in PEM; read again when it changes")
	f.StringVar(&h.Proxy.Key, "tls-key", "", "`file` with the certificate's private key")
	f.BoolVar(&h.Proxy.H2C, "h2c", false, "speak HTTP/2 without TLS, too")
	f.Var(serve.Networks(&h.Proxy.Trusted), "trusted", "`address` or network of proxies whose X-Forwarded-For is believed; may be repeated")
	f.Int64Var(&h.Proxy.MaxBody, "max-body", 0, "`bytes` that a request's body may have (default no limit)")
	f.IntVar(&h.Proxy.MaxHeader, "max-header", 64<<10, "`bytes` that a request's header may have")
	f.IntVar(&h.Proxy.MaxWaiting, "max-waiting", 1000, "`number` of requests that may wait while no worker is ready")
	f.DurationVar(&h.WaitTimeout, "wait", 10*time.Second, "how long such a request waits")
	f.DurationVar(&h.Proxy.ResponseTimeout, "response-timeout", 0, "how long a worker may take to begin its answer (default no limit)")
	f.DurationVar(&h.Proxy.StallTimeout, "stall-timeout", 2*time.Minute, "how long a client may send and take nothing while there is something to send or take")
	f.DurationVar(&h.Proxy.IdleTimeout, "idle-timeout", 2*time.Minute, "how long a client's connection may idle")

	f.Var(&s.memory, "max-memory", "private memory of a worker, as 512MiB, or 60% of the machine or container; past it, it is recycled")
	f.Uint64Var(&h.Limits.Requests, "max-requests", 0, "`number` of requests after which a worker is recycled (default no limit)")
	f.DurationVar(&h.Limits.Age, "max-age", 0, "age at which a worker is recycled (default no limit)")
	f.StringSliceVar(&s.at, "recycle-at", nil, "`times` of day at which workers are recycled, as 03:00,15:30; local time")
	f.DurationVar(&h.Limits.Idle, "idle", 0, "how long there are no requests before the workers are stopped; the next one starts them again (default never)")
	f.StringArrayVar(&h.Watch.Paths, "watch", nil, "`file` or folder; when its content changes, workers are recycled; may be repeated")
	f.StringArrayVar(&h.Watch.Except, "watch-except", nil, "`pattern` of names (*.log) or paths in watched folders (data/uploads) that do not count; may be repeated")
	f.BoolVar(&h.Watch.Program, "watch-program", false, "recycle workers when their executable changes")
	f.StringVar(&h.Health.Path, "health", "", "`path` that answers 200 while a worker is well; asked at its start and then now and then")
	f.DurationVar(&h.Health.Every, "health-every", 10*time.Second, "time between two health checks")
	f.DurationVar(&h.Health.Timeout, "health-timeout", 5*time.Second, "how long the answer to one may take")
	f.IntVar(&h.Health.Failures, "health-failures", 3, "`number` of failed checks in a row after which a worker is recycled")

	f.DurationVar(&h.StartTimeout, "start", 30*time.Second, "how long a worker may take to get ready")
	f.DurationVar(&h.Drain, "drain", 30*time.Second, "how long a worker that is recycled may take to finish its requests")
	f.DurationVar(&h.StopTimeout, "stop", 10*time.Second, "how long a worker may take to end after SIGTERM, before it is killed")
	f.IntVar(&h.RapidFail.Failures, "max-failures", 5, "`number` of failures within --failures-within after which a worker is not started any more; -1 for no limit")
	f.DurationVar(&h.RapidFail.Within, "failures-within", 5*time.Minute, "see --max-failures")
	f.BoolVar(&s.remote, "admin-remote", false, "let other machines use --admin: they can recycle the workers")
	f.BoolVarP(&s.verbose, "verbose", "v", false, "log more")
	cmd.AddCommand(hostStatusCommand(), hostRecycleCommand())
	return cmd
}

func (s *hostFlags) run(cmd *cobra.Command, h *host.Host, args []string) error {
	if h.Workers < 1 || h.Workers > 256 {
		return fmt.Errorf("--workers %d: from 1 to 256", h.Workers)
	}
	program, err := exec.LookPath(args[0])
	if err != nil && cmd.ArgsLenAtDash() < 0 && errors.Is(err, exec.ErrNotFound) { // without --
		return fmt.Errorf("there is no program %q, and no such subcommand: those of holdfast host are status and recycle", args[0])
	}
	if err != nil {
		return fmt.Errorf("the application cannot be run: %w", err)
	}
	if err := s.place.complete(program); err != nil {
		return err
	}
	for _, text := range s.at {
		t, err := timeOfDay(text)
		if err != nil {
			return err
		}
		h.Limits.Times = append(h.Limits.Times, t)
	}
	log := logger(cmd.ErrOrStderr(), s.verbose)
	h.Command = func(int) *exec.Cmd { return exec.Command(program, args[1:]...) }
	h.Limits.Memory, h.Limits.MemoryPercent = s.memory.Bytes(), s.memory.Percent()
	h.Proxy.Routing = host.Routing(s.routing)
	h.JournalFile, h.Output, h.Logger = s.place.journal(), cmd.OutOrStdout(), log
	if err := h.Check(); err != nil {
		return err
	}

	if err := os.MkdirAll(s.place.state, 0o700); err != nil {
		return fmt.Errorf("the folder for state cannot be made; name another with --state: %w", err)
	}
	// First of all, since only one host at a time can have it.
	stopAdmin, err := s.serveAdmin(h, log)
	if err != nil {
		return err
	}
	defer stopAdmin()
	listeners, err := listenAll(s.listen)
	if err != nil {
		return err
	}
	return s.serve(cmd, h, listeners)
}

// listenAll listens on all of the addresses, or none.
func listenAll(addrs []string) ([]net.Listener, error) {
	var all []net.Listener
	for _, addr := range addrs {
		l, err := stateserver.Listen(addr)
		if err != nil {
			for _, open := range all {
				open.Close()
			}
			return nil, listenError(addr, "--listen", err, "Another web server")
		}
		all = append(all, l)
	}
	return all, nil
}

// serve runs the workers and serves their requests until the command is to stop.
func (s *hostFlags) serve(cmd *cobra.Command, h *host.Host, listeners []net.Listener) error {
	serving, stopServing := context.WithCancel(cmd.Context())
	defer stopServing()
	running, stopWorkers := context.WithCancel(context.Background())
	defer stopWorkers()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	ended := make(chan error, 1)
	go func() { ended <- h.Run(running) }()
	served := make(chan error, len(listeners))
	var names []string
	for _, l := range listeners {
		go func() { served <- h.Serve(serving, l) }()
		names = append(names, l.Addr().String())
	}
	fmt.Fprintf(cmd.OutOrStdout(), "holdfast: %s on %s\n", s.place.name, strings.Join(names, " "))

	var failure error
	open, stopped := len(listeners), false
	for open > 0 {
		select {
		case <-hangups:
			go h.Recycle(running, 0, "SIGHUP") // the journal says how it went
			continue
		case err := <-served: // because the command is to stop, or one listener failed
			failure = errors.Join(failure, err)
			open--
		case err := <-ended: // the workers cannot be started
			failure = errors.Join(failure, err)
			stopped = true
			ended = nil
		}
		stopServing()
	}
	stopWorkers()
	if !stopped {
		failure = errors.Join(failure, <-ended)
	}
	return failure
}

// timeOfDay reads a time such as 03:00 or 15:30:10.
func timeOfDay(text string) (time.Duration, error) {
	for _, form := range []string{"15:04", time.TimeOnly} {
		if t, err := time.Parse(form, text); err == nil {
			return t.Sub(t.Truncate(24 * time.Hour)), nil
		}
	}
	return 0, fmt.Errorf("--recycle-at %s: that is no time of day; write 03:00", text)
}
