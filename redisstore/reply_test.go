package redisstore

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-session/holdfast/store"
)

// header is what a session is stored as.
func header(rec *store.Record, deadline, since, stale int64) string {
	var a args
	a = a.u64(uint64(deadline)).u64(uint64(rec.Version))
	for _, v := range rec.History {
		a = a.u64(uint64(v))
	}
	a = a.u64(uint64(rec.Acquired)).u64(uint64(micros(rec.Timeout))).u64(uint64(rec.Created.UnixNano())).u32(uint32(rec.Flags))
	a = a.u32(uint32(rec.Lock.Cookie)).u64(rec.Lock.Owner).u64(uint64(since)).u64(uint64(stale))
	return string(a) + rec.Subject
}

func anyRecord() *store.Record {
	return &store.Record{
		Version: 1, History: [3]store.Version{2, 3, 1 << 63}, Acquired: 5, Timeout: 20 * time.Minute, Created: time.Unix(1, 2),
		Flags: store.Moving, Lock: store.Lock{Cookie: 7, Owner: 8}, Locked: true, Subject: "anna",
	}
}

// FuzzHeader: what is understood is given back as it was.
func FuzzHeader(f *testing.F) {
	rec := anyRecord()
	f.Add(header(rec, 9, 10, 11))
	f.Add(header(rec, 9, 10, 11)[:95])
	f.Add(header(&store.Record{}, 0, 0, 0))
	f.Add("")
	f.Fuzz(func(t *testing.T, m string) {
		var rec store.Record
		if err := parseHeader(m, &rec); err != nil {
			if !errors.Is(err, errReply) {
				t.Errorf("%x: %v", m, err)
			}
			return
		}
		stale := int64(binary.BigEndian.Uint64([]byte(m[88:96])))
		if again := header(&rec, deadlineOf(m), sinceOf(m), stale); again != m {
			t.Errorf("%x is %x the second time", m, again)
		}
	})
}

// FuzzEnd: no end that is stored makes a reader fail, and none is misread.
func FuzzEnd(f *testing.F) {
	h := header(anyRecord(), 9, 10, 11)
	end := func(kind store.Kind, to, h, body string) string {
		a := append(args{}.u64(1).u64(2), byte(kind))
		a = binary.BigEndian.AppendUint16(a, uint16(len(to)))
		a = binary.BigEndian.AppendUint16(append(a, to...), uint16(len(h)))
		return string(a) + h + body
	}
	f.Add(end(store.Regenerated, "there", h, "content"))
	f.Add(end(store.Abandoned, "", h, ""))
	f.Add(end(store.Abandoned, "there", h, "")[:40])
	f.Fuzz(func(t *testing.T, e string) {
		var got store.End
		if err := parseEnd(e, 10, &got); err != nil {
			if !errors.Is(err, errReply) {
				t.Errorf("%x: %v", e, err)
			}
			return
		}
		if got.Record.Locked || got.Reason.Age < 0 {
			t.Errorf("%x is %+v", e, got)
		}
		to, body := got.Reason.To, string(got.Record.Body)
		if len(to)+len(got.Record.Subject)+len(body)+headerSize+21 != len(e) {
			t.Errorf("%x: the parts are %q, %q and %q", e, to, got.Record.Subject, body)
		}
	})
}

func TestParseEnd(t *testing.T) {
	rec := anyRecord()
	h := header(rec, 9, 10, 11)
	a := append(args{}.u64(1).u64(2_000_000), byte(store.Regenerated))
	a = append(binary.BigEndian.AppendUint16(a, 5), "there"...)
	a = append(binary.BigEndian.AppendUint16(a, uint16(len(h))), h...)
	var got store.End
	if err := parseEnd(string(a)+"content", 5_000_000, &got); err != nil {
		t.Fatal(err)
	}
	want := store.End{Reason: store.Reason{Kind: store.Regenerated, Age: 3 * time.Second, To: "there"}, Record: *rec}
	want.Record.Locked, want.Record.Lock.Owner, want.Record.Body = false, 0, []byte("content")
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestKeys: what differs in an ID differs in the key, and all keys of a bucket are in one
// slot.
func TestKeys(t *testing.T) {
	k := keyspace{"p", maxBuckets}
	seen := make(map[string]store.ID)
	for _, app := range []string{"", "a", "a:s", "a%3As", "{1}", "a}", "/shop"} {
		for _, session := range []string{"s", ":s", "s:s", "{2}", "}", "i"} {
			of := k.of(app)
			key := of.session(session)
			if other, twice := seen[key]; twice {
				t.Errorf("%q is the key of %v and of %q in %q", key, other, session, app)
			}
			seen[key] = store.ID{App: app, Session: session}
			index := of.index(k.bucketOf(session))
			tag := func(key string) string { before, _, _ := strings.Cut(key, "}"); return before }
			if tag(key) != tag(index) {
				t.Errorf("%q and %q differ in their tags", key, index)
			}
		}
	}
}
