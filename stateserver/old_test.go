package stateserver

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

const (
	emptyItem = "\x14\x00\x00\x00\x00\x00\xff"
	bobItem   = "\x14\x00\x00\x00\x01\x00\x02\x00\x00\x00\xff\xff\xff\xff\x04user\x05count\x05\x00\x00\x00\x0a\x00\x00\x00\x01\x03bob\x02\x07\x00\x00\x00\xff"
)

// lines joins lines as they are on the wire, before a body.
func lines(body string, l ...string) string { return strings.Join(l, "\r\n") + "\r\n\r\n" + body }

// TestTranscripts plays what an ASP.NET application and Microsoft's server say to
// each other, byte for byte.
func TestTranscripts(t *testing.T) {
	const (
		host    = "Host: 10.0.0.100:42424"
		version = "X-AspNet-Version: 4.0.30319"
		private = "Cache-Control: private"
	)
	empty := func(status string) string {
		return lines("", "HTTP/1.1 "+status, version, private, "Content-Length: 0")
	}
	get := func(fields ...string) string {
		return lines("", append([]string{"GET " + target + " HTTP/1.1", host}, fields...)...)
	}
	acquired := func(cookie int, body string, flags ...string) string {
		l := append([]string{"HTTP/1.1 200 OK", version}, flags...)
		return lines(body, append(l, fmt.Sprintf("LockCookie: %d", cookie), "Timeout: 20", private, fmt.Sprintf("Content-Length: %d", len(body)))...)
	}
	steps := []struct {
		name, request, answer string
		after                 time.Duration
	}{
		{name: "T1 acquire on an unknown ID", request: get("Exclusive: acquire"), answer: empty("404 Not Found")},
		{
			name: "T2 insert uninitialized",
			request: lines(emptyItem, "PUT "+target+" HTTP/1.1", host,
				"Content-Length: 7", "Timeout: 20", "LockCookie: 0", "ExtraFlags: 1"),
			answer: empty("200 OK"),
		},
		{name: "T3 first acquire", request: get("Exclusive: acquire"), answer: acquired(2, emptyItem, "ActionFlags: 1")},
		{
			name: "T4 get while locked", after: 3 * time.Second,
			request: get(),
			answer: lines("", "HTTP/1.1 423 Locked", version,
				"LockDate: 637135310450000000", "LockAge: 3", "LockCookie: 2", private, "Content-Length: 0"),
		},
		{
			name: "T5 save and release",
			request: lines(bobItem, "PUT "+target+" HTTP/1.1", host,
				"Content-Length: 44", "Timeout: 20", "LockCookie: 2", "ExtraFlags: 0"),
			answer: empty("200 OK"),
		},
		{
			name: "T6 read-only get", request: get(),
			answer: lines(bobItem, "HTTP/1.1 200 OK", version, "Timeout: 20", private, "Content-Length: 44"),
		},
		{name: "second acquire", request: get("Exclusive: acquire"), answer: acquired(3, bobItem)},
		{name: "T7 release", request: get("Exclusive: release", "LockCookie: 3"), answer: empty("200 OK")},
		{name: "T8 touch", request: lines("", "HEAD "+target+" HTTP/1.1", host), answer: empty("200 OK")},
		{name: "third acquire", request: get("Exclusive: acquire"), answer: acquired(4, bobItem)},
		{name: "T9 abandon", request: lines("", "DELETE "+target+" HTTP/1.1", host, "LockCookie: 4"), answer: empty("200 OK")},
		{name: "after the end", request: lines("", "HEAD "+target+" HTTP/1.1", host), answer: empty("404 Not Found")},
	}
	synctest.Test(t, func(t *testing.T) {
		started, local := time.Now(), time.Date(2020, 1, 2, 3, 4, 5, 0, time.FixedZone("", 7200))
		kept := inproc.New(&inproc.Options{CountCookies: true})
		defer kept.Close()
		s := &Server{Store: kept, Exact: true, now: func() time.Time { return local.Add(time.Since(started)) }}
		net := newPipes()
		serve(t, s, net)
		w := net.connect(t)
		for _, step := range steps {
			<-time.After(step.after)
			w.send(step.request)
			m := methodGet
			if strings.HasPrefix(step.request, "HEAD") {
				m = methodHead
			}
			if got := w.receive(m); got != step.answer {
				t.Errorf("%s:\ngot  %q\nwant %q", step.name, got, step.answer)
			}
		}
	})
}

