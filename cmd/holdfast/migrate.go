package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-session/holdfast/migrate"
	"github.com/holdfast-session/holdfast/mode"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// The exit statuses of `holdfast migrate` besides 0 and 1.
const (
	statusLeft  = 2 // there is more to move: run it again
	statusWrong = 3 // the second pass found something missing
)

// A migration is what `holdfast migrate` was asked for.
type migration struct {
	from, to    string
	o           migrate.AllOptions
	verify      bool
	finish, yes bool
	out, log    io.Writer
	moved       []store.ID // by this run, if it is to verify
}

func migrateCommand() *cobra.Command {
	var m migration
	cmd := &cobra.Command{
		Use:   "migrate --from STORE --to STORE",
		Short: "Move the sessions of a store to another while applications use them",
		Long: `It moves the sessions that nobody uses: those that are used move by themselves. STORE
is what mode.Open takes, such as stateserver://one:42424 or logstore:/var/lib/shop; a
token or password is better kept in a file (token-file=…) than on the command line.

What the applications must be doing meanwhile. Their store is migrate.New of the two:

 1. Bring every process to the phase Prepare. It knows both places then, and begins
    new sessions in the old one.
 2. When no process is left that knows the old place alone, bring them to the phase
    Move: new sessions begin in the new place.
 3. When all are in that phase, run this command, and again until it ends with status 0.
 4. Take the old place out of the applications, and switch it off.

Or stop the applications, run it, and start them with the new place. A process that
knows the old place alone loses the sessions that have moved, until they are back.

It may be stopped at any time and run again: it then moves what is left. Until the old
place is switched off all of it can be undone. Bring the processes back to Prepare; run
the command with --finish until it ends with status 0; then do the same as above from
the new place to the old one: Prepare, Move, this command with --from and --to exchanged.

A folder (logstore:) is used by one process alone: stop that, or let it call migrate.All.

Exit status: 0 when nothing is left to move, 2 when something is (it was stopped, or
sessions were in use or had no room), 3 when --verify found sessions missing, 1 for
everything else.`,
		Example: `  holdfast migrate --from logstore:/var/lib/shop --to stateserver://state:42424 --verify
  holdfast migrate --from stateserver://one:42424 --to stateserver://one:42424,two:42424 --rate 500`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m.out, m.log = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return m.run(cmd.Context(), cmd.InOrStdin())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&m.from, "from", "", "the old `store`")
	f.StringVar(&m.to, "to", "", "the new `store`")
	f.StringVar(&m.o.App, "app", "", "only sessions of this `application`")
	f.IntVar(&m.o.Rate, "rate", 0, "how many sessions move in a second at most (default any number)")
	f.IntVar(&m.o.Parallel, "parallel", 8, "how many sessions move at the same time")
	f.BoolVar(&m.verify, "verify", false, "look in a second pass where the sessions are, count by count; takes some 150 bytes of memory for each that moves")
	f.BoolVar(&m.finish, "finish", false, "move nothing; finish what a process has left halfway that died, before going back")
	f.StringVar(&m.o.Name, "name", "", "migrate.Options.Name, if the applications set it")
	f.DurationVar(&m.o.LockTimeout, "lock-timeout", 20*time.Second, "Options.LockTimeout of the applications")
	f.BoolVarP(&m.yes, "yes", "y", false, "do not ask")
	return cmd
}

