package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMemFail(t *testing.T) {
	m := NewMem()
	f := put(t, m, "a", "before")
	type call struct {
		Op     Op
		Name   string
		Off, N int64
	}
	var calls []call
	broken := errors.New("broken")
	m.Fail(func(op Op, name string, off, n int64) error {
		calls = append(calls, call{op, name, off, n})
		return broken
	})
	_, created := m.Create("b")
	_, opened := m.Open("a")
	_, listed := m.List()
	_, locked := m.Lock()
	_, sized := f.Size()
	_, read := f.ReadAt(make([]byte, 4), 2)
	_, wrote := f.WriteAt([]byte("12345"), 1)
	for i, err := range []error{
		created, opened, listed, locked, sized, read, wrote, m.Remove("a"), m.Rename("a", "c"), m.SyncDir(),
		f.Truncate(1), f.Allocate(100), f.Sync(),
	} {
		if !errors.Is(err, broken) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	want := []call{
		{OpCreate, "b", 0, 0}, {OpOpen, "a", 0, 0}, {OpList, "", 0, 0}, {OpLock, "", 0, 0}, {OpSize, "a", 0, 0},
		{OpRead, "a", 2, 4}, {OpWrite, "a", 1, 5}, {OpRemove, "a", 0, 0}, {OpRename, "a", 0, 0}, {OpSyncDir, "", 0, 0},
		{OpTruncate, "a", 1, 0}, {OpAllocate, "a", 0, 100}, {OpSync, "a", 0, 0},
	}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	m.Fail(nil)
	if got := content(t, m, "a"); got != "before" || len(names(t, m)) != 1 {
		t.Errorf("calls that failed did something: %q, %v", got, names(t, m))
	}

	m.Fail(func(Op, string, int64, int64) error { return &Partial{N: 3, Err: broken} })
	if n, err := f.WriteAt([]byte("AFTER."), 0); n != 3 || !errors.Is(err, broken) {
		t.Errorf("WriteAt = %d, %v", n, err)
	}
	m.Fail(nil)
	if got := content(t, m, "a"); got != "AFTore" {
		t.Errorf("a write that failed in the middle left %q", got)
	}
}

func TestMemSpace(t *testing.T) {
	m := NewMem()
	m.SetSpace(1000)
	f := put(t, m, "a", strings.Repeat("a", 300))
	ok(t, f.Allocate(600))
	write(t, f, strings.Repeat("b", 600), 0) // inside what is allocated
	if m.Used() != 600 {
		t.Fatalf("Used = %d, want 600", m.Used())
	}
	if err := f.Allocate(1001); !IsFull(err) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Allocate past the space: %v", err)
	}
	ok(t, f.Truncate(600))

	g := put(t, m, "b", "")
	if n, err := g.WriteAt(make([]byte, 500), 0); n != 400 || !IsFull(err) {
		t.Errorf("WriteAt past the space = %d, %v", n, err)
	}
	write(t, g, "over what is there", 0)
	if n, err := g.WriteAt([]byte("x"), 400); n != 0 || !IsFull(err) {
		t.Errorf("WriteAt without any space = %d, %v", n, err)
	}

	ok(t, m.Remove("b"))
	if m.Used() != 1000 {
		t.Errorf("a removed file that is open: Used = %d", m.Used())
	}
	ok(t, g.Close())
	ok(t, f.Truncate(100))
	if m.Used() != 100 {
		t.Errorf("closed and shortened: Used = %d", m.Used())
	}
	m.SetSpace(-1)
	write(t, f, strings.Repeat("c", 5000), 0)
	if m.Used() != 5000 || IsFull(fs.ErrNotExist) {
		t.Errorf("without a limit: Used = %d", m.Used())
	}
}

func cutRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

