package stateserver

import (
	"context"
	"io"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

// TestStats counts what each request asked for, and what came of it.
func TestStats(t *testing.T) {
	failing := &awayStore{Store: inproc.New(nil)}
	s := &Server{Store: failing, MaxBody: 1 << 10}
	addr := serve(t, s)
	w := connect(t, addr)
	in, out := 0, 0
	get, put := "GET "+target+" HTTP/1.1", "PUT "+target+" HTTP/1.1"
	owner := "Lock-Token: 0000000000000001"
	for _, tc := range []struct {
		m    method
		send string
		want string
	}{
		{methodGet, lines("", get, "Holdfast: 1"), notFound},
		{methodPut, lines("body", put, "Holdfast: 1", "If-None-Match: *", `Idempotency-Key: "1"`, "Content-Length: 4"), ok},
		{methodGet, lines("", get, "Holdfast: 1", `If-None-Match: "1"`), "304 Not Modified"},
		{methodGet, lines("", get, "Holdfast: 1", "Exclusive: acquire", owner), ok},
		{methodGet, lines("", get), "423 Locked"},
		{methodPut, lines("more", put, "Holdfast: 1", `If-Match: "1"`, `Idempotency-Key: "2"`, owner, "Content-Length: 4"), ok},
		{methodPut, lines("less", put, "Holdfast: 1", `If-Match: "1"`, `Idempotency-Key: "3"`, "Content-Length: 4"), "412 Precondition Failed"},
		{methodGet, lines("", get, "Holdfast: 1", "Exclusive: release", owner), ok},
		{methodGet, lines("", get, "Exclusive: acquire"), ok},
		{methodHead, lines("", "HEAD "+target+" HTTP/1.1", "Holdfast: 1"), ok},
		{methodGet, lines("", "GET /holdfast/sessions HTTP/1.1", "Holdfast: 1"), "501 Not Implemented"},
		{methodDelete, lines("", "DELETE "+target+" HTTP/1.1", "Holdfast: 1", "If-Match: *"), ok},
		{methodHead, lines("", "HEAD /failing HTTP/1.1", "Holdfast: 1"), "503 Service Unavailable"},
		{methodHead, lines("", "HEAD /failing HTTP/1.1"), "400 Bad Request"},
	} {
		w.send(tc.send)
		answer := w.receive(tc.m)
		if got := status(answer); got != tc.want {
			t.Errorf("%q: %s; want %s", tc.send, got, tc.want)
		}
		in, out = in+len(tc.send), out+len(answer)
		if tc.m == methodHead && tc.want == "400 Bad Request" {
			break
		}
	}
	bad := connect(t, addr)
	bad.send("nonsense\r\n")
	out += len(bad.receive(methodGet))
	in += len("nonsense\r\n")
	bad.Close()
	want := map[RequestKind]uint64{
		{"load", "absent"}: 1, {"create", "ok"}: 1, {"load", "unmodified"}: 1, {"lock", "ok"}: 1, {"get", "locked"}: 1, {"save", "ok"}: 1,
		{"save", "conflict"}: 1, {"unlock", "ok"}: 1, {"acquire", "ok"}: 1, {"touch", "ok"}: 1, {"list", "unsupported"}: 1, {"remove", "ok"}: 1,
		{"touch", "unavailable"}: 1, {"head", "failed"}: 1, {"unknown", "malformed"}: 1,
	}
	waitFor(t, "the end of the connection that was refused", func() bool { return s.Stats().Conns == 1 })
	got := s.Stats()
	if diff := cmp.Diff(want, got.Requests); diff != "" {
		t.Errorf("the requests (-want +got):\n%s", diff)
	}
	if got.BytesIn != uint64(in) || got.BytesOut != uint64(out) {
		t.Errorf("%d bytes in and %d out; want %d and %d", got.BytesIn, got.BytesOut, in, out)
	}
	if got.Accepted != 2 || got.Latency.Count() != 14 || got.Waited.Count() != 0 || got.Latency.Sum <= 0 || got.Buffered != 0 {
		t.Errorf("the rest is %+v", got)
	}
}

// A awayStore is away for one session.
type awayStore struct{ store.Store }

func (s *awayStore) Touch(ctx context.Context, id store.ID) error {
	if id.Session == "failing" {
		return store.ErrUnavailable
	}
	return s.Store.Touch(ctx, id)
}

func TestHistogram(t *testing.T) {
	var h histogram
	var sum Histogram
	for _, d := range []time.Duration{0, 1023, 1024, 2047, 2048, time.Second, 365 * 24 * time.Hour} {
		h.add(int64(d))
		i := bucketOf(int64(d))
		if d >= BucketBound(i) && i != len(sum.Buckets)-1 || i > 0 && d < BucketBound(i-1) {
			t.Errorf("%v is in bucket %d, which ends at %v", d, i, BucketBound(i))
		}
	}
	h.addTo(&sum)
	if sum.Count() != 7 || sum.Buckets[0] != 2 || sum.Buckets[1] != 2 || sum.Buckets[2] != 1 {
		t.Errorf("the buckets are %v", sum.Buckets)
	}
	if q := sum.Quantile(0.5); q != 2048 {
		t.Errorf("the median is below %v; want 2.048µs", q)
	}
	if q := (&Histogram{}).Quantile(0.5); q != 0 {
		t.Errorf("the median of nothing is %v", q)
	}
}

// TestLargeRequestsBounded: all large requests together take no more than they may.
func TestLargeRequestsBounded(t *testing.T) {
	kept := inproc.New(nil)
	s := &Server{Store: kept, MaxBuffered: 1 << 20}
	addr := serve(t, s)
	rec := mustCreate(t, kept, targetID, string(make([]byte, 400<<10)))
	body := string(make([]byte, 700<<10))
	head := func(n int) string {
		return lines("", "PUT /a HTTP/1.1", "Holdfast: 1", "If-None-Match: *", `Idempotency-Key: "1"`, "Content-Length: "+strconv.Itoa(n))
	}
	// One that is slow has some of it.
	slow := connect(t, addr)
	slow.send(head(len(body)) + body[:len(body)-1])
	waitFor(t, "the slow one's memory", func() bool { return s.Stats().Buffered >= int64(len(body)) })
	second := connect(t, addr)
	second.send(head(len(body)))
	go io.WriteString(second.Conn, body)
	if got := status(second.receive(methodPut)); got != "503 Service Unavailable" {
		t.Errorf("a second large request: %s; want 503", got)
	}
	second.Close()
	// So does an answer, and a lock that is not told of is not held.
	w := connect(t, addr)
	if got := status(w.ask("", "GET "+target+" HTTP/1.1", "Holdfast: 1", "Exclusive: acquire", "Lock-Token: 1")); got != "503 Service Unavailable" {
		t.Errorf("a large answer: %s; want 503", got)
	}
	if got := status(w.ask("", "GET "+target+" HTTP/1.1", "Exclusive: acquire")); got != "400 Bad Request" {
		t.Errorf("a large answer to an old client: %s; want 400", got)
	}
	if got := mustLoad(t, kept, targetID); got.Locked || got.Version != rec.Version {
		t.Errorf("the session is %+v; want it unlocked", got.Lock)
	}
	slow.send("x")
	if got := status(slow.receive(methodPut)); got != ok {
		t.Errorf("the slow one: %s; want 200", got)
	}
	if got := status(slow.ask("", "GET "+target+" HTTP/1.1", "Holdfast: 1")); got != ok {
		t.Errorf("the answer, later: %s; want 200", got)
	}
	waitFor(t, "all memory", func() bool { return s.Stats().Buffered == 0 })
	if n := s.Stats().Refused["memory"]; n < 2 {
		t.Errorf("%d refusals were counted", n)
	}
}

// TestStoreFailuresInTheLog: a store that is down fails every request, and has a line a
// second.
func TestStoreFailuresInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := inproc.New(nil)
		defer kept.Close()
		net := newPipes()
		log := new(logBuffer)
		down := &storetest.Faults{Rule: func(storetest.Call) storetest.Fault { return storetest.Refuse }}
		serve(t, &Server{Store: down.Wrap(kept), Logger: log.logger()}, net)
		w := net.from(t, "127.0.0.1")
		fail := func() {
			if got := status(w.ask("", "HEAD /a HTTP/1.1", "Holdfast: 1")); got != "503 Service Unavailable" {
				t.Fatal(got)
			}
		}
		for range 11 {
			fail()
		}
		if n := log.count("the store failed"); n != 1 {
			t.Errorf("%d lines in a second; want one:\n%s", n, log)
		}
		<-time.After(failuresEvery)
		fail()
		if n := log.count("the store failed", "times=11"); n != 1 {
			t.Errorf("the next line does not tell how often it failed:\n%s", log)
		}
	})
}
