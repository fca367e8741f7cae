package mode

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/inproc"
	"github.com/holdfast-session/holdfast/internal/off"
	"github.com/holdfast-session/holdfast/logstore"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("s3cret\nmore\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]any{
		"off:":                               off.Store{},
		"OFF:":                               off.Store{},
		"inproc:":                            &inproc.Store{},
		"InProc:?max-memory=64MiB":           &inproc.Store{},
		"inproc:?full=refuse&max-sessions=5": &inproc.Store{},
		"inproc:?backing=" + dir + "/b&sync=always":         &backed{},
		"logstore:" + dir + "/l":                            &logstore.Store{},
		"logstore:" + dir + "/m?sync=always&max-disk=10GB":  &logstore.Store{},
		"tcpip=localhost:42424":                             &stateserver.Client{},
		"tcpip=localhost:42424?compat=1":                    &stateserver.Client{},
		"tcpip=[::1]:42424":                                 &stateserver.Client{},
		"tcpip=one:42424, tcpip=two:42424":                  &stateserver.Partitions{},
		"stateserver://localhost:42424/":                    &stateserver.Client{},
		"stateserver://s3cret@localhost:42424?timeout=2s":   &stateserver.Client{},
		"stateserver://s3cret@one:1,two:2,[::1]:3?conns=2":  &stateserver.Partitions{},
		"stateservers://one:42424?server-name=two":          &stateserver.Client{},
		"stateserver://one:42424?tls=1":                     &stateserver.Client{},
		"unix:" + dir + "/state.sock":                       &stateserver.Client{},
		"unix:" + dir + "/state.sock?token-file=" + token:   &stateserver.Client{},
		"stateserver://localhost:42424?token-file=" + token: &stateserver.Client{},
	} {
		s, err := Open(spec)
		if err != nil {
			t.Errorf("Open(%q): %v", spec, err)
			continue
		}
		if got := fmt.Sprintf("%T", s); got != fmt.Sprintf("%T", want) {
			t.Errorf("Open(%q) is a %s; want a %T", spec, got, want)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close of %q: %v", spec, err)
		}
	}
}

// TestMistakes has every mistake answered with what to write instead.
func TestMistakes(t *testing.T) {
	for spec, want := range map[string]string{
		"":                                      "possible are off:, inproc:, logstore:/var",
		"off:/tmp":                              "there is no place to name",
		"off:?x=1":                              `there is no parameter "x" here, and no other`,
		"Off":                                   "did you mean off:?",
		"inprog:":                               "did you mean inproc:?",
		"InProc":                                "did you mean inproc:?",
		"statserver://h:1":                      "did you mean stateserver://localhost:42424?",
		"StateServer":                           "did you mean stateserver://localhost:42424?",
		"localhost:42424":                       "stateserver://localhost:42424",
		"mongodb://:s3cret@h:6379":              `there is no mode "mongodb"; possible are off:, inproc:,`,
		"Server=h;Password=s3cret":              "possible are",
		"s3cret@localhost:42424":                "possible are",
		"inproc:/tmp":                           "inproc:?backing=/tmp",
		"inproc:?max_memory=1":                  "did you mean max-memory?",
		"inproc:?maxmemory=1":                   "did you mean max-memory?",
		"inproc:?colour=1":                      "possible are max-memory, max-sessions,",
		"inproc:?max-memory=lots":               "max-memory=lots: want a size such as",
		"inproc:?max-memory=-1":                 "want a size",
		"inproc:?max-memory=1e300":              "want a size",
		"inproc:?max-sessions=0":                "want a number above 0",
		"inproc:?full=maybe":                    "want evict or refuse",
		"inproc:?full=evict&full=x":             "full is there 2 times",
		"inproc:?sync=always":                   "backing=DIR",
		"inproc:?backing=":                      "names no folder",
		"inproc:?%zz":                           "parameters cannot be read",
		"logstore:":                             "names no folder",
		"logstore:/x?sync=sometimes":            "want interval or always or never",
		"logstore:/x?interval=5":                "want a duration such as",
		"tcpip=":                                "names no server",
		"tcpip=localhost":                       "localhost has no port; write localhost:42424",
		"tcpip=localhost:":                      "localhost has no port",
		"tcpip=:42424":                          "has no host; write localhost:42424",
		"tcpip=localhost:x":                     "not a number",
		"tcpip=localhost:70000":                 "not a number up to 65535",
		"tcpip=::1":                             "write [::1]:42424",
		"stateserver://":                        "names no server",
		"stateserver://h:1,h:1":                 "twice",
		"stateserver://h:1,":                    "names no server",
		"stateserver://s3cret@h":                "h has no port; write h:42424",
		"stateserver://s3%ret@h:1":              "token cannot be read",
		"stateserver://h:1?tsl=1":               "did you mean tls?",
		"stateserver://h:1?tls=maybe":           "want 1 or 0",
		"stateserver://h:1?ca=x":                "stateservers:// or tls=1",
		"stateservers://h:1?tls=0":              "stateserver://",
		"stateservers://h:1?cert=x":             "cert and key go together",
		"stateservers://h:1?ca=/none":           "no such file",
		"stateserver://s3cret@h:1?token-file=x": "one of them is enough",
		"unix:":                                 "names no socket",
	} {
		s, err := Open(spec)
		if err == nil {
			s.Close()
			t.Errorf("Open(%q) succeeded; want an error with %q", spec, want)
			continue
		}
		if got := err.Error(); !strings.HasPrefix(got, "mode: ") || !strings.Contains(got, want) || strings.Contains(got, "s3") {
			t.Errorf("Open(%q): %v; want %q, and no secret", spec, err, want)
		}
	}
}

