package control

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func pair(t *testing.T) (a, b *Link) {
	t.Helper()
	one, two := net.Pipe()
	t.Cleanup(func() { one.Close(); two.Close() })
	return NewLink(one), NewLink(two)
}

func TestLink(t *testing.T) {
	a, b := pair(t)
	at := time.Date(2026, 5, 1, 14, 3, 0, 0, time.UTC)
	for _, m := range []Message{
		{Kind: Hello, Run: "run"},
		{Kind: Welcome, Worker: 2, Socket: "/tmp/s", Peer: &Peer{PID: 7, Socket: "/tmp/p"}, Ends: []End{{Time: at, Worker: 2, PID: 6, Reason: "crashed", Lost: -1}}},
		{Kind: Handed, Moved: 1, Left: 2, Lost: 3},
		{Kind: Why, Ask: 1 << 60, Since: at},
		{Kind: Gone, Clean: true},
	} {
		sent := make(chan error, 1)
		go func() { sent <- a.Send(m) }()
		got, err := b.Receive()
		if err != nil || <-sent != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Error(diff)
		}
	}
	a.Close()
	if _, err := b.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
	if err := a.Send(Message{}); err == nil {
		t.Error("sent on a connection that is closed")
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte(`{"kind":"hello","run":"x"}` + "\n" + `{"kind":"ready"}` + "\n"))
	f.Add([]byte(`{"kind":"why","ask":1,"since":"2026-05-01T14:03:00Z"}` + "\n{\n"))
	f.Add([]byte("\n\xff\n[]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		one, two := net.Pipe()
		defer two.Close()
		go func() {
			one.Write(text)
			one.Close()
		}()
		link := NewLink(two)
		for range len(text) + 2 {
			if _, err := link.Receive(); err != nil {
				return
			}
		}
		t.Error("more messages than bytes")
	})
}
