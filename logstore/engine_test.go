package logstore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
	"github.com/holdfast-session/holdfast/store"
)

// A rig is a store on a disk in memory, in a bubble.
type rig struct {
	*testing.T
	*Store
	disk *vfs.Mem
	o    Options
	l    limits
}

// inRig runs a test in a bubble.
func inRig(t *testing.T, o Options, l limits, test func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, disk: vfs.NewMem(), o: o, l: l}
		r.open()
		defer func() {
			if err := r.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}()
		test(r)
	})
}

func (r *rig) open() {
	r.Helper()
	s, err := openLimited(r.disk, &r.o, r.l)
	if err != nil {
		r.Fatal(err)
	}
	r.Store = s
}

// crash opens what a process leaves that is killed, or with Drop what is left when the
// power fails.
func (r *rig) crash(mode vfs.CutMode) {
	r.Helper()
	old, disk := r.Store, r.disk.Cut(nil, mode)
	old.Close()
	r.disk = disk
	r.open()
}

func (r *rig) restart() {
	r.Helper()
	if err := r.Close(); err != nil {
		r.Fatalf("Close: %v", err)
	}
	r.open()
}

// forget removes the snapshots of a store that is closed.
func (r *rig) forget() {
	r.Helper()
	files, err := r.disk.List()
	if err != nil {
		r.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name, ".snap") {
			if err := r.disk.Remove(f.Name); err != nil {
				r.Fatal(err)
			}
		}
	}
}

func name(i int) store.ID { return store.ID{App: "/", Session: fmt.Sprint(i)} }

func (r *rig) create(i int, timeout time.Duration, body []byte) {
	r.Helper()
	rec := store.Record{Version: store.NewVersion(), Timeout: timeout, Body: body, Subject: "alice"}
	if err := r.Create(r.Context(), name(i), &rec, false); err != nil {
		r.Fatalf("Create of %d: %v", i, err)
	}
}

func (r *rig) save(i int, body []byte) {
	r.Helper()
	var rec store.Record
	if err := r.Lock(r.Context(), name(i), store.LockOptions{Owner: 1}, &rec); err != nil {
		r.Fatalf("Lock of %d: %v", i, err)
	}
	rec.Body = body
	if err := r.Save(r.Context(), name(i), &rec, store.NewVersion(), false); err != nil {
		r.Fatalf("Save of %d: %v", i, err)
	}
}

func (r *rig) remove(i int) {
	r.Helper()
	if err := r.Remove(r.Context(), name(i), store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
		r.Fatalf("Remove of %d: %v", i, err)
	}
}

func (r *rig) want(i int, body []byte) {
	r.Helper()
	var rec store.Record
	if err := r.Load(r.Context(), name(i), &rec); err != nil {
		r.Errorf("Load of %d: %v", i, err)
	} else if !bytes.Equal(rec.Body, body) {
		r.Errorf("session %d has a body of %d bytes, %.20q; want %d, %.20q", i, len(rec.Body), rec.Body, len(body), body)
	}
}

// wantGone checks that a session is not there, for one of these reasons.
func (r *rig) wantGone(i int, why ...store.Kind) {
	r.Helper()
	err := r.Load(r.Context(), name(i), new(store.Record))
	if !errors.Is(err, store.ErrNotFound) || !slices.Contains(why, store.ReasonOf(err).Kind) {
		r.Errorf("Load of %d: %v; want not found, %v", i, err, why)
	}
}

// wait lets the keeper do what it has to.
func (r *rig) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// wantEmpty checks that nothing is left of what sessions take in memory.
func (r *rig) wantEmpty() {
	r.Helper()
	if n, k, m, b := r.count.Load(), r.kept.Load(), r.blocks.inUse.Load(), r.bodies.Load(); n != 0 || k != 0 || m != 0 || b != 0 {
		r.Errorf("%d sessions, %d entries, %d bytes in blocks, %d of bodies; want nothing", n, k, m, b)
	}
	for i := range r.shard {
		if sh := &r.shard[i]; sh.index.used != 0 || sh.entries.used != 0 {
			r.Errorf("shard %d has %d in its index and %d entries", i, sh.index.used, sh.entries.used)
		}
	}
	if n := len(r.subjects.byName); n != 0 {
		r.Errorf("%d subjects; want none", n)
	}
}

