package sqlstore

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

func aesKey(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func newTestPacker(t testing.TB, o Options) *packer {
	t.Helper()
	p, err := newPacker(&o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPackRoundTrip(t *testing.T) {
	id, _ := keyOf(store.ID{App: "a", Session: "s"})
	for _, body := range []string{"", "x", strings.Repeat("compressible ", 1000), string(aesKey(7))} {
		for _, o := range []Options{{}, {Compress: true}, {Keys: [][]byte{aesKey(1)}}, {Compress: true, Keys: [][]byte{aesKey(1), aesKey(2)}}} {
			p := newTestPacker(t, o)
			packing, items, err := p.pack(id, []byte(body))
			if err != nil {
				t.Fatal(err)
			}
			if o.Compress && len(body) > 10_000 && len(items) > 1000 {
				t.Errorf("%d bytes were compressed to %d", len(body), len(items))
			}
			if len(o.Keys) > 0 && len(body) > 1 && bytes.Contains(items, []byte(body)) {
				t.Error("the content can be read")
			}
			got, err := p.unpack([]byte("before "), id, packing, items)
			if err != nil || string(got) != "before "+body {
				t.Errorf("%+v: %d bytes came back as %d, %v", o, len(body), len(got), err)
			}
		}
	}
}

// Keys are changed one after the other, and what no key opens is not read.
func TestKeyRotation(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		table := d.newTable()
		with := func(keys ...[]byte) *Store { return d.open(t, Options{Table: table, Keys: keys}) }
		plain, first, both, second := with(), with(aesKey(1)), with(aesKey(2), aesKey(1)), with(aesKey(2))
		ctx, id := t.Context(), store.ID{App: "a", Session: "s"}
		if err := plain.Create(ctx, id, &store.Record{Version: 1, Timeout: time.Hour, Body: []byte("secret")}, false); err != nil {
			t.Fatal(err)
		}
		save := func(s *Store) {
			t.Helper()
			rec := new(store.Record)
			// On a machine that is busy, who could not read it may still be giving it back.
			if err := s.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute}, rec); err != nil || string(rec.Body) != "secret" {
				t.Fatalf("Lock: %q, %v", rec.Body, err)
			}
			if err := s.Save(ctx, id, rec, store.NewVersion(), false); err != nil {
				t.Fatal(err)
			}
		}
		items := func() (items []byte) {
			d.scan(t, "SELECT items FROM "+plain.names.table, &items)
			return items
		}
		save(first)
		if bytes.Contains(items(), []byte("secret")) {
			t.Error("the content can be read in the database")
		}
		save(both)
		save(second)
		for name, s := range map[string]*Store{"the old key": first, "no key": plain} {
			rec := new(store.Record)
			if err := s.Load(ctx, id, rec); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "Options.Keys") {
				t.Errorf("Load with %s: %v; want an error that names Options.Keys", name, err)
			}
			if err := s.Lock(ctx, id, store.LockOptions{Owner: store.NewOwner()}, rec); !errors.Is(err, errUnreadable) {
				t.Errorf("Lock with %s: %v; want that the content cannot be read", name, err)
			}
		}
		save(second) // and those who could not read it have not locked it

		// Another session's content is not taken for this one's.
		other := store.ID{App: "a", Session: "other"}
		if err := second.Create(ctx, other, &store.Record{Version: 1, Timeout: time.Hour, Body: []byte("other")}, false); err != nil {
			t.Fatal(err)
		}
		k, _ := keyOf(other)
		steal := compile(second.d, second.names, "UPDATE "+inTable+" SET items = :items WHERE id = :id")
		stolen := items()
		d.exec(t, steal.text, steal.values(&args{pID: k[:], pItems: stolen})...)
		if err := second.Load(ctx, other, new(store.Record)); !errors.Is(err, errUnreadable) {
			t.Errorf("Load of another session's content: %v; want that it cannot be read", err)
		}
	})
}

func TestMaxBytes(t *testing.T) {
	everyDatabase(t, func(t *testing.T, d *database) {
		s := d.open(t, Options{MaxBytes: 1000, Compress: true})
		ctx, id := t.Context(), store.ID{App: "a", Session: "s"}
		rec := &store.Record{Version: 1, Timeout: time.Hour, Body: make([]byte, 1001)}
		if err := s.Create(ctx, id, rec, false); !errors.Is(err, store.ErrTooLarge) || !strings.Contains(err.Error(), "1001") {
			t.Errorf("Create: %v; want ErrTooLarge with the size", err)
		}
		rec.Body = rec.Body[:1000]
		if err := s.Create(ctx, id, rec, false); err != nil {
			t.Fatal(err)
		}
		rec.Body = rec.Body[:1001]
		if err := s.Save(ctx, id, rec, 2, false); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("Save: %v; want ErrTooLarge", err)
		}
		if err := s.Load(ctx, id, rec); err != nil || len(rec.Body) != 1000 || rec.Version != 1 {
			t.Errorf("Load: %d bytes, %v; want what was there", len(rec.Body), err)
		}
	})
}

// MySQL takes no more at once than it is set to. What is more is refused before it is sent,
// for the server hangs up on it, after which the outcome would be unknown.
func TestServerTakesNoMore(t *testing.T) {
	t.Parallel()
	d := databases[1].make(t)
	s := d.open(t, Options{})
	var most int
	d.scan(t, "SELECT @@max_allowed_packet", &most)
	most -= 16 << 10
	id := store.ID{App: strings.Repeat("a", maxName), Session: strings.Repeat("s", maxName)}
	rec := &store.Record{Version: 1, Timeout: time.Hour, Subject: strings.Repeat("u", maxName)}
	body := make([]byte, 2*most)
	for _, size := range []int{most + 1, 2 * most} {
		rec.Body = body[:size]
		if err := s.Create(t.Context(), id, rec, false); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("Create of %d bytes: %v; want ErrTooLarge", size, err)
		}
	}
	rec.Body = body[:most]
	if err := s.Create(t.Context(), id, rec, false); err != nil {
		t.Errorf("Create of %d bytes: %v", most, err)
	}
	if err := s.Save(t.Context(), id, rec, 2, false); err != nil {
		t.Errorf("Save of %d bytes: %v", most, err)
	}
	rec.Version, rec.Body = 2, body[:most+1]
	if err := s.Save(t.Context(), id, rec, 3, false); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("Save of %d bytes: %v; want ErrTooLarge", most+1, err)
	}
}

// Content that somebody has changed is an error, never a panic, and never read as
// something else when it was encrypted.
func FuzzUnpack(f *testing.F) {
	id, _ := keyOf(store.ID{App: "a", Session: "s"})
	body := []byte(strings.Repeat("content ", 100))
	o := Options{Compress: true, Keys: [][]byte{aesKey(1)}, MaxBytes: 1 << 16}
	p := newTestPacker(f, o)
	for _, o := range []Options{{}, {Compress: true}, {Keys: o.Keys}, o} {
		packing, items, err := newTestPacker(f, o).pack(id, body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packing, items)
		f.Add(packing, items[:len(items)/2])
		f.Add(packing, []byte{})
	}
	f.Add(int64(4), []byte("a newer one"))
	f.Fuzz(func(t *testing.T, packing int64, items []byte) {
		got, err := p.unpack(nil, id, packing, items)
		if err == nil && packing&packSealed != 0 && !bytes.Equal(got, body) {
			t.Errorf("forged content was read: %q", got)
		}
		if len(got) > 1<<16 && packing&packDeflated != 0 {
			t.Errorf("%d bytes of content were inflated", len(got))
		}
	})
}
