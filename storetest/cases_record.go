package storetest

import (
	"bytes"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/holdfast-session/holdfast/store"
)

// What is kept of a session: all of its record, exactly, and under exactly its ID.
var recordCases = []testCase{
	{"RecordRoundTrip", []Feature{Versions, History, Metadata}, recordRoundTrip},
	{"SaveReplacesContent", []Feature{Versions, Metadata}, saveReplacesContent},
	{"EveryFieldOverwritten", []Feature{Versions}, everyFieldOverwritten},
	{"CreatedNowIfZero", []Feature{Metadata}, createdNowIfZero},
	{"TimeoutNeverRoundedDown", nil, timeoutNeverRoundedDown},
	{"OpaqueBodies", nil, opaqueBodies},
	{"LargestBody", []Feature{ReadUnderLock}, largestBody},
	{"BodyAppendedToBuffer", nil, bodyAppendedToBuffer},
	{"BuffersNotRetained", []Feature{ReadUnderLock}, buffersNotRetained},
	{"ArgumentsNotChanged", []Feature{Versions}, argumentsNotChanged},
	{"ItemsRoundTrip", []Feature{Versions, ReadUnderLock}, itemsRoundTrip},
	{"OddIDs", nil, oddIDs},
	{"AppsNeverMeet", nil, appsNeverMeet},
	{"UnchangedStaysUnchanged", []Feature{Versions, ReadUnderLock}, unchangedStaysUnchanged},
	{"VersionNeverRepeats", []Feature{Versions}, versionNeverRepeats},
	{"MovingReadsItsOwnContent", []Feature{Versions, Metadata, ReadUnderLock}, movingReadsItsOwnContent},
}

// anyRecord is a record with something in every field that Create takes.
func anyRecord() *store.Record {
	return &store.Record{
		Version: store.NewVersion(),
		History: [3]store.Version{store.NewVersion(), store.NewVersion(), store.NewVersion()},
		Timeout: 365 * 24 * time.Hour,
		Created: time.Date(2021, 3, 4, 5, 6, 7, 891e6, time.UTC),
		Flags:   store.Moving,
		Subject: "Zoë O'Neill <zoe@example.org>; 100%",
		Body:    []byte("content"),
	}
}

func recordRoundTrip(c *trial) {
	s := c.open()
	for _, flags := range []store.Flags{0, store.Uninitialized, store.Moving, store.Uninitialized | store.Moving} {
		id, rec := c.id("s"+strings.Repeat("x", int(flags))), anyRecord()
		rec.Flags = flags
		c.ok(s.Create(c.ctx, id, rec, false), "Create")
		got := c.load(s, id)
		got.Acquired, got.Lock = 0, store.Lock{} // before the first Lock they say nothing
		c.same(got, rec, "between Create and Load")
		if got.Locked || got.LockAge != 0 {
			c.Fatalf("a session that nobody locked has Locked %v and LockAge %v", got.Locked, got.LockAge)
		}
	}

	id, rec := c.id("few"), anyRecord()
	rec.History = [3]store.Version{rec.History[0]}
	rec.Subject = ""
	c.ok(s.Create(c.ctx, id, rec, false), "Create")
	if got := c.load(s, id); got.History != rec.History || got.Subject != "" {
		c.Fatalf("History %v and Subject %q; want %v and none", got.History, got.Subject, rec.History)
	}
}

func saveReplacesContent(c *trial) {
	s, id := c.open(), c.id("s")
	first := anyRecord()
	first.History = [3]store.Version{}
	c.ok(s.Create(c.ctx, id, first, false), "Create")

	second := *first
	second.Timeout, second.Flags, second.Subject, second.Body = long, store.Uninitialized, "another", []byte("new")
	second.Created = first.Created.Add(time.Hour) // not to be believed
	next := store.NewVersion()
	c.ok(s.Save(c.ctx, id, &second, next, false), "Save")

	want := second
	want.Created = first.Created
	want.Version = next
	got := c.load(s, id)
	got.Acquired, got.Lock = 0, store.Lock{}
	if !c.lacks(History) {
		want.History[0] = first.Version
	} else {
		got.History = want.History
	}
	c.same(got, &want, "other than by Save")

	third := *got
	third.Flags, third.Subject, third.Body = 0, "", nil
	c.ok(s.Save(c.ctx, id, &third, store.NewVersion(), false), "Save")
	if got := c.load(s, id); got.Flags != 0 || got.Subject != "" || len(got.Body) != 0 {
		c.Fatalf("after a Save of nothing: Flags %v, Subject %q, Body %s", got.Flags, got.Subject, brief(got.Body))
	}
}

