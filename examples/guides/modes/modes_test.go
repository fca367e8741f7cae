package modes

import (
	"log/slog"
	"testing"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/mode"
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
	folder := "logstore:" + t.TempDir()
	for spec, ok := range map[string]bool{
		"off:": true, "": true, folder: true, "stateserver://127.0.0.1:42424": true, "tcpip=127.0.0.1:42424": true,
		"nowhere": false, "stateserver://nowhere:port": false,
	} {
		t.Setenv(mode.StoreVar, spec)
		s, err := Open()
		if (err == nil) != ok {
			t.Errorf("%q: %v", spec, err)
		}
		if err == nil {
			holdfast.New(s, nil)
			s.Close()
		}
	}
}
