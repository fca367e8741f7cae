package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/logstore"
	"github.com/holdfast-session/holdfast/migrate"
	"github.com/holdfast-session/holdfast/mode"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// stateServer starts one, and returns its address and a client of it.
func stateServer(t *testing.T) (addr string, c mode.Store) {
	t.Helper()
	addr = start(t, "serve", "--listen", "127.0.0.1:0", "--memory").ready(ready)
	return addr, openStore(t, "stateserver://"+addr)
}

func openStore(t *testing.T, spec string) mode.Store {
	t.Helper()
	s, err := mode.Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A group is sessions with a content that is all their own.
type group struct {
	t   *testing.T
	ids []store.ID
}

func (c *group) begin(s store.Store, app string, n int) {
	c.t.Helper()
	for i := range n {
		id := store.ID{App: app, Session: fmt.Sprintf("%s-%04d", strings.Trim(app, "/"), i)}
		rec := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Subject: "s-" + id.Session, Body: []byte("what " + id.Session + " has")}
		if err := s.Create(c.t.Context(), id, &rec, false); err != nil {
			c.t.Fatal(err)
		}
		c.ids = append(c.ids, id)
	}
}

// areIn checks that each session is in the place, as it was, and none is anywhere else.
func (c *group) areIn(s store.Store, others ...store.Store) {
	c.t.Helper()
	var rec store.Record
	for _, id := range c.ids {
		if err := s.Load(c.t.Context(), id, &rec); err != nil {
			c.t.Fatalf("%s: %v", id.Session, err)
		}
		if string(rec.Body) != "what "+id.Session+" has" || rec.Subject != "s-"+id.Session || rec.Flags != 0 {
			c.t.Fatalf("%s is %+v", id.Session, rec)
		}
	}
	if n := len(list(c.t, s)); n != len(c.ids) {
		c.t.Errorf("there are %d sessions, want %d", n, len(c.ids))
	}
	for _, o := range others {
		if all := list(c.t, o); len(all) != 0 {
			c.t.Errorf("%d sessions are also elsewhere, such as %+v", len(all), all[0])
		}
	}
}

// list lists all sessions of a store.
func list(t *testing.T, s store.Store) (all []store.Listed) {
	t.Helper()
	for q := (store.Query{}); ; {
		page, next, err := s.(store.Lister).List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
		if q.After = next; next == "" {
			return all
		}
	}
}

// migrates runs the command and wants a status and a text of it.
func migrates(t *testing.T, status int, want string, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	got := run(append([]string{"migrate", "--yes"}, args...), &out, &errs)
	if got != status || !strings.Contains(out.String()+errs.String(), want) {
		t.Fatalf("migrate %s: status %d, want %d and %q; it said\n%s%s", strings.Join(args, " "), got, status, want, &out, &errs)
	}
	return out.String(), errs.String()
}

// A misspelled folder is not made, and found to be empty.
func TestMigrateFromNowhere(t *testing.T) {
	dir := t.TempDir()
	typo := filepath.Join(dir, "typo")
	migrates(t, 1, "--from: there is no folder "+typo, "--from", "logstore:"+typo, "--to", "stateserver://127.0.0.1:1")
	if _, err := os.Stat(typo); err == nil {
		t.Error("the folder has been made")
	}
	migrates(t, 1, "there are no sessions in the folder "+dir, "--from", "LogStore:"+dir+"?sync=always", "--to", "stateserver://127.0.0.1:1")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("in the folder: %v, %v", entries, err)
	}
}

// TestMigrate moves the sessions of a folder to a state server, and those of one
// application before.
func TestMigrate(t *testing.T) {
	dir := t.TempDir()
	folder, err := logstore.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	shop, bank := group{t: t}, group{t: t}
	shop.begin(folder, "/shop", 150)
	bank.begin(folder, "/bank", 50)
	from := "logstore:" + dir
	addr, server := stateServer(t)
	to := "stateserver://" + addr

	migrates(t, 1, "in use", "--from", from, "--to", to) // by this process
	if err := folder.Close(); err != nil {
		t.Fatal(err)
	}
	migrates(t, 0, "150 sessions moved, 0 gone before their turn came, 0 still in use\n", "--from", from, "--to", to, "--app", "/shop")
	shop.areIn(server)
	out, errs := migrates(t, 0, "", "--verify", "--from", from, "--to", to)
	table := `APPLICATION  MOVED  FOUND  ENDED SINCE  MISSING  IN THE OLD PLACE  HALFWAY  IN THE NEW PLACE
/bank        50     50     0            0        0                 0        50
/shop        0      0      0            0        0                 0        150
verified: nothing is left in the old place, and everything that moved is in the new one
`
	if !strings.HasSuffix(out, table) || !strings.HasPrefix(out, "50 sessions moved") {
		t.Errorf("it printed\n%s\nwant\n%s", out, table)
	}
	if errs != "50 of 50 moved\n" {
		t.Errorf("where there is no terminal it showed %q", errs)
	}
	folder, err = logstore.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	all := group{t, append(shop.ids, bank.ids...)}
	all.areIn(server, folder)
}