// An oldClient asks for one session as an ASP.NET application does.
type oldClient struct {
	*wire
	target string
}

func (o oldClient) get(fields ...string) string {
	return o.ask("", append([]string{"GET " + o.target + " HTTP/1.1"}, fields...)...)
}

func (o oldClient) acquire() string { return o.get("Exclusive: acquire") }

func (o oldClient) release(cookie string) string {
	return o.get("Exclusive: release", "LockCookie: "+cookie)
}

func (o oldClient) put(cookie, body string, fields ...string) string {
	l := []string{"PUT " + o.target + " HTTP/1.1", fmt.Sprintf("Content-Length: %d", len(body))}
	if cookie != "" {
		l = append(l, "LockCookie: "+cookie)
	}
	return o.ask(body, append(l, fields...)...)
}

func (o oldClient) delete(fields ...string) string {
	return o.ask("", append([]string{"DELETE " + o.target + " HTTP/1.1"}, fields...)...)
}

func (o oldClient) is(want, answer string) string {
	o.t.Helper()
	if got := status(answer); got != want {
		o.t.Fatalf("%s; want %s", got, want)
	}
	return answer
}

const (
	ok       = "200 OK"
	notFound = "404 Not Found"
	locked   = "423 Locked"
)

// TestWireOldPut is the rule for a PUT of an old client, cell by cell.
func TestWireOldPut(t *testing.T) {
	type state struct {
		name string
		// make puts the session into the state and returns the cookie of the acquire
		// that the test's client made in it, if any.
		make func(o oldClient, s store.Store) string
	}
	create := func(o oldClient, _ store.Store) string {
		o.is(ok, o.put("0", "before"))
		return ""
	}
	acquire := func(o oldClient, s store.Store) string {
		create(o, s)
		return value(o.is(ok, o.acquire()), "LockCookie")
	}
	broken := func(o oldClient, s store.Store) string {
		mine := acquire(o, s)
		o.is(ok, o.release(mine))
		return mine
	}
	states := []state{
		{"absent", func(oldClient, store.Store) string { return "77" }},
		{"removed since", func(o oldClient, s store.Store) string {
			mine := broken(o, s)
			o.is(ok, o.delete())
			return mine
		}},
		{"never locked", func(o oldClient, s store.Store) string { create(o, s); return "77" }},
		{"locked by me", acquire},
		{"locked by another", func(o oldClient, s store.Store) string {
			mine := broken(o, s)
			o.is(ok, o.acquire())
			return mine
		}},
		{"lock broken", broken},
		{"lock broken, another read", func(o oldClient, s store.Store) string {
			mine := broken(o, s)
			o.is(ok, o.release(value(o.is(ok, o.acquire()), "LockCookie")))
			return mine
		}},
		{"lock broken, another saved", func(o oldClient, s store.Store) string {
			mine := broken(o, s)
			o.is(ok, o.put(value(o.is(ok, o.acquire()), "LockCookie"), "theirs"))
			return mine
		}},
		{"lock broken, merged", func(o oldClient, s store.Store) string {
			mine := broken(o, s)
			rec := mustLoad(t, s, targetID)
			rec.Lock, rec.Body = store.Lock{}, []byte("theirs")
			if err := s.Save(t.Context(), targetID, rec, store.NewVersion(), false); err != nil {
				t.Fatal(err)
			}
			return mine
		}},
		{"ended and made anew since", func(o oldClient, s store.Store) string {
			mine := broken(o, s)
			o.is(ok, o.delete())
			o.is(ok, o.put("0", "theirs"))
			return mine
		}},
		{"saved by me already", func(o oldClient, s store.Store) string {
			mine := acquire(o, s)
			o.is(ok, o.put(mine, "before"))
			return mine
		}},
	}
	// By state: with the cookie of my acquire, with another, with 0 or none, and
	// with ExtraFlags 1.
	want := map[string][4]string{
		"absent":                     {notFound, notFound, ok, ok},
		"removed since":              {notFound, notFound, ok, ok},
		"never locked":               {locked, locked, ok, ok},
		"locked by me":               {ok, locked, locked, ok},
		"locked by another":          {locked, locked, locked, ok},
		"lock broken":                {ok, locked, ok, ok},
		"lock broken, another read":  {locked, locked, ok, ok},
		"lock broken, another saved": {locked, locked, ok, ok},
		"lock broken, merged":        {locked, locked, ok, ok},
		"ended and made anew since":  {locked, locked, ok, ok},
		"saved by me already":        {locked, locked, ok, ok},
	}
	for _, st := range states {
		for i, with := range []string{"my cookie", "another cookie", "cookie 0", "no cookie", "ExtraFlags 1"} {
			t.Run(st.name+", "+with, func(t *testing.T) {
				kept := inproc.New(nil)
				defer kept.Close()
				o := oldClient{connect(t, serve(t, &Server{Store: kept})), target}
				mine := st.make(o, kept)
				before := new(store.Record)
				was := kept.Load(t.Context(), targetID, before) == nil
				want, answer := want[st.name][min(i, 2)], ""
				switch with {
				case "my cookie":
					answer = o.put(mine, "after")
				case "another cookie":
					answer = o.put("88", "after")
				case "cookie 0":
					answer = o.put("0", "after")
				case "no cookie":
					answer = o.put("", "after")
				case "ExtraFlags 1":
					want, answer = ok, o.put("0", "after", "ExtraFlags: 1")
				}
				o.is(want, answer)
				after := new(store.Record)
				is := kept.Load(t.Context(), targetID, after) == nil
				written := want == ok && (with != "ExtraFlags 1" || !was)
				switch {
				case written && (!is || string(after.Body) != "after" || after.Version == before.Version || after.Locked):
					t.Errorf("answered %s; the session is %+v", want, after)
				case !written && (is != was || string(after.Body) != string(before.Body) || after.Version != before.Version || after.Locked != before.Locked):
					t.Errorf("answered %s; the session was %+v and is %+v", want, before, after)
				}
				if fresh := written && with == "ExtraFlags 1"; written && (after.Flags == store.Uninitialized) != fresh {
					t.Errorf("Flags are %d", after.Flags)
				}
			})
		}
	}
}

