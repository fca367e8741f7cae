package storetest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A twisted store is a memory that is right, seen through something that is not.
type twisted struct {
	*memory
	id  func(context.Context, store.ID) store.ID
	in  func(*store.Record) // what Create and Save are given
	out func(*store.Record) // what Load and Lock return
	err func(error) error   // what any call returns
	was *sync.Map           // the sessions as this node last saw them; nil if it has no cache
}

func (t *twisted) to(ctx context.Context, id store.ID) store.ID {
	if t.id == nil {
		return id
	}
	return t.id(ctx, id)
}

func (t *twisted) given(rec *store.Record) *store.Record {
	sent := *rec
	if t.in != nil {
		t.in(&sent)
	}
	return &sent
}

func (t *twisted) answer(err error, rec *store.Record) error {
	if err == nil && rec != nil && t.out != nil {
		t.out(rec)
	}
	if t.err != nil {
		return t.err(err)
	}
	return err
}

func (t *twisted) Load(ctx context.Context, id store.ID, rec *store.Record) error {
	if t.was != nil {
		if seen, ok := t.was.Load(id); ok {
			*rec = *clone(seen.(*store.Record))
			return nil
		}
	}
	err := t.memory.Load(ctx, t.to(ctx, id), rec)
	if t.was != nil && err == nil {
		t.was.Store(id, clone(rec))
	}
	return t.answer(err, rec)
}

func (t *twisted) Lock(ctx context.Context, id store.ID, o store.LockOptions, rec *store.Record) error {
	return t.answer(t.memory.Lock(ctx, t.to(ctx, id), o, rec), rec)
}

func (t *twisted) Create(ctx context.Context, id store.ID, rec *store.Record, hold bool) error {
	sent := t.given(rec)
	err := t.answer(t.memory.Create(ctx, t.to(ctx, id), sent, hold), nil)
	rec.Lock = sent.Lock
	return err
}

func (t *twisted) Save(ctx context.Context, id store.ID, rec *store.Record, next store.Version, hold bool) error {
	return t.answer(t.memory.Save(ctx, t.to(ctx, id), t.given(rec), next, hold), nil)
}

func (t *twisted) Unlock(ctx context.Context, id store.ID, lock store.Lock) error {
	return t.answer(t.memory.Unlock(ctx, t.to(ctx, id), lock), nil)
}

func (t *twisted) Remove(ctx context.Context, id store.ID, lock store.Lock, why store.Reason) error {
	return t.answer(t.memory.Remove(ctx, t.to(ctx, id), lock, why), nil)
}

func (t *twisted) Touch(ctx context.Context, id store.ID) error {
	return t.answer(t.memory.Touch(ctx, t.to(ctx, id)), nil)
}

