package modes

import (
	"io"
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
	folder := "logstore:" + t.TempDir()
	for spec, ok := range map[string]bool{
		"off": true, "inproc:": true, folder: true, "stateserver://127.0.0.1:42424": true, "tcpip=127.0.0.1:42424": true,
		"nowhere": false, "stateserver://nowhere:port": false, "": false,
	} {
		s, err := Open(spec)
		if (err == nil) != ok || (s != nil) != ok {
			t.Errorf("%q: %v, %v", spec, s, err)
		}
		if err == nil {
			holdfast.New(s, nil)
		}
		if c, closes := s.(io.Closer); closes {
			c.Close()
		}
	}
}
