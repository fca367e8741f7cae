package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// tokenVar has the token of `holdfast sessions`, if no flag has.
const tokenVar = "HOLDFAST_TOKEN"

// A selection says which sessions of which server are meant.
type selection struct {
	server, token  string
	tlsFlags       tlsFlags
	app, subject   string
	hashes         []string // as people gave them
	json, all, yes bool
	stdin          io.Reader
	stderr         io.Writer
	client         *stateserver.Client
}

func sessionsCommand() *cobra.Command {
	var s selection
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "List, show and end the sessions that a state server has",
		Long: `A session is named by the beginning of a hash of its ID, because whoever knows the
ID of a session of an old client can use it.

A server that asks for tokens wants one of right read to list and show the sessions of
an application, write to end them, and admin to list those of all applications. Rather
than on the command line, where other users of the machine see it, give it in the
variable ` + tokenVar + `.`,
	}
	f := cmd.PersistentFlags()
	f.SortFlags = false
	f.StringVar(&s.server, "server", stateserver.DefaultAddr, "the state server's `address`, host:port or unix:/path")
	f.StringVar(&s.app, "app", "", "only sessions of this `application`")
	f.StringVar(&s.subject, "subject", "", "only sessions of this `subject` (a user)")
	f.StringVar(&s.token, "token", "", "`token` to show the server (default that in "+tokenVar+")")
	f.BoolVar(&s.json, "json", false, "print JSON, one object to a line")
	s.tlsFlags.addTo(f)

	list := &cobra.Command{
		Use: "list", Short: "List sessions", Args: cobra.NoArgs,
		Long: `It lists sessions without what is in them. ENDS AFTER, or "timeout" in JSON, is how long
without a request the server keeps the session: an application of Holdfast's asks for a
tenth more than its Options.Timeout, so as not to restart it at each request.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.on(cmd, s.list) },
	}
	show := &cobra.Command{
		Use:   "show HASH...",
		Short: "Show what is in sessions",
		Long:  "It prints the values of sessions, as far as they can be decoded. Reading a session\nrestarts its timeout.",
		Args:  needs("HASH, the beginning of a session's hash as holdfast sessions list prints it,", many),
		RunE: func(cmd *cobra.Command, args []string) error {
			s.hashes = args
			return s.on(cmd, s.show)
		},
	}
	end := &cobra.Command{
		Use:   "end [HASH...]",
		Short: "End sessions",
		Long: `It ends the sessions that are named or, if none is, all of --app, --subject, or
--all. The next request of their visitors begins new ones. If they are more than one, it
asks before.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s.hashes, s.stdin, s.stderr = args, cmd.InOrStdin(), cmd.ErrOrStderr()
			return s.on(cmd, s.end)
		},
	}
	end.Flags().BoolVar(&s.all, "all", false, "end all sessions")
	end.Flags().BoolVarP(&s.yes, "yes", "y", false, "do not ask")
	return onlyCommands(cmd, list, show, end)
}

// on does something with a client of the server.
func (s *selection) on(cmd *cobra.Command, do func(ctx context.Context, w io.Writer) error) error {
	if s.token == "" {
		s.token = os.Getenv(tokenVar)
	}
	config, err := s.tlsFlags.config()
	if err != nil {
		return err
	}
	o := &stateserver.ClientOptions{Token: s.token, TLS: config}
	if s.client, err = stateserver.Dial(s.server, o); err != nil {
		return fmt.Errorf("--server %s: %w", s.server, err)
	}
	defer s.client.Close()
	out := bufio.NewWriter(cmd.OutOrStdout())
	err = errors.Join(do(cmd.Context(), out), out.Flush())
	if err != nil {
		return s.explain(err)
	}
	return nil
}

// explain says what to do about an error of the client.
func (s *selection) explain(err error) error {
	var answered interface{ Status() int } // the server has, with that
	switch {
	case errors.As(err, &answered):
		return s.explainAnswer(err, answered.Status())
	case errors.Is(err, errors.ErrUnsupported):
		return fmt.Errorf("%s: this server cannot list its sessions (%w)", s.server, err)
	case !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrUnsure):
		return err
	}
	// Who lists sessions has no outcome to worry about.
	said := strings.TrimPrefix(err.Error(), store.ErrUnsure.Error()+": ")
	if hint := s.tlsFlags.hint(err); hint != "" {
		return fmt.Errorf("%s: %s (%s)", s.server, hint, said)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("no state server can be reached on %s; is it running, and is --server right? (%s)", s.server, said)
	}
	return fmt.Errorf("there is no answer of a state server on %s; is --server right? (%s)", s.server, said)
}

func (s *selection) explainAnswer(err error, status int) error {
	switch {
	case status == http.StatusUnauthorized && s.token == "":
		return fmt.Errorf("the server wants a token; give it in the variable %s (%w)", tokenVar, err)
	case status == http.StatusUnauthorized:
		return fmt.Errorf("the server does not know this token (%w)", err)
	case status == http.StatusForbidden && (s.token == "" || strings.Contains(err.Error(), "address")):
		return fmt.Errorf("the server lets nobody in from here; its --allow says from where (%w)", err)
	case status == http.StatusForbidden:
		return fmt.Errorf("the token does not allow this; name the application that it is for with --app, or take one of another right (%w)", err)
	case errors.Is(err, errors.ErrUnsupported):
		return fmt.Errorf("%s: this server cannot list its sessions (%w)", s.server, err)
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrUnsure):
		return fmt.Errorf("the state server on %s is running, and refuses this or cannot do it at the moment (%w)", s.server, err)
	}
	return err
}