// pattern is a body that is not like others.
func pattern(i, size int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%d ", i), size)[:size] }

const long = time.Hour

func TestMemoryIsGivenBack(t *testing.T) {
	inRig(t, Options{SegmentSize: 1 << 20}, limits{warm: 200 << 10}, func(r *rig) {
		for round := range 3 {
			for i := range 1000 {
				r.create(i, long, pattern(i, i))
			}
			for i := range 1000 {
				if i%3 == 0 {
					r.save(i, pattern(i+1, 2*i))
				}
				if i%3 == 1 {
					r.want(i, pattern(i, i))
				}
			}
			r.wait(time.Second)
			if m := r.resident(); m > r.maxWarm+50<<10 {
				r.Errorf("round %d: sessions take %d bytes; want at most about %d", round, m, r.maxWarm)
			}
			for i := range 1000 {
				r.remove(i)
			}
			r.wantEmpty()
		}
	})
}

func TestFolderInUse(t *testing.T) {
	inRig(t, Options{SegmentSize: 1 << 20}, limits{}, func(r *rig) {
		if _, err := open(r.disk, nil); !errors.Is(err, ErrInUse) {
			r.Errorf("a second Open: %v; want %v", err, ErrInUse)
		}
	})
}

func TestAfterClose(t *testing.T) {
	inRig(t, Options{SegmentSize: 1 << 20}, limits{}, func(r *rig) {
		r.create(1, long, nil)
		var rec store.Record
		if err := r.Lock(r.Context(), name(1), store.LockOptions{Owner: 1}, &rec); err != nil {
			r.Fatal(err)
		}
		waiter := make(chan error)
		go func() {
			waiter <- r.Lock(r.Context(), name(1), store.LockOptions{Owner: 2, Wait: long}, new(store.Record))
		}()
		synctest.Wait()
		if err := r.Close(); err != nil {
			r.Error(err)
		}
		if err := <-waiter; !errors.Is(err, store.ErrUnavailable) {
			r.Errorf("Lock that waited when the store closed: %v; want %v", err, store.ErrUnavailable)
		}
		_, _, listed := r.List(r.Context(), store.Query{})
		_, ended := r.Ended(r.Context(), "/", 1, long)
		for what, err := range map[string]error{
			"Load":   r.Load(r.Context(), name(1), &rec),
			"Lock":   r.Lock(r.Context(), name(1), store.LockOptions{Owner: 1}, &rec),
			"Create": r.Create(r.Context(), name(2), &rec, false),
			"Save":   r.Save(r.Context(), name(1), &rec, 5, false),
			"Unlock": r.Unlock(r.Context(), name(1), rec.Lock),
			"Remove": r.Remove(r.Context(), name(1), store.Lock{}, store.Reason{}),
			"Touch":  r.Touch(r.Context(), name(1)),
			"Ack":    r.Ack(r.Context(), "/", []string{"1"}),
			"List":   listed,
			"Ended":  ended,
		} {
			if !errors.Is(err, store.ErrUnavailable) {
				r.Errorf("%s after Close: %v; want %v", what, err, store.ErrUnavailable)
			}
		}
		if err := r.Close(); err != nil {
			r.Errorf("Close, repeated: %v", err)
		}
		r.open()
		if err := r.Load(r.Context(), name(1), &rec); err != nil || !rec.Locked || rec.Lock.Owner != 1 {
			r.Errorf("Load after a restart: %v, %+v; want the lock still", err, rec)
		}
	})
}

// TestLocksAreOfTheLastRun: locks of a graceful stop do not return after a crash of a
// run that wrote nothing.
func TestLocksAreOfTheLastRun(t *testing.T) {
	inRig(t, Options{SegmentSize: 1 << 20}, limits{}, func(r *rig) {
		r.create(1, long, nil)
		var rec store.Record
		if err := r.Lock(r.Context(), name(1), store.LockOptions{Owner: 1}, &rec); err != nil {
			r.Fatal(err)
		}
		r.restart()
		if err := r.Unlock(r.Context(), name(1), rec.Lock); err != nil {
			r.Fatal(err)
		}
		r.crash(vfs.Keep)
		if err := r.Load(r.Context(), name(1), &rec); err != nil || rec.Locked {
			r.Errorf("Load after Unlock and a crash: %v, %+v; want no lock", err, rec)
		}
	})
}

func TestDeadlinesOverRestart(t *testing.T) {
	inRig(t, Options{SegmentSize: 1 << 20}, limits{}, func(r *rig) {
		r.create(1, 10*time.Minute, nil)
		r.create(2, 10*time.Minute, nil)
		r.wait(9 * time.Minute)
		r.want(1, nil)
		r.restart()
		r.wait(time.Minute)
		r.wantGone(2, store.Expired)
		r.wait(8*time.Minute + 59*time.Second)
		r.crash(vfs.Keep) // by which a tenth is added
		r.wait(time.Second / 2)
		r.want(1, nil)
		r.wantGone(2, store.Expired)

		// Nothing ends early by a crash, however often it was used.
		for range 30 {
			r.want(1, nil)
			r.wait(17 * time.Second)
		}
		r.crash(vfs.Keep)
		r.wait(10*time.Minute - 18*time.Second)
		r.want(1, nil)
		r.crash(vfs.Keep)
		r.wait(12 * time.Minute)
		r.wantGone(1, store.Expired)
	})
}

// TestNoneEndsEarlyByCrash: a session was used after the last thing that is written down
// of it, which is in a snapshot, and lives its timeout from there.
func TestNoneEndsEarlyByCrash(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		inRig(t, Options{}, limits{}, func(r *rig) {
			r.create(1, 100*time.Second, nil)
			r.create(2, 100*time.Second, nil)
			if graceful {
				r.restart()
			} else if err := r.snapshot(false); err != nil {
				r.Fatal(err)
			}
			r.wait(5 * time.Second)
			r.want(1, nil)
			r.wait(4 * time.Second)
			r.want(2, nil) // so late that the log is told
			r.wait(time.Second)
			r.crash(vfs.Keep)
			r.wait(94 * time.Second)
			if n := r.Stats().Sessions; n != 2 {
				r.Errorf("graceful %v: of 2 sessions, used 99 and 95 seconds ago, %d are there", graceful, n)
			}
			r.wait(16 * time.Second) // nor does the tenth come twice
			if n := r.Stats().Sessions; n != 0 {
				r.Errorf("graceful %v: %d sessions are there; want none", graceful, n)
			}
		})
	}
}

