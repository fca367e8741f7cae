package logstore

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/logstore/internal/vfs"
	"github.com/holdfast-session/holdfast/store"
)

// runs is short unless HOLDFAST_LONG is set.
func runs(short, long int) int {
	if os.Getenv("HOLDFAST_LONG") != "" {
		return long
	}
	return short
}

// TestPowerCuts cuts the power of a store at random moments: in the middle of calls,
// of compactions and snapshots, and of the recovery from an earlier cut. What was
// acknowledged before must be there afterwards, as the mode promises.
func TestPowerCuts(t *testing.T) {
	for i := range runs(120, 3000) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newOutage(t, uint64(i)).run() })
		})
		if t.Failed() {
			return // the first seed says more than all of them
		}
	}
}

// TestPowerCutsOfFailingDisk has writes and syncs fail, and the disk full, at times
// as well.
func TestPowerCutsOfFailingDisk(t *testing.T) {
	for i := range runs(80, 2000) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOutage(t, 1<<32+uint64(i))
				o.failing = true
				o.run()
			})
		})
		if t.Failed() {
			return
		}
	}
}

// An outage is one run of a store with several power cuts.
type outage struct {
	t       *testing.T
	rand    *rand.Rand
	options Options
	limits  limits
	careful bool // lets background work end between two calls, so that the seed decides everything
	failing bool
	ids     []store.ID

	folder  *vfs.Mem
	witness *witness
	must    func(state) bool // what must have outlasted the last cut

	mu      sync.Mutex
	cutRand *rand.Rand
	calls   int       // calls of the file system until the cut
	broken  int       // calls of the file system that fail
	trouble time.Time // when the first did
	died    time.Time // when the process before did; zero once there is another that is open
	after   *cut
	cuts    string // those before, for messages
	log     reports
}

// A cut is what is left after the power was gone, and what was promised of it.
type cut struct {
	at      time.Time
	mode    vfs.CutMode
	folder  *vfs.Mem
	witness *witness
	trouble time.Time
	must    func(state) bool // what had outlasted the cut before: what it took is still gone
}

func newOutage(t *testing.T, seed uint64) *outage {
	r := rand.New(rand.NewPCG(seed, 2))
	o := &outage{t: t, rand: r, cutRand: rand.New(rand.NewPCG(seed, 3)), folder: vfs.NewMem(), witness: newWitness()}
	o.options = Options{
		Sync:        []Sync{Always, Always, Always, Interval, Interval, Never}[r.IntN(6)],
		Interval:    time.Duration(1+r.IntN(1000)) * time.Millisecond,
		SegmentSize: []int64{16 << 10, 64 << 10}[r.IntN(2)],
		Logger:      slog.New(&o.log),
	}
	if r.IntN(2) == 0 {
		o.limits.warm = 1 // every body is cold
	}
	if r.IntN(2) == 0 {
		o.limits.snapshotAfter = 8 << 10
	}
	if r.IntN(4) == 0 {
		o.options.Tombstones = -1
		o.witness.forgetful = true
	}
	o.careful = r.IntN(2) == 0
	for i := range 10 {
		app := "plain"
		if i%2 == 0 {
			app = watched
		}
		o.ids = append(o.ids, store.ID{App: app, Session: fmt.Sprintf("%d%c", i, 'a'+i)})
	}
	o.must = acknowledged
	return o
}

// short sessions live for seconds.
func short(id store.ID) bool { return id.Session[0] >= '8' }