func everyFieldOverwritten(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "")
	want := c.load(s, id)
	dirty := func() *store.Record {
		rec := anyRecord()
		rec.Lock, rec.Locked, rec.LockAge = store.Lock{Cookie: 7, Owner: 7}, true, time.Hour
		rec.Acquired, rec.Items = 7, "junk"
		return rec
	}
	rec := dirty()
	c.ok(s.Load(c.ctx, id, rec), "Load")
	c.same(rec, want, "when loaded into a record that was used before")
	if rec.LockAge != 0 || rec.Items != nil {
		c.Fatalf("Load into a used record left LockAge %v, Items %v", rec.LockAge, rec.Items)
	}

	rec = dirty()
	c.ok(s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, rec), "Lock")
	rec.Acquired, rec.Lock, rec.Locked = want.Acquired, want.Lock, want.Locked
	c.same(rec, want, "when locked into a record that was used before")
	if rec.LockAge >= time.Hour || rec.Items != nil {
		c.Fatalf("Lock into a used record left LockAge %v, Items %v", rec.LockAge, rec.Items)
	}
}

func createdNowIfZero(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "")
	created := c.load(s, id).Created
	if created.IsZero() {
		c.Fatal("Created is zero; want the time of Create")
	}
	if since := time.Since(created); c.Bubble && (since < -grace || since > grace) {
		c.Fatalf("Created is %v ago; want now", since)
	}
	c.advance(short)
	c.save(s, id, merge(c.load(s, id)), "new", false)
	if got := c.load(s, id).Created; !got.Equal(created) {
		c.Fatalf("Created is %v after a Save; want %v still", got, created)
	}
}

func timeoutNeverRoundedDown(c *trial) {
	s := c.open()
	for _, want := range []time.Duration{time.Second, 1500 * time.Millisecond, 59 * time.Second, 61 * time.Second,
		90 * time.Second, long, long + time.Millisecond, 400 * 24 * time.Hour} {
		id := c.id(want.String())
		c.create(s, id, want, "")
		if got := c.load(s, id).Timeout; got < want || got >= want+time.Second {
			c.Errorf("Create with Timeout %v made a session with %v; want it, or the next whole second", want, got)
		}
	}
}

// bodies are contents of every kind: none of them is the store's business.
func bodies(c *trial) map[string][]byte {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	b := map[string][]byte{
		"nil": nil, "empty": {}, "NUL": {0}, "NULs": make([]byte, 300), "all bytes": all, "not UTF-8": {0xff, 0xfe, 0xc0},
		"line ends": []byte("\r\n\r\n0\r\n\r\n"), "spaces": []byte("  trailing  "), "quotes": []byte(`'";--\x00%s$1?`),
	}
	size := 1 << 20
	if c.MaxBody > 0 {
		size = min(size, c.MaxBody)
	}
	b["large"] = bytes.Repeat(all, (size+255)/256)[:size]
	return b
}

func opaqueBodies(c *trial) {
	s := c.open()
	for name, want := range bodies(c) {
		id := c.id(name)
		rec := &store.Record{Version: store.NewVersion(), Timeout: long, Body: want}
		c.ok(s.Create(c.ctx, id, rec, false), "Create with a body of "+name)
		c.body(c.load(s, id), string(want))
		for _, other := range [][]byte{[]byte("short"), want} {
			held := c.lock(s, id)
			c.save(s, id, held, string(other), false)
			c.body(c.load(s, id), string(other))
		}
	}
}

func largestBody(c *trial) {
	if c.MaxBody == 0 {
		c.skip("Harness.MaxBody is 0")
	}
	s, id := c.open(), c.id("s")
	tooLarge := strings.Repeat("x", c.MaxBody+1)
	rec := &store.Record{Version: store.NewVersion(), Timeout: long, Body: []byte(tooLarge)}
	c.is(s.Create(c.ctx, id, rec, false), store.ErrTooLarge, "Create with a body that is too large")
	c.absent(s, id, store.Unknown)

	c.create(s, id, long, tooLarge[:c.MaxBody])
	held := c.lock(s, id)
	before := c.load(s, id)
	c.is(c.trySave(s, id, held, tooLarge, false), store.ErrTooLarge, "Save with a body that is too large")
	c.same(c.load(s, id), before, "by a Save that was refused")
	c.save(s, id, held, "small", false)
	c.body(c.load(s, id), "small")
}