// twists are bugs that need no place inside of memory.
var twists = map[string]twisted{
	"sessions of all applications": {id: func(_ context.Context, id store.ID) store.ID { return store.ID{Session: id.Session} }},
	"application and session joined": {id: func(_ context.Context, id store.ID) store.ID {
		return store.ID{Session: id.App + "/" + id.Session}
	}},
	"IDs folded": {id: func(_ context.Context, id store.ID) store.ID {
		return store.ID{App: id.App, Session: strings.TrimSpace(strings.ToLower(id.Session))}
	}},
	"no metadata": {
		in:  func(rec *store.Record) { rec.Flags, rec.Subject = 0, "" },
		out: func(rec *store.Record) { rec.Created = time.Time{} },
	},
	"no Acquired": {out: func(rec *store.Record) { rec.Acquired = 0 }},
	"nothing is found for who left": {id: func(ctx context.Context, id store.ID) store.ID {
		if ctx.Err() != nil {
			id.Session += "?"
		}
		return id
	}},
	"bodies are text":      {in: func(rec *store.Record) { rec.Body, _, _ = bytes.Cut(rec.Body, []byte{0}) }},
	"timeouts in minutes":  {in: func(rec *store.Record) { rec.Timeout = max(time.Minute, rec.Timeout.Truncate(time.Minute)) }},
	"no flags":             {in: func(rec *store.Record) { rec.Flags = 0 }},
	"no subject":           {in: func(rec *store.Record) { rec.Subject = "" }},
	"no items":             {in: func(rec *store.Record) { rec.Items = nil }},
	"Acquired not kept":    {out: func(rec *store.Record) { rec.Acquired = rec.Version }},
	"no lock after Unlock": {out: func(rec *store.Record) { rec.Lock.Owner = 1 }},
	"a body of its own":    {out: func(rec *store.Record) { rec.Body = bytes.Clone(rec.Body) }},
	"LockAge of any kind":  {out: func(rec *store.Record) { rec.LockAge = time.Hour }},
	"no reasons":           {err: func(err error) error { return notFound(err, func(r *store.Reason) { *r = store.Reason{} }) }},
	"reasons without a to": {err: func(err error) error { return notFound(err, func(r *store.Reason) { r.To = "" }) }},
	"reasons without age":  {err: func(err error) error { return notFound(err, func(r *store.Reason) { r.Age = 0 }) }},
	"reasons of great age": {err: func(err error) error { return notFound(err, func(r *store.Reason) { r.Age += time.Hour }) }},
	"LockedError names none": {err: func(err error) error {
		if locked := new(store.LockedError); errors.As(err, &locked) {
			return &store.LockedError{}
		}
		return err
	}},
	"a cache at each node": {was: new(sync.Map)},
	"contents by version":  {out: byVersion(new(sync.Map))},
}

// byVersion has the content that a version was first seen with.
func byVersion(seen *sync.Map) func(*store.Record) {
	return func(rec *store.Record) {
		body, _ := seen.LoadOrStore(rec.Version, bytes.Clone(rec.Body))
		rec.Body = append(rec.Body[:0], body.([]byte)...)
	}
}

func notFound(err error, change func(*store.Reason)) error {
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	reason := store.ReasonOf(err)
	change(&reason)
	return &store.NotFoundError{Reason: reason}
}

// harnessOf returns the harness of the stores that have one bug.
func harnessOf(bug string) Harness {
	twist, ok := twists[bug]
	if !ok {
		return reference(bug, nil)
	}
	return reference("", func(s store.Store) store.Store {
		t := twist
		t.memory = s.(*memory)
		if t.was != nil {
			t.was = new(sync.Map)
		}
		return &t
	})
}