// TestWireOldStaleHolder: one whose lock was broken may save only if nobody was
// there in between, and learns so.
func TestWireOldStaleHolder(t *testing.T) {
	kept := inproc.New(nil)
	defer kept.Close()
	addr := serve(t, &Server{Store: kept})
	slow, quick := oldClient{connect(t, addr), target}, oldClient{connect(t, addr), target}
	slow.is(ok, slow.put("0", "0"))
	stale := value(slow.is(ok, slow.acquire()), "LockCookie")

	answer := quick.is(locked, quick.acquire())
	if value(answer, "LockCookie") != stale || value(answer, "LockAge") != "0" || !strings.HasSuffix(answer, "\r\nContent-Length: 0\r\n\r\n") {
		t.Errorf("%q; want the lock of %s and no body", answer, stale)
	}
	quick.is(ok, quick.release(stale)) // as ASP.NET breaks a lock
	cookie := value(quick.is(ok, quick.acquire()), "LockCookie")
	if cookie == stale {
		t.Error("two acquires have one cookie")
	}
	slow.is(locked, slow.put(stale, "slow"))
	slow.is(locked, slow.release(stale))
	slow.is(locked, slow.delete("LockCookie: "+stale))
	slow.is(locked, slow.delete())
	quick.is(ok, quick.put(cookie, "quick"))
	slow.is(locked, slow.put(stale, "slow"))
	if got := mustLoad(t, kept, targetID); string(got.Body) != "quick" {
		t.Errorf("the session holds %q; want quick", got.Body)
	}
	quick.is(ok, quick.delete())
	slow.is(notFound, slow.put(stale, "slow"))
	slow.is(notFound, slow.release(stale))
	slow.is(notFound, slow.acquire())
}

