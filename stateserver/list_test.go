package stateserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
)

// TestListsUnsupported: a server that cannot answer says so, in a way that a program
// can tell.
func TestListsUnsupported(t *testing.T) {
	plain := struct{ store.Store }{inproc.New(nil)}
	for name, s := range map[string]*Server{
		"a store without the capabilities": {Store: plain},
		"a server that is Microsoft's":     {Store: inproc.New(nil), Exact: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, serve(t, s), nil)
			ctx := testContext(t)
			_, _, listErr := c.List(ctx, store.Query{App: "/"})
			_, endedErr := c.Ended(ctx, "/", 0, time.Minute)
			for call, err := range map[string]error{"List": listErr, "Ended": endedErr, "Ack": c.Ack(ctx, "/", []string{"1"})} {
				if !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrUnavailable) {
					t.Errorf("%s: %v; want an error that matches errors.ErrUnsupported", call, err)
				}
			}
		})
	}
}

// TestListNames: what is listed can be asked for by the ID that it is listed under,
// whoever has made it.
func TestListNames(t *testing.T) {
	kept := inproc.New(&inproc.Options{Ends: 100})
	addr := serve(t, &Server{Store: kept})
	c := dial(t, addr, nil)
	ctx := testContext(t)
	want := make(map[store.ID]bool)
	for _, id := range []store.ID{
		{App: "/", Session: "a"}, {App: "", Session: "a"}, {App: "plain", Session: "%2f/%"}, {App: "/plain", Session: "\x00\xff é"},
		{App: "/a(b)", Session: "s"}, {App: appKey("/twice"), Session: "s"}, {App: "/LM/W3SVC/1/Root(NDbkwGi0191wFdDv0yOUOobtHns=)", Session: "s"},
	} {
		mustCreate(t, c, id, id.App+" "+id.Session)
		want[id] = true
	}
	// Made by an old client, under the hash of an old framework.
	old := connect(t, addr)
	old.ask("x", "PUT %2fLM%2fW3SVC%2f1%2fRoot(NDbkwGi0191wFdDv0yOUOobtHns%3d)%2fz445 HTTP/1.1", "Content-Length: 1")
	want[store.ID{App: "/LM/W3SVC/1/Root(NDbkwGi0191wFdDv0yOUOobtHns=)", Session: "z445"}] = true
	// Those that no client can name are left out.
	old.ask("x", "PUT /byhand HTTP/1.1", "Content-Length: 1")
	old.ask("x", "PUT /A(h)/byhand HTTP/1.1", "Content-Length: 1")
	mustCreate(t, kept, store.ID{App: "x", Session: "y"}, "")

	got := make(map[store.ID]bool)
	for q := (store.Query{Limit: 3}); ; {
		page, next, err := c.List(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range page {
			got[one.ID] = true
			if err := c.Touch(ctx, one.ID); err != nil {
				t.Errorf("Touch of %q, as listed: %v", one.ID, err)
			}
		}
		if q.After = next; next == "" {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the list (-want +got):\n%s", diff)
	}
}

// TestEndsTravel: every field of an end survives, and ends that are large come in
// more than one answer.
func TestEndsTravel(t *testing.T) {
	kept := inproc.New(&inproc.Options{Ends: 100})
	c := dial(t, serve(t, &Server{Store: kept}), nil)
	ctx := testContext(t)
	id := store.ID{App: "/", Session: "\xff"}
	rec := &store.Record{
		Version: math.MaxUint64, Timeout: time.Hour, Created: time.Unix(1795228191, 7).UTC(), Flags: 1 << 31,
		History: [3]store.Version{1, 0, 3}, Subject: "\xfe\"\n<", Body: []byte("\x00\xff\"\n"),
	}
	if err := c.Create(ctx, id, rec, false); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Regenerated, To: "\xfd/ "}); err != nil {
		t.Fatal(err)
	}
	ends, err := c.Ended(ctx, "/", 10, time.Minute)
	if err != nil || len(ends) != 1 {
		t.Fatalf("Ended: %v, %v", ends, err)
	}
	got := ends[0]
	if got.ID != id || got.Reason.Kind != store.Regenerated || got.Reason.To != "\xfd/ " || got.Key == "" || got.Record.Subject != rec.Subject ||
		string(got.Record.Body) != string(rec.Body) || got.Record.Version != rec.Version || got.Record.History != rec.History ||
		!got.Record.Created.Equal(rec.Created) || got.Record.Flags != rec.Flags || got.Record.Timeout != rec.Timeout {
		t.Errorf("the end is %+v; want that of %+v", got, rec)
	}

	const n = 60
	body := strings.Repeat("x", maxEnds/20)
	for i := range n {
		id := store.ID{App: "/large", Session: fmt.Sprint(i)}
		mustCreate(t, c, id, body)
		if err := c.Remove(ctx, id, store.Lock{}, store.Reason{Kind: store.Abandoned}); err != nil {
			t.Fatal(err)
		}
	}
	seen, answers := make(map[string]bool), 0
	for ; len(seen) < n; answers++ {
		ends, err := c.Ended(ctx, "/large", 1000, time.Minute)
		if err != nil || len(ends) == 0 {
			t.Fatalf("after %d ends: %v, %v", len(seen), ends, err)
		}
		for _, e := range ends {
			seen[e.Key] = true
		}
	}
	if answers < 2 {
		t.Errorf("%d bytes came in %d answer", n*len(body), answers)
	}
	var keys []string
	for key := range seen {
		keys = append(keys, key)
	}
	for range 1000 { // more than one request has room for
		keys = append(keys, "not a key \xff")
	}
	if err := c.Ack(ctx, "/large", keys); err != nil {
		t.Fatal(err)
	}
	if ends, err := kept.Ended(ctx, appKey("/large"), 100, 0); err != nil || len(ends) != 0 {
		t.Errorf("%d ends are left after Ack, %v", len(ends), err)
	}
}