// TestMigrateInterrupted stops it by a signal, kills it, takes a server away, and runs it
// again; and then all goes back.
func TestMigrateInterrupted(t *testing.T) {
	var c group
	c.t = t
	one, old := stateServer(t)
	c.begin(old, "/shop", 600)
	folder := t.TempDir()
	server := start(t, "serve", "--listen", "127.0.0.1:0", "--data", folder)
	two := server.ready(ready)
	fresh := openStore(t, "stateserver://"+two)
	there := []string{"--from", "stateserver://" + one, "--to", "stateserver://" + two}
	slowly := func() *program {
		t.Helper()
		moved := len(list(t, fresh))
		p := start(t, append([]string{"migrate", "--yes", "--rate", "300"}, there...)...)
		eventually(t, "some sessions move", func() bool { return len(list(t, fresh)) > moved+50 })
		return p
	}

	p := slowly()
	p.signal(os.Interrupt)
	if status := p.wait(); status != 2 || !strings.Contains(p.stderr.String(), "it was stopped before everything was moved; run it again") || !strings.Contains(p.stdout.String(), "sessions moved\n") {
		t.Fatalf("interrupted: status %d, %s%s", status, p.stdout, p.stderr)
	}
	p = slowly()
	p.signal(syscall.SIGKILL)
	p.wait()
	p = slowly()
	server.stop()
	if status := p.wait(); status != 1 || !strings.Contains(p.stderr.String(), "a store does not answer; run this again when it does") {
		t.Fatalf("without the server: status %d, %s", status, p.stderr)
	}
	start(t, "serve", "--listen", two, "--data", folder).ready(ready)
	migrates(t, 0, "verified:", append(there, "--verify", "--lock-timeout", "1s")...)
	c.areIn(fresh, old)

	// A mover dies at a bad moment on the way back, and it goes on from the other side.
	halfway(t, fresh, old, c.ids[0])
	back := []string{"--from", "stateserver://" + two, "--to", "stateserver://" + one, "--lock-timeout", "1s"}
	migrates(t, 0, "nothing is halfway", append(back, "--finish")...)
	for _, one := range append(list(t, old), list(t, fresh)...) {
		if one.Record.Flags != 0 {
			t.Errorf("%s has the flags %b", one.ID.Session, one.Record.Flags)
		}
	}
	migrates(t, 0, "verified:", append(back, "--verify")...)
	c.areIn(old, fresh)
}

// halfway leaves a session as a mover does that dies when it has removed it in the old
// place.
func halfway(t *testing.T, from, to store.Store, id store.ID) {
	t.Helper()
	dead := false
	faults := &storetest.Faults{Rule: func(call storetest.Call) storetest.Fault {
		switch {
		case dead:
			return storetest.Refuse
		case call.Method == "Remove":
			dead = true
			return storetest.LoseReply
		}
		return storetest.None
	}}
	mover := migrate.New(faults.Wrap(from), faults.Wrap(to), &migrate.Options{Phase: migrate.Move})
	o := store.LockOptions{Owner: store.NewOwner(), Stale: 1} // one that was killed before may have the lock
	err := mover.Lock(context.Background(), id, o, new(store.Record))
	if err == nil || !dead {
		t.Fatalf("the mover did not die: %v", err)
	}
	var rec store.Record
	if err := to.Load(t.Context(), id, &rec); err != nil || rec.Flags&store.Moving == 0 {
		t.Fatalf("it is not halfway: %+v, %v", rec, err)
	}
}

// TestMigrateBusy: a session that somebody works on stays, and that is said.
func TestMigrateBusy(t *testing.T) {
	one, old := stateServer(t)
	two, _ := stateServer(t)
	c := group{t: t}
	c.begin(old, "/shop", 3)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	o, rec := store.LockOptions{Owner: store.NewOwner()}, new(store.Record)
	lock := func() error { return old.Lock(context.Background(), c.ids[1], o, rec) }
	if err := lock(); err != nil {
		t.Fatal(err)
	}
	go func() {
		every := time.NewTicker(100 * time.Millisecond)
		defer every.Stop()
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			case <-every.C:
				if err := lock(); err != nil {
					stopped <- err
					return
				}
			}
		}
	}()
	args := []string{"--from", "stateserver://" + one, "--to", "stateserver://" + two, "--lock-timeout", "1s"}
	migrates(t, 2, "1 session is locked, or the new place has no room; run this again", args...)
	close(stop)
	if err := <-stopped; err != nil {
		t.Errorf("the holder of the lock: %v", err)
	}
	migrates(t, 0, "1 session moved", args...) // the lock has become stale
}