// TestWireOldAndGoInterleaved lets old clients, merging ones and locking ones count
// in one session, and counts what they were told had been saved.
func TestWireOldAndGoInterleaved(t *testing.T) {
	const each = 40
	kept := inproc.New(nil)
	defer kept.Close()
	addr := serve(t, &Server{Store: kept})
	c := dial(t, addr, nil)
	ctx := testContext(t)
	id := store.ID{App: "/shop", Session: "s"}
	mustCreate(t, c, id, "0")
	plus := func(body string) string {
		n, err := strconv.Atoi(body)
		if err != nil {
			t.Errorf("body %q: %v", body, err)
		}
		return strconv.Itoa(n + 1)
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { // ASP.NET
			o := oldClient{connect(t, addr), targetOf(id)}
			for n := 0; n < each; {
				answer := o.acquire()
				if status(answer) != ok {
					continue
				}
				_, body, _ := strings.Cut(answer, "\r\n\r\n")
				if status(o.put(value(answer, "LockCookie"), plus(body))) == ok {
					n++
				}
			}
		})
		wg.Go(func() { // Exclusive
			var rec store.Record
			for range each {
				if err := c.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner(), Wait: limit}, &rec); err != nil {
					t.Errorf("Lock: %v", err)
					return
				}
				rec.Body = []byte(plus(string(rec.Body)))
				if err := c.Save(ctx, id, &rec, store.NewVersion(), false); err != nil {
					t.Errorf("Save: %v", err)
					return
				}
			}
		})
		wg.Go(func() { // Merge
			var rec store.Record
			for n := 0; n < each; {
				if err := c.Load(ctx, id, &rec); err != nil {
					t.Errorf("Load: %v", err)
					return
				}
				rec.Lock, rec.Body = store.Lock{}, []byte(plus(string(rec.Body)))
				var le *store.LockedError
				switch err := c.Save(ctx, id, &rec, store.NewVersion(), false); {
				case err == nil:
					n++
				case !errors.Is(err, store.ErrConflict) && !errors.As(err, &le):
					t.Errorf("Save: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, want := string(mustLoad(t, c, id).Body), strconv.Itoa(6*each); got != want {
		t.Errorf("counted %s; want %s", got, want)
	}
}

// TestOldReads checks the old client's other requests, where the server is not
// exact.
func TestOldReads(t *testing.T) {
	kept := inproc.New(nil)
	defer kept.Close()
	o := oldClient{connect(t, serve(t, &Server{Store: kept, Version: "2.0.50727"})), target}
	o.is(notFound, o.get())
	o.is(notFound, o.release("1"))
	o.is(notFound, o.delete())
	o.is(ok, o.put("0", emptyItem, "ExtraFlags: 1", "Timeout: 3"))
	if answer := o.is(ok, o.get()); value(answer, "ActionFlags") != "1" || value(answer, "Timeout") != "3" ||
		value(answer, "X-AspNet-Version") != "2.0.50727" || !strings.HasSuffix(answer, emptyItem) {
		t.Errorf("the first GET: %q", answer)
	}
	if answer := o.is(ok, o.acquire()); value(answer, "ActionFlags") != "" || value(answer, "LockCookie") == "" {
		t.Errorf("the first acquire after a GET: %q", answer)
	}
	o.is(locked, o.get())
	o.is(locked, o.release("0"))
	o.is(locked, o.delete("LockCookie: 0"))
	if !mustLoad(t, kept, targetID).Locked {
		t.Error("cookie 0 unlocked the session")
	}
	held := mustLoad(t, kept, targetID).Lock
	o.is(ok, o.delete("LockCookie: "+fmt.Sprint(held.Cookie)))
	o.is(notFound, o.get())

	// An acquire of an uninitialized session, and then the PUT of its cookie.
	o.is(ok, o.put("0", emptyItem, "ExtraFlags: 1"))
	answer := o.is(ok, o.acquire())
	if value(answer, "ActionFlags") != "1" {
		t.Errorf("the first acquire: %q", answer)
	}
	o.is(ok, o.put(value(answer, "LockCookie"), bobItem))
	if rec := mustLoad(t, kept, targetID); rec.Flags != 0 || rec.Locked || string(rec.Body) != bobItem {
		t.Errorf("after the PUT: %+v", rec)
	}

	// Timeouts in seconds survive an old client that does not change them.
	id := store.ID{App: targetID.App, Session: "90s"}
	rec := &store.Record{Version: 1, Timeout: 90 * time.Second}
	if err := kept.Create(t.Context(), id, rec, false); err != nil {
		t.Fatal(err)
	}
	o.target = strings.Replace(target, "lit3py55t21z5v55vlm25s55", "90s", 1)
	answer = o.is(ok, o.acquire())
	if value(answer, "Timeout") != "1" {
		t.Errorf("90 s are %s minutes; want 1", value(answer, "Timeout"))
	}
	o.is(ok, o.put(value(answer, "LockCookie"), "", "Timeout: 2"))
	if got := mustLoad(t, kept, id).Timeout; got != 90*time.Second {
		t.Errorf("the timeout is %v; want 90s", got)
	}
	o.is(ok, o.put("", "", "Timeout: 1"))
	if got := mustLoad(t, kept, id).Timeout; got != time.Minute {
		t.Errorf("the timeout is %v; want 1m", got)
	}
}

// TestOldBadFields: a field that cannot be read is a 400, and the connection's end.
func TestOldBadFields(t *testing.T) {
	addr := serve(t, &Server{Store: inproc.New(nil)})
	for _, tc := range []struct{ request, want string }{
		{"GET /a HTTP/1.1\r\nExclusive: release\r\n\r\n", "Http_LockCookie"},
		{"GET /a HTTP/1.1\r\nExclusive: release\r\nLockCookie: -1\r\n\r\n", "Http_LockCookie"},
		{"PUT /a HTTP/1.1\r\nContent-Length: 0\r\nTimeout: 525601\r\n\r\n", "Http_Timeout"},
		{"PUT /a HTTP/1.1\r\nContent-Length: 0\r\nTimeout: soon\r\n\r\n", "Http_Timeout"},
		{"PUT /a HTTP/1.1\r\nContent-Length: 0\r\nExtraFlags: x\r\n\r\n", "Http_ExtraFlags"},
		{"PUT /a HTTP/1.1\r\nContent-Length: 0\r\nLockCookie: x\r\n\r\n", "Http_LockCookie"},
		{"POST /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n", ""},
		{"GET /%zz HTTP/1.1\r\n\r\n", "target"},
	} {
		w := connect(t, addr)
		w.send(tc.request)
		answer := w.receive(methodGet)
		if status(answer) != "400 Bad Request" || !strings.Contains(answer, tc.want) {
			t.Errorf("%q: %q; want 400 and %s", tc.request, answer, tc.want)
		}
		w.ends()
	}
}

// TestExactPut checks what an exact server does and another would not.
func TestExactPut(t *testing.T) {
	kept := inproc.New(&inproc.Options{CountCookies: true})
	defer kept.Close()
	o := oldClient{connect(t, serve(t, &Server{Store: kept, Exact: true})), target}
	o.is(ok, o.put("9", "a")) // absent: always
	o.is(ok, o.put("9", "b")) // unlocked: always
	if answer := o.is(ok, o.acquire()); value(answer, "LockCookie") != "2" || !strings.HasSuffix(answer, "\r\n\r\nb") {
		t.Errorf("%q; want b and cookie 2", answer)
	}
	o.is(locked, o.put("", "c"))
	o.is(locked, o.put("3", "c"))
	o.is(ok, o.put("2", "c"))
	o.is(ok, o.put("", "d", "ExtraFlags: 1"))
	o.is(ok, o.put("41", "e", "Timeout: 5")) // a changed timeout begins anew, from this cookie
	if answer := o.is(ok, o.acquire()); value(answer, "LockCookie") != "42" || value(answer, "Timeout") != "5" || !strings.HasSuffix(answer, "\r\n\r\ne") {
		t.Errorf("%q; want e, 5 minutes and cookie 42", answer)
	}
	o.is(locked, o.get())
	o.is(locked, o.delete())
	o.is(ok, o.delete("Lock-Cookie: 42"))
	o.is(notFound, o.get("Exclusive: release")) // absent before the missing cookie
	o.is(ok, o.put("", "f", "ExtraFlags: 1"))
	if answer := o.is(ok, o.release("1")); value(answer, "ActionFlags") != "1" {
		t.Errorf("%q; want ActionFlags: 1 of a release", answer)
	}
	o.is("400 Bad Request", o.get("Exclusive: release"))
}

// TestExactSlowReader: one who does not read his answer keeps nobody else from the
// session.
func TestExactSlowReader(t *testing.T) {
	kept := inproc.New(nil)
	defer kept.Close()
	mustCreate(t, kept, targetID, strings.Repeat("x", 2*keepBuffer))
	net := newPipes()
	serve(t, &Server{Store: kept, Exact: true, WriteTimeout: -1}, net)
	slow := net.connect(t)
	slow.send("GET " + target + " HTTP/1.1\r\n\r\n")
	if _, err := slow.Read(make([]byte, 1)); err != nil { // and no more
		t.Fatal(err)
	}
	other := net.connect(t)
	other.SetDeadline(time.Now().Add(limit))
	if got := status(other.ask("", "HEAD "+target+" HTTP/1.1")); got != ok {
		t.Errorf("another gets %s", got)
	}
}