// each calls do for every session that is selected.
func (s *selection) each(ctx context.Context, do func(l *store.Listed) error) error {
	q := store.Query{App: s.app, Subject: s.subject}
	for {
		page, next, err := s.client.List(ctx, q)
		if err != nil {
			return err
		}
		for i := range page {
			if err := do(&page[i]); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		q.After = next
	}
}

func (s *selection) list(ctx context.Context, w io.Writer) error {
	print := printTable
	if s.json {
		print = printJSON
	}
	return print(w, func(row func(*store.Listed) error) error { return s.each(ctx, row) })
}

// named returns the sessions that s.hashes name.
func (s *selection) named(ctx context.Context) ([]store.Listed, error) {
	for _, h := range s.hashes {
		if len(h) < 4 || strings.Trim(h, "0123456789abcdef") != "" {
			return nil, fmt.Errorf("%q is no hash of a session; `holdfast sessions list` prints them, and the first 4 digits or more name one", h)
		}
	}
	matches := make([][]store.Listed, len(s.hashes))
	err := s.each(ctx, func(l *store.Listed) error {
		hash := hashOf(l.ID)
		for i, h := range s.hashes {
			if strings.HasPrefix(hash, h) {
				matches[i] = append(matches[i], *l)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var all []store.Listed
	for i, m := range matches {
		switch len(m) {
		case 0:
			return nil, fmt.Errorf("there is no session %s; it may have ended", s.hashes[i])
		case 1:
			all = append(all, m[0])
		default:
			return nil, fmt.Errorf("%d sessions begin with %s; write more of it", len(m), s.hashes[i])
		}
	}
	return all, nil
}

func (s *selection) show(ctx context.Context, w io.Writer) error {
	all, err := s.named(ctx)
	if err != nil {
		return err
	}
	for i := range all {
		var rec store.Record
		if err := s.client.Load(ctx, all[i].ID, &rec); err != nil {
			if errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("session %s has ended a moment ago", shortHash(all[i].ID))
			}
			return err
		}
		if err := printSession(w, all[i].ID, &rec, s.json); err != nil {
			return err
		}
	}
	return nil
}

// endsAtATime is how many sessions are ended side by side, so that the server forces
// many ends to disk at once.
const endsAtATime = 32

func (s *selection) end(ctx context.Context, w io.Writer) error {
	var all []store.Listed
	var err error
	switch {
	case len(s.hashes) > 0 && s.all:
		return errors.New("--all ends every session; leave it or the names out")
	case len(s.hashes) > 0:
		all, err = s.named(ctx)
	case s.app == "" && s.subject == "" && !s.all:
		return errors.New("which sessions? Name them, or write --subject, --app or --all")
	default:
		err = s.each(ctx, func(l *store.Listed) error {
			all = append(all, store.Listed{ID: l.ID})
			return nil
		})
	}
	if err != nil {
		return err
	}
	if len(all) > 1 && !s.yes {
		if err := confirm(s.stdin, s.stderr, "This ends "+count(len(all))+"."); err != nil {
			return err
		}
	}
	var (
		workers sync.WaitGroup
		next    atomic.Int64
		ended   atomic.Int64
		failed  atomic.Pointer[error]
	)
	for range min(endsAtATime, len(all)) {
		workers.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(all) {
					return
				}
				err := s.endOne(ctx, all[i].ID)
				switch {
				case err == nil:
					ended.Add(1)
				case !errors.Is(err, store.ErrNotFound): // it ended by itself
					failed.Store(&err)
				}
			}
		})
	}
	workers.Wait()
	if err := failed.Load(); err != nil {
		return fmt.Errorf("%d of %d sessions have been ended, then: %w", ended.Load(), len(all), *err)
	}
	if s.json {
		_, err = fmt.Fprintf(w, "{\"ended\":%d}\n", ended.Load())
	} else {
		_, err = fmt.Fprintf(w, "%s ended\n", count(int(ended.Load())))
	}
	return err
}

// endOne ends a session. Where a reply was lost, another call tells that it is gone.
func (s *selection) endOne(ctx context.Context, id store.ID) (err error) {
	for range 3 {
		unsure := errors.Is(err, store.ErrUnsure)
		err = s.client.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned})
		if unsure && errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if !errors.Is(err, store.ErrUnsure) {
			break
		}
	}
	return err
}

// confirm asks whether to go on.
func confirm(stdin io.Reader, w io.Writer, question string) error {
	fmt.Fprintf(w, "%s Go on? [y/N] ", question)
	answer, err := bufio.NewReader(stdin).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	if errors.Is(err, io.EOF) {
		return errors.New("nobody is there to ask, and nothing was done; add --yes")
	}
	return errors.New("nothing was done")
}

func count(n int) string {
	if n == 1 {
		return "1 session"
	}
	return fmt.Sprintf("%d sessions", n)
}

// ago is a time of the past as people say it.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}