func bodyAppendedToBuffer(c *trial) {
	s, id := c.open(), c.id("s")
	c.create(s, id, long, "content")
	check := func(method string, read func(rec *store.Record) error) {
		c.Helper()
		buf := bytes.Repeat([]byte{'-'}, 100)
		rec := &store.Record{Body: buf[:50]}
		c.ok(read(rec), method)
		c.body(rec, "content")
		if &rec.Body[0] != &buf[0] {
			c.Errorf("%s: the body is elsewhere; want it appended to rec.Body[:0], which had room", method)
		}
		rec = &store.Record{Body: []byte{'-', '-'}}
		c.ok(read(rec), method)
		c.body(rec, "content")
	}
	check("Load", func(rec *store.Record) error { return s.Load(c.ctx, id, rec) })
	check("Lock", func(rec *store.Record) error {
		if err := s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, rec); err != nil {
			return err
		}
		return s.Unlock(c.ctx, id, rec.Lock)
	})
}

// A volatileID is an ID in a buffer that the caller uses again after each call.
type volatileID struct{ app, session []byte }

func volatile(id store.ID) volatileID { return volatileID{[]byte(id.App), []byte(id.Session)} }

func (v volatileID) id() store.ID {
	return store.ID{App: unsafe.String(&v.app[0], len(v.app)), Session: unsafe.String(&v.session[0], len(v.session))}
}

func (v volatileID) overwrite() {
	for i := range v.app {
		v.app[i] = '#'
	}
	for i := range v.session {
		v.session[i] = '#'
	}
}

func buffersNotRetained(c *trial) {
	s, id := c.open(), c.id("session")
	call := func(method string, f func(id store.ID) error) {
		c.Helper()
		v := volatile(id)
		c.ok(f(v.id()), method)
		v.overwrite()
	}
	scribble := func(rec *store.Record) {
		for i := range rec.Body {
			rec.Body[i] = '#'
		}
	}

	rec := &store.Record{Version: store.NewVersion(), Timeout: long, Body: []byte("first")}
	call("Create", func(id store.ID) error { return s.Create(c.ctx, id, rec, false) })
	scribble(rec)
	c.body(c.load(s, id), "first")

	held := new(store.Record)
	call("Lock", func(id store.ID) error {
		return s.Lock(c.ctx, id, store.LockOptions{Owner: store.NewOwner()}, held)
	})
	scribble(held)
	loaded := new(store.Record)
	call("Load", func(id store.ID) error { return s.Load(c.ctx, id, loaded) })
	scribble(loaded)
	c.body(c.load(s, id), "first")

	held.Body = []byte("second")
	call("Save", func(id store.ID) error { return s.Save(c.ctx, id, held, store.NewVersion(), false) })
	scribble(held)
	c.body(c.load(s, id), "second")

	// Whoever waits has passed an ID too.
	held = c.lock(s, id)
	v := volatile(id)
	waiter := c.queue(s, v.id(), store.LockOptions{Wait: patience})
	c.unlock(s, id, held.Lock)
	c.ok(waiter.soon("the lock was given up"), "Lock")
	v.overwrite()
	c.body(&waiter.rec, "second")
	call("Unlock", func(id store.ID) error { return s.Unlock(c.ctx, id, waiter.rec.Lock) })
	call("Touch", func(id store.ID) error { return s.Touch(c.ctx, id) })
	c.body(c.load(s, id), "second")
	call("Remove", func(id store.ID) error {
		return s.Remove(c.ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned})
	})
	c.absent(s, id, store.Abandoned)
}

func argumentsNotChanged(c *trial) {
	s, id := c.open(), c.id("s")
	rec := anyRecord()
	before := clone(rec)
	c.ok(s.Create(c.ctx, id, rec, false), "Create")
	rec.Created = before.Created
	c.same(rec, before, "in the hands of Create's caller")

	for _, hold := range []bool{true, false} {
		if hold && c.lacks(Hold) {
			continue
		}
		held := c.lock(s, id)
		held.Body = []byte("new")
		before = clone(held)
		c.ok(s.Save(c.ctx, id, held, store.NewVersion(), hold), "Save")
		c.same(held, before, "in the hands of Save's caller")
		if hold {
			c.unlock(s, id, held.Lock)
		}
	}
	before = clone(rec)
	if err := s.Save(c.ctx, id, rec, store.NewVersion(), false); err == nil {
		c.Fatal("Save of what is out of date: success")
	}
	c.same(rec, before, "in the hands of the caller of a Save that was refused")
}