// TestErrorsShowNoPassword has passwords that should have been escaped, and were not: what
// is taken for the host then, or for a parameter, is a piece of one.
func TestErrorsShowNoPassword(t *testing.T) {
	const say = "write @ as %40, / as %2F, ? as %3F, # as %23 and % as %25"
	const sayQuery = "write a question mark in a token or password as %3F"
	for spec, want := range map[string]string{
		"oracle://sa:hunt%zzer@127.0.0.1:1/x":                    say,
		"oracle://sa:hunt er@127.0.0.1:1/x":                      say,
		"oracle://sa:hunt[er@127.0.0.1:1/x":                      say,
		"oracle://sa:hunt#er@127.0.0.1:1/x":                      say,
		"oracle://sa:hunt/er@127.0.0.1:1/x":                      say,
		"oracle://sa:hunt?er@127.0.0.1:1/x":                      sayQuery,
		"sqlserver://sa:hunt%zzer@127.0.0.1:1":                   say,
		"sqlserver://sa:hunt#er@127.0.0.1:1":                     say,
		"sqlserver://sa:127#hunt@127.0.0.1:1":                    say,
		"sqlserver://sa:hunt?er@127.0.0.1:1?database=x":          sayQuery,
		"sqlserver://127.0.0.1:1?hunt=er@db":                     sayQuery, // as it would be if the password were 1?hunt=er
		"postgres://127.0.0.1:1?er=hunt@db":                      sayQuery,
		"mysql://127.0.0.1:1/x?er=hunt@db":                       sayQuery,
		"mysql://sa:hunt#er@127.0.0.1:1/x":                       say,
		"mysql://sa:127/hunt@127.0.0.1:1/x":                      say,
		"postgres://sa:127/hunt@127.0.0.1:1/x":                   say,
		"redis://:hunt?er@127.0.0.1:1":                           sayQuery,
		"redis://:hunt?db=er@127.0.0.1:1":                        sayQuery,
		"redis://127.0.0.1:1?hunt%40er=1":                        "there is a parameter that redis does not have",
		"redis://:hunt%zzer@127.0.0.1:1":                         "write a percent sign as %25",
		"redis-sentinel://127.0.0.1:1/m?sentinel-password=hunt@": sayQuery,
		"stateserver://hunt?er@127.0.0.1:1":                      sayQuery,
	} {
		opens := []func() error{func() error {
			s, err := Open(spec)
			if err == nil {
				s.Close()
			}
			return err
		}}
		if s, _, _, _ := split(spec); s.database != nil {
			opens = append(opens, func() error {
				d, err := OpenDatabase(spec)
				if err == nil {
					d.DB.Close()
				}
				return err
			})
		}
		for i, open := range opens {
			err := open()
			if err == nil {
				if i == 0 {
					t.Errorf("%s: it was opened", spec)
				}
				continue // nothing is asked of a database by OpenDatabase
			}
			if got := err.Error(); !strings.Contains(got, want) || strings.Contains(got, "hunt") || strings.Contains(got, "er@") || strings.Contains(got, "sa:") || strings.Contains(got, "zz") {
				t.Errorf("%s: %v; want %q, and no secret", spec, err, want)
			}
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"1": 1, "1048576": 1 << 20, "1b": 1, "4KiB": 4096, "1.5MiB": 3 << 19, "10 GB": 10e9, "2tib": 2 << 40, "9223372036854775807": 1<<63 - 1,
		"": 0, "0": 0, "-1": 0, "KiB": 0, "1e3": 0, "1XB": 0, "99999999TiB": 0, "0x10": 0, "inf": 0, "nan": 0, "1_000": 0,
	} {
		if got, ok := parseSize(s); got != want && ok || ok != (want > 0) {
			t.Errorf("parseSize(%q) = %d, %v; want %d", s, got, ok, want)
		}
	}
}

// FuzzParse has every string either understood or refused with a word of advice, in
// which nothing is told that stands where a token does.
func FuzzParse(f *testing.F) {
	for _, spec := range []string{
		"", "inproc:", "inproc:?max-memory=1MiB&full=refuse", "logstore:/x?sync=always", "tcpip=a:1,b:2", "stateserver://s3cret@a:1?tls=1",
		"stateservers://s3cret@[::1]:1,b:2/?ca=x&cert=y&key=z", "unix:/a@b?timeout=1s", "off:", "s3cret@x", "redis://u:s3cret@h/0",
	} {
		f.Add(spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		parse(spec) // any string
		for _, scheme := range []string{"stateserver://", "stateservers://", "tcpip=", "redis://", "redis-cluster://", "postgres://u:", "mysql://u:", "sqlserver://u:", "oracle://u:", "nowhere://"} {
			if _, err := parse(scheme + "s3cret" + strings.ReplaceAll(spec, "s3cret", "") + "@h"); err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%v", err)
			}
		}
	})
}

func ExampleOpen() {
	s, err := Open("inproc:?max-memory=64MiB")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()
	ctx, id := context.Background(), store.ID{App: "/shop", Session: "s"}
	s.Create(ctx, id, &store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute}, false)
	fmt.Println(s.Touch(ctx, id))

	_, err = Open("stateserver://token@localhost")
	fmt.Println(err)
	_, err = Open("stateserver://localhost:42424?time-out=2s")
	fmt.Println(err)
	// Output:
	// <nil>
	// mode: stateserver://…@localhost: localhost has no port; write localhost:42424
	// mode: stateserver://localhost:42424: there is no parameter "time-out" here; did you mean timeout?
}
