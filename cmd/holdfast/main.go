// Command holdfast runs what Holdfast has beside its library: the state server and
// a demonstration.
//
//	holdfast serve      the state server, which keeps the sessions of many processes
//	holdfast token      makes the token by which it knows an application
//	holdfast health     asks it whether it is ready
//	holdfast sessions   lists, shows and ends the sessions that it has
//	holdfast host       runs a web application as worker processes, and recycles them
//	holdfast bench      puts load on it and measures what it gives
//	holdfast sql        makes, shows and removes the tables of sessions in a database
//	holdfast migrate    moves sessions to another store while applications use them
//	holdfast webconfig  says what an ASP.NET application's configuration is here
//	holdfast demo       a small shop whose worker processes you kill while you shop
//	holdfast version    what this is
//
// Each command's --help says more.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the program. It returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	root := &cobra.Command{
		Use:           "holdfast",
		Short:         "Session state that holds",
		Long:          "Holdfast keeps the session state of web applications: through restarts, deploys,\nseveral processes and parallel requests.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), tokenCommand(), healthCommand(), sessionsCommand(), hostCommand(), sqlCommand(), migrateCommand(), webconfigCommand(), benchCommand(), demoCommand(), demoWorkerCommand(), versionCommand())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "holdfast: %v\n", err)
		if s := new(statusError); errors.As(err, &s) {
			return s.status
		}
		return 1
	}
	return 0
}

// A statusError ends the program with another status than 1.
type statusError struct {
	status int
	error
}

func (e *statusError) Unwrap() error { return e.error }

// many is as many arguments as one likes.
const many = math.MaxInt

// needs wants one argument at least and most at most, and says what they are.
func needs(what string, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return fmt.Errorf("%s is missing; write %s", what, cmd.UseLine())
		case len(args) > most:
			return fmt.Errorf("%q is too much; write %s", args[most], cmd.UseLine())
		}
		return nil
	}
}

// onlyCommands is for a command that is nothing without one of its own: alone it prints its
// help, and a word that is none of them is an error.
func onlyCommands(cmd *cobra.Command, own ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(own...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		var names []string
		for _, c := range own {
			names = append(names, c.Name())
		}
		return fmt.Errorf("%s has no command %q; it has %s", cmd.CommandPath(), args[0], strings.Join(names, ", "))
	}
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print what this is, and what it was built with",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "holdfast %s (%s, %s/%s)\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// version is the module's version or, in a build from a working copy, the revision
// where that is known.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown version)"
	}
	v, revision, dirty := info.Main.Version, "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = ", modified"
		}
	}
	if v == "" || v == "(devel)" {
		v = "(development)"
		if revision != "" {
			v = "(development, " + revision[:min(len(revision), 12)] + dirty + ")"
		}
	}
	return v
}

// logger is the structured log.
func logger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// listenError says what to do about a listener that cannot be had. flag is where its
// address is from, and others names what may have the port already.
func listenError(addr, flag string, err error, others string) error {
	path, isUnix := strings.CutPrefix(addr, "unix:")
	switch {
	case isInUse(err) && isUnix:
		return fmt.Errorf("cannot listen on %s: somebody does already. Stop that one, or choose another path", addr)
	case isInUse(err):
		return fmt.Errorf("cannot listen on %s: the port is taken. %s may be running there already; "+
			"stop it, or choose another port with %s (port 0 takes a free one)", addr, others, flag)
	case errors.Is(err, fs.ErrPermission) && isUnix:
		return fmt.Errorf("cannot listen on %s: permission denied. This user may make no socket in %s; change whose that is, or choose another path with %s", addr, filepath.Dir(path), flag)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot listen on %s: permission denied. Ports below 1024 need rights that other ports do not; choose one with %s", addr, flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("cannot listen on %s: this machine has no such address; choose one with %s", addr, flag)
	}
	return fmt.Errorf("cannot listen on %s: %w; choose an address such as 127.0.0.1:0 with %s", addr, withoutAddress(err), flag)
}

// withoutAddress is what is wrong with a connection or listener, for a message that has
// its address already.
func withoutAddress(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// isInUse reports whether err says that an address is in use.
func isInUse(err error) bool {
	const windowsInUse = syscall.Errno(10048) // WSAEADDRINUSE
	return errors.Is(err, syscall.EADDRINUSE) || runtime.GOOS == "windows" && errors.Is(err, windowsInUse)
}