func itemsRoundTrip(c *trial) {
	s, id := c.open(), c.id("s")
	if k, ok := s.(store.ItemKeeper); !ok || !k.KeepsItems() {
		c.skip("the store keeps no items")
	}
	type items struct{ n int }
	one, two := &items{1}, &items{2}
	rec := &store.Record{Version: store.NewVersion(), Timeout: long, Items: one}
	c.ok(s.Create(c.ctx, id, rec, false), "Create")
	held := c.lock(s, id)
	if held.Items != any(one) || len(held.Body) != 0 {
		c.Fatalf("Lock: Items %v, Body %s; want the items of Create, %v", held.Items, brief(held.Body), one)
	}
	held.Items = two
	if got := c.load(s, id); got.Items != any(one) {
		c.Fatalf("Load before the Save: Items %v; want those of Create", got.Items)
	}
	c.ok(s.Save(c.ctx, id, held, store.NewVersion(), false), "Save")
	if got := c.load(s, id); got.Items != any(two) {
		c.Fatalf("Load: Items %v; want those of Save, %v", got.Items, two)
	}
	if *one != (items{1}) || *two != (items{2}) {
		c.Fatalf("the items changed: %v, %v", *one, *two)
	}
}

// sessionIDs are session IDs as applications and their generators make them, some
// of which differ in little.
var sessionIDs = []string{
	"abcdefghijklmnopqrst0123", "ABCDEFGHIJKLMNOPQRST0123", "a", "a ", " a", "a b", "A", "b",
	"(S(abc))", "(X(1)S(abc))", "100%", "%41", "%2f", "a/b", "a//b", "/", "a\\b", "a+b", "a&b=c", "a?b#c", "'; --", `"q"`, "*", "a*",
	"{tag}", "a:b", "a,b", "_", "a_b", "a\tb", "..", "é", "e\u0301", "日本語", "😀", "ß", "ss",
	strings.Repeat("i", 80), strings.Repeat("i", 79) + "j",
}

func oddIDs(c *trial) {
	s := c.open()
	for _, session := range sessionIDs {
		rec := &store.Record{Version: store.NewVersion(), Timeout: long, Body: []byte(session)}
		if err := s.Create(c.ctx, c.id(session), rec, false); err != nil {
			c.Fatalf("Create of %q: %v", session, err)
		}
	}
	for _, session := range sessionIDs {
		if got := c.load(s, c.id(session)); string(got.Body) != session {
			c.Errorf("the session %q has the content of %s", session, brief(got.Body))
		}
	}
	for i, session := range sessionIDs {
		held := c.lock(s, c.id(session))
		c.unlock(s, c.id(session), held.Lock)
		c.ok(s.Touch(c.ctx, c.id(session)), "Touch")
		c.remove(s, c.id(session), store.Abandoned)
		c.absent(s, c.id(session), store.Abandoned)
		for _, other := range sessionIDs[i+1:] {
			if err := s.Touch(c.ctx, c.id(other)); err != nil {
				c.Fatalf("after Remove of %q, Touch of %q: %v", session, other, err)
			}
		}
	}
}

func appsNeverMeet(c *trial) {
	s := c.open()
	ids := []store.ID{
		{App: c.app, Session: "s"}, {App: c.app + "2", Session: "s"}, {App: c.app + "s", Session: "s"}, {App: c.app, Session: "ss"},
		{App: c.app + "/a", Session: "b"}, {App: c.app, Session: "a/b"}, {App: c.app + "/", Session: "ab"}, {App: c.app + "/a/b", Session: "c"},
		{App: c.app + "/a", Session: "b/c"}, {App: c.app + ":a", Session: "b"}, {App: c.app, Session: ":a:b"},
		{App: c.app + "(ab12)", Session: "s"}, {App: c.app + "%28ab12%29", Session: "s"}, {App: c.app + " ", Session: "s"},
		{App: c.app + "A", Session: "s"}, {App: c.app + "a", Session: "s"}, {App: c.app + "日本", Session: "s"},
	}
	for i, id := range ids {
		for _, other := range ids[i:] {
			c.absent(s, other, store.Unknown)
		}
		c.create(s, id, long, id.App+"\n"+id.Session)
	}
	locks := make([]store.Lock, len(ids))
	for i, id := range ids {
		held := c.lock(s, id)
		c.body(held, id.App+"\n"+id.Session)
		locks[i] = held.Lock
	}
	for i, id := range ids {
		c.unlock(s, id, locks[i])
		c.remove(s, id, store.Abandoned)
		for _, other := range ids[i+1:] {
			if err := s.Touch(c.ctx, other); err != nil {
				c.Fatalf("after Remove of %q, Touch of %q: %v", id, other, err)
			}
		}
	}
}