func (m *migration) run(ctx context.Context, stdin io.Reader) error {
	switch {
	case m.from == "" || m.to == "":
		return errors.New("--from and --to say which stores are meant")
	case m.from == m.to:
		return errors.New("--from and --to are the same store")
	case m.o.Rate < 0 || m.o.Parallel < 1 || m.o.LockTimeout <= 0:
		return errors.New("--rate, --parallel and --lock-timeout are numbers above 0")
	}
	if dir, ok := placeOf(m.from, "logstore:"); ok {
		if err := wantLog(dir); err != nil {
			return fmt.Errorf("--from: %w", err)
		}
	}
	from, err := openPlace("--from", m.from)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := openPlace("--to", m.to)
	if err != nil {
		return err
	}
	defer to.Close()
	m.o.Stays = sameServer(from, to)
	if !m.yes {
		question := "Every process that uses these sessions must be stopped, or in the phase Move of package migrate."
		if m.finish {
			question = "Every process that uses these sessions must be stopped, or in the phase Prepare of package migrate."
		}
		if err := confirm(stdin, m.log, question); err != nil {
			return err
		}
	}
	if m.finish {
		p, err := migrate.Finish(ctx, from, to, &m.o)
		if err == nil && p.Busy > 0 {
			err = left(fmt.Errorf("%s halfway and locked; run this again after the lock timeout", are(p.Busy)))
		}
		if err == nil {
			fmt.Fprintln(m.out, "nothing is halfway")
		}
		return explain(ctx, err)
	}
	if m.verify {
		m.o.Moved = func(id store.ID) { m.moved = append(m.moved, id) }
	}
	if err := m.move(ctx, from, to); err != nil || !m.verify {
		return explain(ctx, err)
	}
	return explain(ctx, m.check(ctx, from, to))
}

// placeOf returns the file or folder that a spec of mode.Open names, if its scheme is that.
func placeOf(spec, scheme string) (path string, ok bool) {
	if len(spec) < len(scheme) || !strings.EqualFold(spec[:len(scheme)], scheme) {
		return "", false
	}
	path, _, _ = strings.Cut(spec[len(scheme):], "?")
	return path, path != ""
}

// wantLog refuses a folder that no log of sessions is in, such as one that is misspelled:
// it would be made, and found to be empty.
func wantLog(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no folder %s", dir)
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".seg") {
			return nil
		}
	}
	return fmt.Errorf("there are no sessions in the folder %s, and never were; is it another one?", dir)
}

// openPlace opens a store that other processes reach, too.
func openPlace(flag, spec string) (mode.Store, error) {
	s, err := mode.Open(spec)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	name, _, _ := strings.Cut(strings.ToLower(spec), ":")
	if name == "inproc" || name == "off" {
		s.Close()
		return nil, fmt.Errorf("%s: %s: keeps its sessions in a process, if at all; only that process can move them, by migrate.All", flag, name)
	}
	return s, nil
}

// sameServer returns what says that a session's server is the same in two lists of state
// servers, or nil if the stores are something else.
func sameServer(from, to mode.Store) func(store.ID) bool {
	old, new := servers(from), servers(to)
	if old == nil || new == nil {
		return nil
	}
	return func(id store.ID) bool {
		a, err1 := old(id)
		b, err2 := new(id)
		return err1 == nil && err2 == nil && a.Name() == b.Name()
	}
}

func servers(s mode.Store) func(store.ID) (*stateserver.Client, error) {
	switch s := s.(type) {
	case *stateserver.Client:
		return func(store.ID) (*stateserver.Client, error) { return s, nil }
	case *stateserver.Partitions:
		return s.Server
	}
	return nil
}

func left(err error) error { return &statusError{statusLeft, err} }

// are counts sessions that are something.
func are(n int) string {
	if n == 1 {
		return "1 session is"
	}
	return count(n) + " are"
}

// explain says what to do about an error of a store.
func explain(ctx context.Context, err error) error {
	switch {
	case err != nil && ctx.Err() != nil:
		return left(errors.New("it was stopped before everything was moved; run it again to go on"))
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrUnsure):
		return fmt.Errorf("a store does not answer; run this again when it does, and it goes on (%w)", err)
	case errors.Is(err, migrate.ErrSamePlace):
		return fmt.Errorf("%w; nothing was moved", err)
	}
	return err
}