// TestWallClockJumpsBack: times that lie ahead are no reason to live on for ever.
func TestWallClockJumpsBack(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		inRig(t, Options{SegmentSize: 1 << 20}, limits{}, func(r *rig) {
			r.origin += int64(1000 * time.Hour)
			r.create(1, 10*time.Minute, nil)
			r.create(2, 10*time.Minute, nil)
			r.remove(2)
			if graceful {
				r.restart()
			} else {
				r.crash(vfs.Keep)
			}
			r.wantGone(2, store.Abandoned)
			r.wait(9 * time.Minute)
			r.want(1, nil)
			r.wait(10*time.Minute + time.Second)
			r.wantGone(1, store.Expired)
		})
	}
}

// TestColdSessions has nearly all bodies on disk only.
func TestColdSessions(t *testing.T) {
	for _, sync := range []Sync{Interval, Always, Never} {
		inRig(t, Options{Sync: sync, SegmentSize: 1 << 20, MaxMemory: 1 << 20}, limits{}, func(r *rig) {
			const n = 2000
			for i := range n {
				r.create(i, long, pattern(i, 1000))
			}
			r.wait(2 * time.Second)
			if st := r.Stats(); st.Memory > 1<<20+64<<10 || st.Bodies == 0 {
				r.Errorf("sync %d: sessions take %d bytes, %d of bodies; want 1 MiB", sync, st.Memory, st.Bodies)
			}
			for i := range n {
				r.want(i, pattern(i, 1000))
			}
			r.crash(vfs.Keep)
			for i := range n {
				r.want(i, pattern(i, 1000))
			}
		})
	}
}