func TestCutKeepsWhatWasSynced(t *testing.T) {
	for _, mode := range []CutMode{Drop, Keep, Prefix, Any} {
		for seed := range uint64(50) {
			m := NewMem()
			f := put(t, m, "a", strings.Repeat("1", 2000))
			ok(t, f.Sync())
			ok(t, m.SyncDir())
			g := put(t, m, "b", "unsynced")
			write(t, f, strings.Repeat("2", 3000), 1024)
			ok(t, g.Sync()) // the content, not the name

			after := m.Cut(cutRand(seed), mode)
			got := content(t, after, "a")
			if len(got) < 2000 || !strings.HasPrefix(got, strings.Repeat("1", 1024)) {
				t.Fatalf("%s, seed %d: what was synced is gone: %q", mode, seed, got)
			}
			if n := content(t, after, "b"); n != "unsynced" && (n != "absent" || mode == Keep) {
				t.Fatalf("%s, seed %d: b holds %q", mode, seed, n)
			}
			if mode == Drop && (got != strings.Repeat("1", 2000) || content(t, after, "b") != "absent") {
				t.Fatalf("drop left %q", got)
			}
			if mode == Keep && got != text(t, f) {
				t.Fatalf("keep left %q", got)
			}
			if text(t, f)[1024:] != strings.Repeat("2", 3000) {
				t.Fatal("a cut changed what it was made of")
			}
			if again := m.Cut(cutRand(seed), mode); content(t, again, "a") != got {
				t.Fatalf("%s, seed %d: two results", mode, seed)
			}
		}
	}
}

// All that a cut may leave of two writes, and nothing else, is found: sectors are
// whole, and with Any they are independent of each other.
func TestCutOutcomes(t *testing.T) {
	outcomes := func(mode CutMode) map[string]int {
		found := map[string]int{}
		for seed := range uint64(2000) {
			m := NewMem()
			f := put(t, m, "a", strings.Repeat("0", 3*sectorSize))
			ok(t, f.Sync())
			ok(t, m.SyncDir())
			write(t, f, strings.Repeat("1", 2*sectorSize), 0)
			write(t, f, strings.Repeat("2", 2*sectorSize), sectorSize)
			s := content(t, m.Cut(cutRand(seed), mode), "a")
			key := ""
			for i := range 3 {
				sector := s[i*sectorSize : (i+1)*sectorSize]
				if sector != strings.Repeat(sector[:1], sectorSize) {
					t.Fatalf("%s, seed %d: sector %d is torn", mode, seed, i)
				}
				key += sector[:1]
			}
			found[key]++
		}
		return found
	}
	check := func(mode CutMode, want ...string) {
		t.Helper()
		found := outcomes(mode)
		for _, w := range want {
			if found[w] == 0 {
				t.Errorf("%s never left %s", mode, w)
			}
			delete(found, w)
		}
		if len(found) > 0 {
			t.Errorf("%s left %v", mode, found)
		}
	}
	check(Drop, "000")
	check(Keep, "122")
	check(Prefix, "000", "100", "110", "120", "122")
	var all []string
	for _, middle := range "012" {
		for i := range 4 {
			all = append(all, fmt.Sprintf("%d%c%d", i%2, middle, i/2*2))
		}
	}
	check(Any, all...)
}

// Prefix keeps the order between files and names too.
func TestCutPrefixOrder(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(500) {
		m := NewMem()
		a := put(t, m, "a", "")
		b := put(t, m, "b", "")
		write(t, a, "1", 0)
		write(t, b, "2", 0)
		ok(t, m.Rename("a", "c"))
		ok(t, b.Truncate(0))
		ok(t, m.Remove("b"))
		after := m.Cut(cutRand(seed), Prefix)
		seen[content(t, after, "a")+","+content(t, after, "b")+","+content(t, after, "c")] = true
	}
	want := map[string]bool{
		"absent,absent,absent": true, ",absent,absent": true, ",,absent": true, "1,,absent": true, "1,2,absent": true,
		"absent,2,1": true, "absent,,1": true, "absent,absent,1": true,
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("a, b and c (-want +got):\n%s", diff)
	}
}