// bugs are the stores that are not right, and cases that have to find it.
var bugs = map[string][]string{
	// What becomes of a record.
	"sessions of all applications":   {"AppsNeverMeet"},
	"application and session joined": {"AppsNeverMeet"},
	"IDs folded":                     {"OddIDs"},
	"IDs retained":                   {"BuffersNotRetained"},
	"bodies retained":                {"BuffersNotRetained"},
	"bodies are text":                {"OpaqueBodies"},
	"a body of its own":              {"BodyAppendedToBuffer"},
	"bodies of any size":             {"LargestBody"},
	"timeouts in minutes":            {"TimeoutNeverRoundedDown"},
	"no flags":                       {"RecordRoundTrip", "SaveReplacesContent"},
	"no subject":                     {"RecordRoundTrip"},
	"contents by version":            {"MovingReadsItsOwnContent"},
	"no items":                       {"ItemsRoundTrip"},
	"no time of creation":            {"CreatedNowIfZero"},
	"LockAge of any kind":            {"EveryFieldOverwritten", "LockReadsRecord"},
	"Save changes its argument":      {"ArgumentsNotChanged"},
	"Save keeps all but the body":    {"SaveReplacesContent", "TimeoutSetBySave"},
	"Lock draws a version":           {"UnchangedStaysUnchanged", "LockReadsRecord"},
	"Touch draws a version":          {"TouchKeepsVersion", "UnchangedStaysUnchanged"},
	"counted versions":               {"VersionNeverRepeats", "RecreateFencesOldIncarnation"},
	"Save draws the version":         {"VersionNeverRepeats", "SaveReplyLost"},

	// Create and Save.
	"Create overwrites":                 {"CreateMeetsAnother", "OneCreateWins", "CreateRetrySameToken"},
	"Create recognises nothing":         {"CreateRetrySameToken"},
	"Create over a tombstone refused":   {"CreateOverTombstone"},
	"Create, repeated, has no cookie":   {"CreateHeldReplyLost"},
	"no history":                        {"SaveRetrySameToken", "HistoryOfFour", "CreateRecognisedByHistory", "MergeReplyLost", "ExclusiveReplyLost", "MoveCrashPoints", "Linearizable"},
	"hold ignored":                      {"CreateHeld", "SaveKeepsLock"},
	"hold takes nothing again":          {"SaveTakesLockAgain"},
	"hold without a lock locks":         {"HoldWithoutLockIgnored"},
	"Save recognises nothing":           {"SaveReplyLost", "SaveRetryBeatsLock", "SaveRetryHeld", "ExclusiveReplyLost", "Linearizable/RepliesLost"},
	"a Save that is repeated releases":  {"SaveRetryHeld"},
	"locks before repeats":              {"SaveRetryBeatsLock"},
	"Save compares no version":          {"SaveConflict", "MergeLosesNothing", "MergeLosesNothing/Faults"},
	"Save with a lock compares nothing": {"StaleHolderRefusedAfterWrite", "RecreateFencesOldIncarnation", "SaveOfAnotherLock"},
	"a lock that is gone is lost":       {"StaleHolderMaySaveIfUnchanged", "RestartDropsOrKeepsLocks/Crash"},
	"a lock needs owner and cookie":     {"SaveByOwnerOrCookie"},
	"Save looks at no lock":             {"SaveUnderLockRefused", "MergeWaitsForLock", "SaveOfAnotherLock", "MergeAndExclusiveLoseNothing"},
	"Save never releases":               {"SaveReleases", "WaitIsServed", "MergeContentionBounded"},
	"upserting Save":                    {"SaveNeverCreates", "RemoveBeatsLock", "RegenerateThenLogoutKillsBoth"},
	"Save inserts over a tombstone":     {"SaveNeverCreates", "RegenerateCrashPoints"},
	"torn reads":                        {"ParallelReadersRaceFree"},
	"one body for all":                  {"ParallelSessions"},

	// Lock and Unlock.
	"no owner":                       {"LockRetrySameOwner", "LockReplyLost"},
	"locks shared":                   {"LockHeldByAnother", "OneLockWins", "ExclusiveLosesNothing", "ExclusiveLosesNothing/Faults", "Linearizable"},
	"Load waits for locks":           {"LoadUnderLock"},
	"LockedError names none":         {"LockHeldByAnother"},
	"no lock after Unlock":           {"SaveReleases", "LoadUnderLock"},
	"Acquired not kept":              {"AcquiredIsVersionAtLock"},
	"counted cookies":                {"CookiesAreRandom"},
	"a renewal keeps the age":        {"LockRenewed"},
	"locks never stale":              {"LockTakenOver"},
	"a takeover keeps the cookie":    {"LockTakenOver", "Linearizable/Takeover"},
	"a takeover keeps the age":       {"TakeoverIsAtomic"},
	"Lock creates":                   {"LockOfAbsent"},
	"nothing is found for who left":  {"ContextEnded"},
	"who left is still in the queue": {"LockCancelledLeavesNothing"},
	"a grant to who has left stays":  {"GrantUndeliverableIsReleased"},
	"Unlock cannot be repeated":      {"Unlock"},
	"Unlock looks at no lock":        {"UnlockOfAnother"},
	"nobody wakes who waits":         {"WaitIsServed", "TwoNodesQueue"},
	"nobody may wait":                {"WaitEnds"},
	"last come, first served":        {"WaitInOrder", "TwoNodesInOrder"},
	"who waits polls":                {"NobodyStarves", "TwoNodesNobodyStarves"},
	"stale locks seen at first only": {"WaitTakesOver"},
	"who waits does not see expiry":  {"WaitOfExpired"},
	"Remove leaves waiters":          {"WaitOfRemoved", "WaitOfRecreated"},

	// The ends of sessions.
	"Remove waits for nobody":           {"RemoveBeatsLock"},
	"Remove looks at no lock":           {"RemoveWithLock"},
	"Remove, repeated, changes the why": {"RemoveRetry"},
	"Remove, repeated, succeeds":        {"RemoveReplyLost"},
	"no reasons":                        {"TombstoneTellsReason"},
	"reasons without a to":              {"TombstoneTellsReason"},
	"reasons without age":               {"TombstoneTellsAge"},
	"reasons of great age":              {"TombstoneTellsAge"},
	"tombstones kept a second":          {"TombstoneIsKept"},
	"a full store saves nothing":        {"FullStoreGoesOn"},
	"a timeout that does not slide":     {"TimeoutSlides"},
	"Touch revives":                     {"TouchAfterEnd"},
	"Touch in the same second is lost":  {"TouchSameSecond"},
	"a session expires under its lock":  {"ExpiryVersusHolder"},
	"a lock that lets nothing expire":   {"ExpiryUnderLock"},
	"what expired lives on":             {"ExpiryClaimVersusTouch"},
	"locks lost in a restart":           {"RestartDropsOrKeepsLocks/Graceful"},
	"reply before durable":              {"ReplyIsDurable"},
	"Remove lost in a restart":          {"EndedStaysEndedOverRestart"},
	"a cache at each node":              {"TwoNodesReadYourWrites", "Linearizable/TwoNodes"},
	"an end without lease":              {"EndsAtLeastOnce"},
	"an end without claim":              {"EndsAtLeastOnce", "EndsOnceWithoutCrash", "EndsOnceWithoutCrash/TwoNodes"},
	"ends lost in a crash":              {"EndsAtLeastOnce/Crash"},
	"an end without content":            {"EndCarriesItems"},
	"ends of what moved":                {"EndsOfEveryReason"},
	"nobody looks for what expired":     {"EndsOfUntouched"},
	"ends of all applications":          {"EndsOfOneApp"},
	"Ended without limit":               {"EndsLimited"},
	"an end's key is the session's":     {"EndsOfTwoLives"},
	"ends without bound":                {"EndsBounded"},
	"List ends with the first page":     {"ListPages"},
	"List looks at no subject":          {"ListBySubject"},
	"List needs an application":         {"ListOfAllApps"},
	"List shows what expired":           {"ListWithoutEnded"},
	"List restarts timeouts":            {"ListRestartsNothing"},
	"List pages by number":              {"ListWhileSessionsComeAndGo"},
}