// TestIndexTooLarge: what cannot be dropped from memory is bounded too.
// TestManyLargeSessions has more of them than there are blocks that large, though memory
// for all: some are cold, and none is refused or lost.
func TestManyLargeSessions(t *testing.T) {
	inRig(t, Options{SegmentSize: 1 << 20}, limits{chunks: 50}, func(r *rig) {
		const n = 200
		size := func(i int) int { return largeBlock + 100*i }
		for i := range n {
			r.create(i, 100*long, pattern(i, size(i)))
		}
		check := func() {
			r.Helper()
			for i := range n {
				r.want(i, pattern(i, size(i)))
			}
		}
		check()
		for i := range n {
			r.save(i, pattern(i+1, size(i)))
			r.save(i, pattern(i, size(i)))
		}
		r.crash(vfs.Keep)
		check()
		r.Close()
		r.forget()
		r.open()
		check()
		if taken := r.blocks.taken.Load(); taken > 50 {
			r.Errorf("%d chunks are taken; want 50 at most", taken)
		}
		for i := range n {
			r.remove(i)
		}
		r.wantEmpty()
	})
}

func TestIndexTooLarge(t *testing.T) {
	inRig(t, Options{SegmentSize: 1 << 20, MaxMemory: 100 << 10}, limits{}, func(r *rig) {
		var err error
		n := 0
		for ; err == nil && n < 2000; n++ {
			rec := store.Record{Version: 1, Timeout: long, Body: make([]byte, 1000)}
			err = r.Create(r.Context(), name(n), &rec, false)
		}
		if !errors.Is(err, store.ErrFull) || n < 400 {
			r.Errorf("after %d sessions: %v; want %v after some hundreds", n, err, store.ErrFull)
		}
		r.save(0, pattern(0, 2000))
		for i := range 20 {
			r.remove(i)
		}
		r.create(n, long, nil)
	})
}

// damage overwrites what is in the files that looks like that.
func (r *rig) damage(what []byte) {
	r.Helper()
	files, err := r.disk.List()
	if err != nil {
		r.Fatal(err)
	}
	hit := false
	for _, info := range files {
		if !strings.HasSuffix(info.Name, ".seg") {
			continue
		}
		f, err := r.disk.Open(info.Name)
		if err != nil {
			r.Fatal(err)
		}
		b := make([]byte, info.Size)
		if _, err := f.ReadAt(b, 0); err != nil {
			r.Fatal(err)
		}
		for at := bytes.Index(b, what); at >= 0; at = bytes.Index(b, what) {
			b[at] ^= 0xff
			if _, err := f.WriteAt(b[at:at+1], int64(at)); err != nil {
				r.Fatal(err)
			}
			hit = true
		}
		if err := f.Sync(); err != nil {
			r.Fatal(err)
		}
		f.Close()
	}
	if !hit {
		r.Fatalf("%.20q is in no file", what)
	}
}

// TestDamagedSession: a session whose latest content is damaged ends, and stays so.
func TestDamagedSession(t *testing.T) {
	inRig(t, Options{Sync: Always, SegmentSize: 1 << 20}, limits{warm: 1}, func(r *rig) {
		for i := range 3 {
			r.create(i, long, pattern(i+100, 500))
			r.save(i, pattern(i+200, 500))
		}
		for range 20 {
			r.create(10, long, nil) // makes others cold
			r.remove(10)
		}
		r.damage(pattern(200, 500))
		r.wantGone(0, store.Damaged)
		r.want(1, pattern(201, 500))
		r.damage(pattern(201, 500))
		r.crash(vfs.Drop)
		for range 2 {
			r.wantGone(0, store.Damaged)
			r.wantGone(1, store.Damaged)
			r.want(2, pattern(202, 500))
			r.restart()
			r.forget()
			r.crash(vfs.Keep)
		}
	})
}