// move moves sessions until a pass over the old place finds none.
func (m *migration) move(ctx context.Context, from, to store.Store) error {
	all, ended := 0, 0
	for {
		bar := newBar(m.log)
		m.o.Progress = bar.show
		p, err := migrate.All(ctx, from, to, &m.o)
		all, ended = all+p.Moved, ended+p.Gone
		bar.done(p)
		if err != nil {
			fmt.Fprintf(m.out, "%s moved\n", count(all))
			return err
		}
		if p.Moved > 0 {
			continue // some may have come meanwhile
		}
		fmt.Fprintf(m.out, "%s moved, %d gone before their turn came, %d still in use\n", count(all), ended, p.Busy)
		if p.Busy > 0 {
			return left(fmt.Errorf("%s locked, or the new place has no room; run this again", are(p.Busy)))
		}
		return nil
	}
}

// check is the second pass.
func (m *migration) check(ctx context.Context, from, to store.Store) error {
	counts, err := migrate.Verify(ctx, from, to, &m.o, m.moved)
	if err != nil {
		return fmt.Errorf("verifying: %w", err)
	}
	var all migrate.Count
	t := tabwriter.NewWriter(m.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "APPLICATION\tMOVED\tFOUND\tENDED SINCE\tMISSING\tIN THE OLD PLACE\tHALFWAY\tIN THE NEW PLACE")
	for _, c := range counts {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", plain(c.App), c.Moved, c.Found, c.Ended, c.Missing, c.Old, c.Halfway, c.New)
		all.Missing, all.Old, all.Halfway = all.Missing+c.Missing, all.Old+c.Old, all.Halfway+c.Halfway
	}
	if err := t.Flush(); err != nil {
		return err
	}
	switch {
	case all.Missing > 0:
		return &statusError{statusWrong, fmt.Errorf("of %s that moved the new place knows nothing: they ended there and it has forgotten how, or are lost", count(all.Missing))}
	case all.Old+all.Halfway > 0:
		return left(fmt.Errorf("%s not moved yet; run this again. If that does not help, a process is still in the phase Prepare", are(all.Old+all.Halfway)))
	}
	_, err = fmt.Fprintln(m.out, "verified: nothing is left in the old place, and everything that moved is in the new one")
	return err
}

// A bar shows how far it is: on a terminal by one line that is written over, elsewhere by
// a line every few seconds.
type bar struct {
	w        io.Writer
	terminal bool
	begun    time.Time
	next     time.Time // when to show more
}

func newBar(w io.Writer) *bar {
	b := &bar{w: w, begun: time.Now()}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		b.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	b.next = b.begun.Add(b.every())
	return b
}

func (b *bar) every() time.Duration {
	if b.terminal {
		return 100 * time.Millisecond
	}
	return 5 * time.Second
}

// show shows p, if it is time.
func (b *bar) show(p migrate.Progress) {
	if now := time.Now(); now.After(b.next) {
		b.next = now.Add(b.every())
		b.print(p, now)
	}
}

// done shows how a pass has ended.
func (b *bar) done(p migrate.Progress) {
	if p.Total == 0 {
		return
	}
	b.print(p, time.Now())
	if b.terminal {
		fmt.Fprintln(b.w)
	}
}

func (b *bar) print(p migrate.Progress, now time.Time) {
	text := progressText(p, now.Sub(b.begun))
	if b.terminal {
		text = "\r\x1b[K" + progressBar(p) + " " + text
	} else {
		text += "\n"
	}
	fmt.Fprint(b.w, text)
}

func progressText(p migrate.Progress, took time.Duration) string {
	text := fmt.Sprintf("%d of %d moved", p.Moved, p.Total)
	if p.Gone > 0 {
		text += fmt.Sprintf(", %d gone", p.Gone)
	}
	if p.Busy > 0 {
		text += fmt.Sprintf(", %d in use", p.Busy)
	}
	if s := took.Seconds(); s >= 1 {
		text += fmt.Sprintf(", %.0f a second", float64(p.Moved)/s)
	}
	return text
}

// progressBar is 30 columns wide.
func progressBar(p migrate.Progress) string {
	const width = 28
	full := width
	if p.Total > 0 {
		full = min(width*(p.Moved+p.Gone+p.Busy)/p.Total, width)
	}
	return "[" + strings.Repeat("=", full) + strings.Repeat(" ", width-full) + "]"
}