// TestMigrateGrow adds a server to a list: only the sessions whose server changes move.
func TestMigrateGrow(t *testing.T) {
	one, _ := stateServer(t)
	two, second := stateServer(t)
	three, third := stateServer(t)
	before, after := "stateserver://"+one+","+two, "stateserver://"+one+","+two+","+three
	c := group{t: t}
	c.begin(openStore(t, before), "/shop", 300)
	stays := len(list(t, second))
	migrates(t, 0, "verified:", "--from", before, "--to", after, "--verify")
	c.areIn(openStore(t, after))
	if n := len(list(t, third)); n < 60 || n > 140 {
		t.Errorf("the third server has %d of 300 sessions", n)
	}
	if n := len(list(t, second)); n >= stays {
		t.Errorf("the second server has %d sessions, and had %d", n, stays)
	}
}

func TestMigrateMistakes(t *testing.T) {
	addr, s := stateServer(t)
	_, port, _ := strings.Cut(addr, ":")
	c := group{t: t}
	c.begin(s, "/shop", 5)
	here := "stateserver://" + addr
	for args, want := range map[string]string{
		"":                                 "--from and --to say which stores are meant",
		"--from " + here:                   "--from and --to say",
		"--from " + here + " --to " + here: "are the same store",
		"--from " + here + " --to stateserver://localhost:" + port:        "the same place; nothing was moved",
		"--from inproc: --to " + here:                                     "--from: inproc: keeps its sessions in a process",
		"--from " + here + " --to off:":                                   "--to: off: keeps its sessions in a process",
		"--from nowhere:x --to " + here:                                   "--from: mode: there is no mode",
		"--from " + here + " --to stateserver://s3cret@h":                 "--to: mode: stateserver://…@h",
		"--from " + here + " --to stateserver://127.0.0.1:1 --parallel 0": "are numbers above 0",
		"--from " + here + " --to stateserver://127.0.0.1:1":              "a store does not answer",
	} {
		migrates(t, 1, want, strings.Fields(args)...)
	}
	c.areIn(s)
	var out, errs bytes.Buffer
	if status := run([]string{"migrate", "--from", here, "--to", "stateserver://127.0.0.1:1"}, &out, &errs); status != 1 || !strings.Contains(errs.String(), "in the phase Move of package migrate. Go on? [y/N] ") || !strings.Contains(errs.String(), "add --yes") {
		t.Errorf("nobody to ask: status %d, %s", status, &errs)
	}
}

// TestMigrateMissing: the second pass notices a session that was moved and is lost.
func TestMigrateMissing(t *testing.T) {
	_, old := stateServer(t)
	_, fresh := stateServer(t)
	c := group{t: t}
	c.begin(old, "/shop", 3)
	var out bytes.Buffer
	m := migration{out: &out, log: &out, moved: append(c.ids, store.ID{App: "/shop", Session: "lost"})}
	if _, err := migrate.All(t.Context(), old, fresh, nil); err != nil {
		t.Fatal(err)
	}
	if err := fresh.Remove(t.Context(), c.ids[0], store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
		t.Fatal(err)
	}
	err := m.check(t.Context(), old, fresh)
	if s := new(statusError); !errors.As(err, &s) || s.status != 3 || !strings.Contains(err.Error(), "of 1 session that moved the new place knows nothing") {
		t.Errorf("%v\n%s", err, &out)
	}
	if got, want := strings.Join(strings.Fields(out.String()), " "), "/shop 4 2 1 1 0 0 2"; !strings.HasSuffix(got, want) {
		t.Errorf("it printed %s, want %s", got, want)
	}
}

func TestProgressBar(t *testing.T) {
	p := migrate.Progress{Total: 200, Moved: 90, Gone: 6, Busy: 4}
	if got, want := progressBar(p), "["+strings.Repeat("=", 14)+strings.Repeat(" ", 14)+"]"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := progressText(p, 3*time.Second), "90 of 200 moved, 6 gone, 4 in use, 30 a second"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := progressBar(migrate.Progress{}); got != "["+strings.Repeat("=", 28)+"]" {
		t.Errorf("of nothing: %q", got)
	}
}
