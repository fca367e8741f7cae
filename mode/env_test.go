package mode

import (
	"strings"
	"testing"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/inproc"
)

func TestFromEnv(t *testing.T) {
	t.Setenv(StoreVar, "inproc:?max-sessions=5")
	s, err := FromEnv()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.(*inproc.Store); !ok {
		t.Errorf("it opened a %T", s)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for spec, want := range map[string]string{
		"":                         "HOLDFAST_STORE: mode: nothing says where sessions are kept; possible are off:, inproc:,",
		"inprog:":                  "HOLDFAST_STORE: mode: ",
		"stateserver://s3cret@h:x": "not a number",
	} {
		t.Setenv(StoreVar, spec)
		s, err := FromEnv()
		if err == nil {
			s.Close()
			t.Errorf("%q opened a %T", spec, s)
		} else if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v; want %q", spec, err, want)
		}
	}
}

// TestOff: what is opened is the value that package holdfast knows.
func TestOff(t *testing.T) {
	s, err := Open("off:")
	if err != nil || s != holdfast.Off {
		t.Errorf("Open: %T, %v; want holdfast.Off", s, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestRedact(t *testing.T) {
	for spec, want := range map[string]string{
		"inproc:":                             "inproc:",
		"LogStore:/x?sync=always":             "logstore:/x?sync=always",
		"stateserver://h:1,i:2":               "stateserver://h:1,i:2",
		"stateserver://s3cret@h:1?timeout=2s": "stateserver://…@h:1?timeout=2s",
		"stateserver://s3?cret@h:1":           "stateserver://…",
		"stateserver://h:1?token=s3cret&password=s3cret&Pass%77ord=s3cret&s3cret&tls=1": "stateserver://h:1?token=…&password=…&Pass%77ord=…&…&tls=1",
		"unix:/run/a.sock?token-file=/etc/t":                                            "unix:/run/a.sock?token-file=/etc/t",
		"s3cret":                                                                        "…",
		"":                                                                              "…",
	} {
		if got := Redact(spec); got != want {
			t.Errorf("Redact(%q) = %q, want %q", spec, got, want)
		}
	}
}