func TestCutNames(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(500) {
		m := NewMem()
		for _, name := range []string{"old", "gone"} {
			ok(t, put(t, m, name, name).Sync())
		}
		ok(t, m.SyncDir())
		ok(t, put(t, m, "new", "new").Sync())
		ok(t, m.Rename("new", "old"))
		ok(t, m.Remove("gone"))
		after := m.Cut(cutRand(seed), Any)
		seen[content(t, after, "old")+","+content(t, after, "new")+","+content(t, after, "gone")] = true
	}
	want := map[string]bool{}
	for _, names := range []string{"old,absent", "old,new", "new,absent"} {
		want[names+",gone"], want[names+",absent"] = true, true
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("old, new and gone (-want +got):\n%s", diff)
	}
}

// A Sync that succeeds says nothing about what an earlier one failed to write.
func TestFailedSyncLosesWhatWasWritten(t *testing.T) {
	m := NewMem()
	f := put(t, m, "a", strings.Repeat("0", 2*sectorSize))
	ok(t, f.Sync())
	ok(t, m.SyncDir())
	write(t, f, strings.Repeat("1", 2*sectorSize), 0)
	m.Fail(func(op Op, _ string, _, _ int64) error { return errors.New("broken") })
	if f.Sync() == nil {
		t.Fatal("the hook did not fail Sync")
	}
	m.Fail(nil)
	ok(t, f.Sync())
	if got := text(t, f); got != strings.Repeat("1", 2*sectorSize) {
		t.Errorf("before the cut: %q", got)
	}
	if got := content(t, m.Cut(nil, Drop), "a"); got != strings.Repeat("0", 2*sectorSize) {
		t.Errorf("after it: %q", got)
	}
	write(t, f, "2", sectorSize)
	ok(t, f.Sync())
	want := strings.Repeat("0", sectorSize) + "2" + strings.Repeat("1", sectorSize-1)
	if got := content(t, m.Cut(nil, Drop), "a"); got != want {
		t.Errorf("written again, and after it: %q", got)
	}
}

func TestCutFreesTheLock(t *testing.T) {
	m := NewMem()
	_, err := m.Lock()
	ok(t, err)
	m.SetSpace(10)
	m.Fail(func(Op, string, int64, int64) error { return errors.New("broken") })
	after := m.Cut(nil, Keep)
	_, err = after.Lock()
	ok(t, err)
	f := put(t, after, "a", "")
	if n, err := f.WriteAt(make([]byte, 11), 0); n != 10 || !IsFull(err) {
		t.Errorf("the space of a folder after a cut: %d, %v", n, err)
	}
}

// A process that is killed leaves everything, and what it had not synced can be
// lost afterwards.
func TestKeepMakesNothingDurable(t *testing.T) {
	m := NewMem()
	f := put(t, m, "a", "synced")
	ok(t, f.Sync())
	ok(t, m.SyncDir())
	write(t, f, "unsync", 0)
	put(t, m, "b", "")
	killed := m.Cut(nil, Keep)
	if a, b := content(t, killed, "a"), content(t, killed, "b"); a != "unsync" || b != "" {
		t.Errorf("after the kill, a holds %q and b %q", a, b)
	}
	cut := killed.Cut(nil, Drop)
	if a, b := content(t, cut, "a"), content(t, cut, "b"); a != "synced" || b != "absent" {
		t.Errorf("after the power cut, a holds %q and b %q", a, b)
	}

	g, err := killed.Open("a")
	ok(t, err)
	ok(t, g.Sync())
	if a := content(t, killed.Cut(nil, Drop), "a"); a != "unsync" {
		t.Errorf("synced by the next process, a holds %q", a)
	}
	if a := content(t, m.Cut(nil, Drop), "a"); a != "synced" {
		t.Errorf("the next process changed the folder of the one before: %q", a)
	}
	if m.Used() != killed.Used() {
		t.Errorf("Used = %d after the kill and %d before", killed.Used(), m.Used())
	}
	ok(t, g.Close())
}