// TestListRequests are those that no client of ours sends.
func TestListRequests(t *testing.T) {
	addr := serve(t, &Server{Store: inproc.New(nil)})
	for line, want := range map[string]string{
		"GET /holdfast/sessions?limit=x HTTP/1.1":                         "400 Bad Request",
		"GET /holdfast/sessions?limit=-1 HTTP/1.1":                        "400 Bad Request",
		"GET /holdfast/sessions?app=%zz HTTP/1.1":                         "400 Bad Request",
		"GET /holdfast/ends?limit=1 HTTP/1.1":                             "400 Bad Request",
		"GET /holdfast/ends?app=x&lease=-1 HTTP/1.1":                      "400 Bad Request",
		"DELETE /holdfast/sessions HTTP/1.1":                              "400 Bad Request",
		"HEAD /holdfast/ends?app=x HTTP/1.1":                              "400 Bad Request",
		"PUT /holdfast/ends?app=x HTTP/1.1\r\nContent-Length: 0":          "400 Bad Request",
		"GET /holdfast/sessions?app=x&after=nonsense HTTP/1.1":            "500 Internal Server Error",
		"GET /holdfast/sessions?limit=99999 HTTP/1.1":                     ok,
		"GET /holdfast/ends?app=x&limit=2147483647&lease=0.5 HTTP/1.1":    ok,
		"DELETE /holdfast/ends?app=x&key=%ff HTTP/1.1":                    ok,
		"GET /holdfast/sessionss HTTP/1.1":                                notFound,
		"GET /holdfast/sessions?app=x HTTP/1.1\r\nIf-None-Match: \"1\"":   ok,
		"GET /holdfast/sessions?app=x HTTP/1.1\r\nExclusive: acquire":     ok,
		"GET %2fholdfast%2fsessions HTTP/1.1":                             notFound,
		"GET /holdfast(x)/sessions?app=y HTTP/1.1":                        notFound,
		"GET /holdfast/sessions?subject=a%20b+c&limit=1 HTTP/1.1\r\nX: y": ok,
	} {
		w := connect(t, addr)
		if got := status(w.ask("", line, "Holdfast: 1")); got != want {
			t.Errorf("%s: %s; want %s", line, got, want)
		}
	}
	// For an old client these targets are sessions like others.
	w := connect(t, addr)
	if got := status(w.ask("", "GET /holdfast/sessions HTTP/1.1")); got != notFound {
		t.Errorf("an old client: %s; want 404", got)
	}
}

func FuzzListQuery(f *testing.F) {
	f.Add([]byte("/holdfast/sessions?app=%2fA(h)&subject=a+b&after=x&limit=7"))
	f.Add([]byte("/holdfast/ends?app=x&limit=0&lease=60&key=1&key=2"))
	f.Add([]byte("/holdfast/ends?;&=&key"))
	f.Fuzz(func(t *testing.T, target []byte) {
		q, err := parseListQuery(target)
		if err != nil {
			return
		}
		b := []byte(endsPath)
		b = appendParam(b, "app", q.App)
		b = appendParam(b, "subject", q.Subject)
		b = appendParam(b, "after", q.After)
		b = appendParam(b, "limit", fmt.Sprint(q.Limit))
		b = appendParam(b, "lease", string(appendSeconds(nil, q.lease)))
		var keys []string
		for _, key := range q.keys {
			if key != "" {
				keys = append(keys, key)
			}
			b = appendParam(b, "key", key)
		}
		q.keys = keys
		if again, err := parseListQuery(b); err != nil || !reflect.DeepEqual(again, q) {
			t.Errorf("%q is %+v, and written again as %q %+v, %v", target, q, b, again, err)
		}
	})
}

// FuzzListAnswer reads what a server might answer, and what that is written as again.
func FuzzListAnswer(f *testing.F) {
	target := targetOf(store.ID{App: "/a", Session: "s"})
	f.Add([]byte(`{"ends":[{"key":"1","reason":"expired","age":1.5,"to":"%2f","target":"` + target + `","version":"01","history":["1","0","2"],` +
		`"acquired":"1","locked":true,"lockAge":2,"lockCookie":7,"timeout":1200,"created":1.000000001,"flags":1,"subject":"a+b","body":"AP8="}]}`))
	f.Add([]byte(`{"ends":[{"target":"x","timeout":-1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a, again endedAnswer
		if json.Unmarshal(b, &a) != nil {
			return
		}
		for i := range a.Ends {
			one, err := a.Ends[i].session()
			if err != nil {
				continue
			}
			server, _ := appendKey(nil, []byte(targetOf(one.ID)))
			l, ok := listedOf(splitKey(server), &one.Record)
			if !ok {
				t.Fatalf("%q is read and cannot be written", one.ID)
			}
			a.Ends[i].listedSession = l
		}
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if text2, _ := json.Marshal(again); string(text2) != string(text) {
			t.Errorf("written as %s, and again as %s", text, text2)
		}
	})
}