func unchangedStaysUnchanged(c *trial) {
	s, id := c.open(), c.id("s")
	rec := anyRecord()
	c.ok(s.Create(c.ctx, id, rec, false), "Create")
	c.unlock(s, id, c.lock(s, id).Lock)
	before := c.load(s, id)
	if c.lacks(History) {
		before.History = [3]store.Version{}
	}
	check := func(after string) {
		c.Helper()
		got := c.load(s, id)
		if c.lacks(History) {
			got.History = before.History
		}
		got.Lock, got.Locked = before.Lock, before.Locked // a lock is no change of the session
		c.same(got, before, "by "+after)
	}
	check("Load")
	c.ok(s.Touch(c.ctx, id), "Touch")
	check("Touch")
	held := c.lock(s, id)
	got := clone(held)
	got.Lock, got.Locked = before.Lock, before.Locked
	if c.lacks(History) {
		got.History = before.History
	}
	c.same(got, before, "by Lock, as it returns it")
	check("Lock")
	c.unlock(s, id, held.Lock)
	check("Unlock")
	if err := s.Create(c.ctx, id, anyRecord(), false); err == nil {
		c.Fatal("Create of a session that is there: success")
	}
	check("a Create that was refused")
	if err := c.trySave(s, id, &store.Record{Version: store.NewVersion(), Timeout: long}, "x", false); err == nil {
		c.Fatal("Save with a version that the session never had: success")
	}
	check("a Save that was refused")
}

func versionNeverRepeats(c *trial) {
	s, id := c.open(), c.id("s")
	var seen []store.Version
	note := func(v store.Version) {
		if slices.Contains(seen, v) {
			c.Fatalf("the version %d came twice", v)
		}
		seen = append(seen, v)
	}
	var stale *store.Record
	for life := range 3 {
		now := c.create(s, id, long, "created")
		for range 5 {
			got := c.load(s, id)
			if got.Version != now.Version {
				c.Fatalf("the version is %d; want %d, which the writer drew", got.Version, now.Version)
			}
			note(got.Version)
			if stale == nil {
				stale = merge(got)
			}
			now = c.save(s, id, merge(got), "saved", false)
		}
		note(now.Version)
		before := c.load(s, id)
		c.is(c.trySave(s, id, stale, "lost update", false), store.ErrConflict, "Save with a version from before")
		c.same(c.load(s, id), before, "by a Save that was refused")
		if life < 2 {
			c.remove(s, id, store.Abandoned)
		}
	}
}

// movingReadsItsOwnContent has a session come back, as package migrate brings it: for a
// moment it has the version that it left with, and a newer content. A node that still has
// what it was must not take that for its content.
func movingReadsItsOwnContent(c *trial) {
	s, id := c.open(), c.id("s")
	nodes := []store.Store{s}
	if c.Second != nil {
		nodes = append(nodes, c.Second(c.TB, s))
	}
	was, is := strings.Repeat("old ", 1000), strings.Repeat("new ", 1000)
	old := c.create(s, id, long, was)
	for _, node := range nodes {
		c.body(c.load(node, id), was)
	}
	c.remove(s, id, store.Moved)
	rec := &store.Record{Version: store.NewVersion(), Timeout: long, Flags: store.Moving | store.Uninitialized}
	c.ok(s.Create(c.ctx, id, rec, false), "Create in the old place")
	rec.Flags, rec.Body = store.Moving, []byte(is)
	c.ok(s.Save(c.ctx, id, rec, old.Version, false), "Save as the version that the session left with")
	for _, node := range nodes {
		c.body(c.load(node, id), is)
		held := c.lock(node, id)
		c.body(held, is)
		c.unlock(node, id, held.Lock)
	}
}