// TestBrokenStoresAreCaught has every bug found by the cases that are there for it.
func TestBrokenStoresAreCaught(t *testing.T) {
	for bug, names := range bugs {
		for _, name := range names {
			t.Run(bug+"/"+name, func(t *testing.T) {
				if len(failures(t, harnessOf(bug), name)) == 0 {
					t.Errorf("%s passes, of a store with the bug: %s", name, bug)
				}
			})
		}
	}
	t.Run("evicting", func(t *testing.T) {
		if len(failures(t, evicting("upserting Save"), "SaveNeverCreates/Evicted")) == 0 {
			t.Error("SaveNeverCreates/Evicted passes, of a store whose Save inserts")
		}
	})
	t.Run("forgetful", func(t *testing.T) {
		if len(failures(t, forgetful("a restart that is not told"), "RestartIsTold")) == 0 {
			t.Error("RestartIsTold passes, of a store that does not tell of its restart")
		}
	})
}

// TestEveryCaseCanFail has a bug for every case.
func TestEveryCaseCanFail(t *testing.T) {
	caught := map[string]bool{"SaveNeverCreates/Evicted": true, "RestartIsTold": true}
	for _, names := range bugs {
		for _, name := range names {
			caught[name] = true
		}
	}
	for _, tc := range cases() {
		if !caught[tc.name] {
			t.Errorf("no broken store is there for %s to find", tc.name)
		}
	}
}