// TestFailingLog: who writes is told what is known, nothing that was acknowledged is
// lost, and it goes on by itself.
func TestFailingLog(t *testing.T) {
	inRig(t, Options{Sync: Always, SegmentSize: 1 << 20, Ends: 100}, limits{}, func(r *rig) {
		for i := range 5 {
			r.create(i, long, pattern(i, 100))
		}
		if _, err := r.Ended(r.Context(), "/", 0, long); err != nil {
			r.Fatal(err)
		}
		bad := errors.New("bad disk")
		r.disk.Fail(func(op vfs.Op, _ string, _, _ int64) error {
			if op == vfs.OpSync || op == vfs.OpWrite {
				return bad
			}
			return nil
		})
		rec := store.Record{}
		if err := r.Load(r.Context(), name(0), &rec); err != nil {
			r.Fatal(err)
		}
		rec.Body = []byte("unsure")
		if err := r.Save(r.Context(), name(0), &rec, 77, false); !errors.Is(err, store.ErrUnsure) {
			r.Errorf("Save while the disk fails: %v; want %v", err, store.ErrUnsure)
		}
		if err := r.Load(r.Context(), name(0), new(store.Record)); !errors.Is(err, store.ErrUnavailable) {
			r.Errorf("Load of what is not durable: %v; want %v", err, store.ErrUnavailable)
		}
		r.want(1, pattern(1, 100))
		if err := r.Load(r.Context(), name(1), &rec); err != nil {
			r.Fatal(err)
		}
		if err := r.Save(r.Context(), name(1), &rec, 78, false); !errors.Is(err, store.ErrUnavailable) {
			r.Errorf("Save while the log is known to fail: %v; want %v", err, store.ErrUnavailable)
		}
		if err := r.Remove(r.Context(), name(2), store.Lock{}, store.Reason{}); !errors.Is(err, store.ErrUnavailable) {
			r.Errorf("Remove while the log is known to fail: %v; want %v", err, store.ErrUnavailable)
		}
		r.wait(10 * time.Second)
		r.disk.Fail(nil)
		r.wait(10 * time.Second)
		r.want(0, []byte("unsure"))
		r.remove(2)
		r.crash(vfs.Drop)
		r.want(0, []byte("unsure"))
		r.want(1, pattern(1, 100))
		r.wantGone(2, store.Abandoned)
	})
}

// TestEndsWhileLogFails: what ended just before is appended again too.
func TestEndsWhileLogFails(t *testing.T) {
	inRig(t, Options{Sync: Always, SegmentSize: 1 << 20, Ends: 100}, limits{}, func(r *rig) {
		r.create(0, long, pattern(0, 100))
		r.create(1, long, pattern(1, 100))
		failed := false
		r.disk.Fail(func(op vfs.Op, _ string, _, _ int64) error {
			if op == vfs.OpSync && !failed {
				failed = true
				return errors.New("bad disk")
			}
			return nil
		})
		if err := r.Remove(r.Context(), name(0), store.Lock{}, store.Reason{Kind: store.Abandoned}); !errors.Is(err, store.ErrUnsure) {
			r.Errorf("Remove while the disk fails: %v; want %v", err, store.ErrUnsure)
		}
		r.wait(10 * time.Second)
		r.wantGone(0, store.Abandoned)
		r.crash(vfs.Drop)
		r.wantGone(0, store.Abandoned)
		r.want(1, pattern(1, 100))
		ends, err := r.Ended(r.Context(), "/", 10, long)
		if err != nil || len(ends) != 1 || !bytes.Equal(ends[0].Record.Body, pattern(0, 100)) {
			r.Errorf("Ended: %v, %+v; want the end of session 0 with its content", err, ends)
		}
	})
}

func TestManyApplications(t *testing.T) {
	inRig(t, Options{SegmentSize: 1 << 20}, limits{}, func(r *rig) {
		rec := store.Record{Version: 1, Timeout: long}
		if err := r.Create(r.Context(), store.ID{App: strings.Repeat("a", maxAppName+1), Session: "s"}, &rec, false); !errors.Is(err, store.ErrTooLarge) {
			r.Errorf("Create in an application with a name that is too long: %v", err)
		}
		for i := range 300 {
			id := store.ID{App: fmt.Sprint("/", i), Session: "s"}
			rec := store.Record{Version: 1, Timeout: long, Body: []byte(id.App)}
			if err := r.Create(r.Context(), id, &rec, false); err != nil {
				r.Fatal(err)
			}
		}
		r.restart()
		for i := range 300 {
			id := store.ID{App: fmt.Sprint("/", i), Session: "s"}
			if err := r.Load(r.Context(), id, &rec); err != nil || string(rec.Body) != id.App {
				r.Errorf("%v: %v, %q", id, err, rec.Body)
			}
		}
	})
}

func TestOpenOfNoFolder(t *testing.T) {
	if _, err := Open("/dev/null/x", nil); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open where no folder can be: %v", err)
	}
}