func (o *outage) run() {
	for range 4 {
		o.cycle()
	}
	// The last time without a cut: all goes on, and a graceful stop keeps it all.
	s, err := openLike(o.folder, &o.options, o.limits)
	if err != nil {
		o.t.Fatalf("open at the end: %v", err)
	}
	o.check(s)
	o.checked()
	v := o.visitor()
	for range 20 {
		if err := v.visit(o.t.Context(), s, o.ids[o.rand.IntN(len(o.ids))]); err != nil {
			o.t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		o.t.Fatalf("Close: %v", err)
	}
	if s, err = openLike(o.folder, &o.options, o.limits); err != nil {
		o.t.Fatalf("open after Close: %v", err)
	}
	o.check(s)
	if err := s.Close(); err != nil {
		o.t.Fatalf("Close: %v", err)
	}
}

func (o *outage) visitor() *visitor {
	return &visitor{rand: o.rand, witness: o.witness, short: short}
}

// cycle opens the folder, checks what is there, works with it, and leaves what a cut
// somewhere on the way has left.
func (o *outage) cycle() {
	o.after = nil
	switch o.rand.IntN(4) {
	case 0: // in the recovery, most likely
		o.calls = o.rand.IntN(20)
	case 1:
		o.calls = o.rand.IntN(60)
	default:
		o.calls = o.rand.IntN(400)
	}
	o.folder.Fail(o.hook)
	o.work()
	if !o.isCut() {
		o.cut()
	}
	o.folder.Fail(nil)
	synctest.Wait()

	c := o.after
	o.folder, o.witness, o.died = c.folder, c.witness, c.at
	limit := c.limit(&o.options)
	o.witness.crashed(limit)
	o.cuts += fmt.Sprintf(" a cut (%s) at %s,", c.mode, c.at.Format(clock))
	o.must = func(s state) bool {
		if !c.must(s) {
			return false
		}
		switch {
		case s.at.IsZero():
			return false
		case o.options.Sync == Always || s.rec == nil || c.mode == vfs.Keep:
			return true
		}
		return s.at.Before(limit)
	}
}

// limit returns before which moment everything must have been synced, if the mode
// syncs: an interval before the cut, or before the disk failed.
func (c *cut) limit(o *Options) time.Time {
	switch {
	case o.Sync == Never:
		return time.Time{}
	case !c.trouble.IsZero():
		return c.trouble.Add(-o.Interval)
	}
	return c.at.Add(-o.Interval)
}

func (o *outage) work() {
	s, err := openLike(o.folder, &o.options, o.limits)
	if o.isCut() {
		if err == nil {
			_ = s.Close()
		}
		return // as if it had never got that far
	}
	if err != nil {
		o.t.Fatalf("open: %v", err)
	}
	defer func() { _ = s.Close() }()
	o.opened()
	ctx := o.t.Context()
	if !o.witness.watching {
		if _, err := s.Ended(ctx, watched, 1, time.Second); err != nil {
			o.t.Fatalf("Ended: %v", err)
		}
		o.mu.Lock()
		o.witness.watching = true
		o.mu.Unlock()
	}
	o.check(s)
	o.checked()

	v := o.visitor()
	for range 150 {
		if o.isCut() {
			return
		}
		switch n := o.rand.IntN(100); {
		case n < 12:
			time.Sleep(time.Duration(o.rand.IntN(700)) * time.Millisecond)
		case n < 14:
			o.checkEnds(s)
		case n < 15:
			// A graceful stop, in which the power may go as well.
			if err := s.Close(); err != nil && !o.failing && !o.isCut() {
				o.t.Fatalf("Close: %v", err)
			}
			if o.isCut() || o.failing {
				return
			}
			again, err := openLike(o.folder, &o.options, o.limits)
			if o.isCut() {
				if err == nil {
					_ = again.Close()
				}
				return
			}
			if err != nil {
				o.t.Fatalf("open after a graceful stop: %v", err)
			}
			s = again
			o.check(s)
		case n < 17 && o.failing:
			o.fail()
		default:
			id := o.ids[o.rand.IntN(len(o.ids))]
			if err := v.visit(ctx, s, id); err != nil && !o.isCut() && !(o.failing && trouble(err)) {
				o.t.Fatal(err)
			}
		}
		if o.careful {
			synctest.Wait()
		}
	}
}

// check holds the store to the witness: every session, the list, and the ends.
func (o *outage) check(s *Store) {
	o.t.Helper()
	if err := o.witness.check(o.t.Context(), s, o.must); err != nil {
		o.fatal(err)
	}
	if err := o.witness.checkList(o.t.Context(), s); err != nil {
		o.fatal(err)
	}
	o.checkEnds(s)
}

// opened notes that there is a process again that syncs.
func (o *outage) opened() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.died = time.Time{}
}

// checked notes that all that was acknowledged is there.
func (o *outage) checked() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.must = acknowledged
}

// checkEnds takes the ends and acknowledges some of them.
func (o *outage) checkEnds(s *Store) {
	o.t.Helper()
	ctx := o.t.Context()
	time.Sleep(2 * time.Millisecond) // the claims of the last time run out
	keys, err := o.witness.checkEnds(ctx, s, time.Millisecond)
	if err != nil {
		o.fatal(err)
		return
	}
	for _, v := range sortedVersions(keys) {
		if o.rand.IntN(3) > 0 {
			continue
		}
		o.witness.acks(v, perhaps)
		if err := s.Ack(ctx, watched, []string{keys[v]}); err != nil {
			o.fatal(fmt.Errorf("Ack: %w", err))
			return
		}
		o.witness.acks(v, certainly)
	}
}

// fatal ends the test, unless the error came of a disk that was made to fail, or
// after the cut, when nobody was there any more to see it.
func (o *outage) fatal(err error) {
	o.t.Helper()
	if o.isCut() || o.failing && trouble(err) {
		return
	}
	o.t.Fatalf("sync %v, interval %v, %+v, after %s: %v\nlog: %v", o.options.Sync, o.options.Interval, o.limits, o.cuts, err, &o.log)
}

func (o *outage) isCut() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.after != nil
}

// hook counts calls that change something, and cuts before one of them.
func (o *outage) hook(op vfs.Op, _ string, _, n int64) error {
	switch op {
	case vfs.OpRead, vfs.OpSize, vfs.OpList, vfs.OpOpen, vfs.OpLock:
		return nil
	}
	o.mu.Lock()
	o.calls--
	now, fails := o.calls == 0, o.broken > 0
	if fails {
		o.broken--
		if o.trouble.IsZero() {
			o.trouble = time.Now()
		}
	}
	o.mu.Unlock()
	if now {
		o.cut()
	}
	switch {
	case !fails:
		return nil
	case op == vfs.OpWrite && n > 0:
		return &vfs.Partial{N: int(n / 2), Err: errInjected}
	}
	return errInjected
}

var errInjected = errors.New("injected")

// fail makes the disk fail, or full, for a while, or well again.
func (o *outage) fail() {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch o.rand.IntN(3) {
	case 0:
		o.broken = 1 + o.rand.IntN(6)
	case 1:
		o.folder.SetSpace(o.folder.Used() + int64(o.rand.IntN(100_000)))
		if o.trouble.IsZero() {
			o.trouble = time.Now()
		}
	case 2:
		o.broken = 0
		o.folder.SetSpace(-1)
	}
}

// cut takes the power away, as far as what follows is concerned.
func (o *outage) cut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	mode, at := vfs.CutMode(o.cutRand.IntN(4)), time.Now()
	if !o.died.IsZero() {
		at = o.died // nobody has synced anything since
	}
	o.after = &cut{at: at, mode: mode, folder: o.folder.Cut(o.cutRand, mode), witness: o.witness.clone(), trouble: o.trouble, must: o.must}
	o.after.folder.SetSpace(-1)
	o.broken, o.trouble = 0, time.Time{}
}
