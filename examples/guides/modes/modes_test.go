package modes

import (
	"log/slog"
	"testing"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/store"
	"github.com/holdfast-session/holdfast/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Bubble: true,
		Open: func(t testing.TB) store.Store {
			s := inproc.New(nil)
			t.Cleanup(func() { s.Close() })
			return Audited{s, slog.New(slog.DiscardHandler)}
		},
	})
}

func TestOpen(t *testing.T) {
	for mode, ok := range map[string]bool{"off": true, "inproc": true, "stateserver": true, "sqlserver": false} {
		s, err := Open(mode, "127.0.0.1:42424")
		if (err == nil) != ok || (s != nil) != ok {
			t.Errorf("%s: %v, %v", mode, s, err)
		}
		if err == nil {
			holdfast.New(s, nil)
		}
	}
	if s, err := Open("stateserver", "nowhere"); s != nil || err == nil {
		t.Errorf("an address that is none: %v, %v", s, err)
	}
}
