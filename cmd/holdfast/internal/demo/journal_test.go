package demo

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/host"
	"github.com/holdfast-session/holdfast/host/worker"
)

// hosted is a shop whose host has this journal.
func hosted(t *testing.T, w Worker, journal ...host.Entry) *visitor {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(report{Journal: journal}); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(srv.Close)
	w.Host = srv.URL
	return visit(t, w)
}

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.Local)

func at(minute int) time.Time { return noon.Add(time.Duration(minute) * time.Minute) }

// A cart of before the worker began is lost for the reason by which its predecessor
// ended, and when it stopped to get requests.
func TestLostSaysWhy(t *testing.T) {
	v := hosted(t, Worker{Mode: InProc, Number: 1, Of: 1},
		host.Entry{Time: at(1), Event: host.Ended, Worker: 1, PID: 10, Reason: host.Killed, Detail: byButton},
		host.Entry{Time: at(2), Event: host.Ended, Worker: 1, PID: 12, Reason: host.NotReady},
		host.Entry{Time: at(3), Event: host.Recycled, Worker: 1, PID: 11, Reason: host.FileChanged, Detail: "config.yaml has changed <b>"},
		host.Entry{Time: at(3), Event: host.Started, Worker: 1, PID: os.Getpid()},
		host.Entry{Time: at(4), Event: host.Ended, Worker: 1, PID: 11, Reason: host.FileChanged, Detail: "config.yaml has changed <b>"},
		host.Entry{Time: at(5), Event: host.Recycled, Worker: 2, PID: 20, Reason: host.Requested},
		host.Entry{Time: at(6), Event: host.Recycled, Worker: 1, PID: os.Getpid(), Reason: host.Requested},
	)
	before := visit(t, Worker{Mode: InProc, Number: 1, Of: 1})
	before.post("/cart/add", url.Values{"slug": {"rope"}, "back": {"/"}})
	v.cookies = before.cookies
	v.sees(v.get("/cart"), "Your session was lost at 12:03:00, because config.yaml has changed &lt;b&gt;.",
		"kept in the memory of worker 1 (PID 11)", "<code>--handover</code>", "<code>--mode inproc</code>")
}

func TestJournalPage(t *testing.T) {
	entries := []host.Entry{
		{Time: at(0), Event: host.Recycled, Worker: 1, PID: 4403, Reason: host.FileChanged, Detail: "<i>.yaml has changed", Successor: 4711},
		{Time: at(1), Event: host.Ended, Worker: 1, PID: 4403, Reason: host.FileChanged, Sessions: &host.Sessions{Carried: 3, Lost: 1}},
		{Time: at(2), Event: host.Ended, Worker: 2, PID: 4404, Reason: host.Crashed, Detail: "exit status 2", Sessions: &host.Sessions{Lost: 2}},
		{Time: at(3), Event: host.Ended, Worker: 2, PID: 4405, Reason: host.Requested, Sessions: &host.Sessions{}},
	}
	v := hosted(t, Worker{Mode: InProc, Handover: true, Number: 1, Of: 2}, entries...)
	for _, path := range []string{"/journal", "/journal/live"} {
		v.sees(v.get(path), "&lt;i&gt;.yaml has changed", "→ PID 4711", "Sessions: 3 carried over, 1 lost", `badge bad">ended</span> <b>crashed</b>`, "Sessions: 2 lost", "Sessions: none",
			`id="cart-count">0<`)
	}
	page := v.get("/journal")
	if strings.Index(page, "4405") > strings.Index(page, "4403") {
		t.Error("the newest is not the first")
	}
	alone := visit(t, Worker{Mode: InProc, Number: 1, Of: 1, Host: "http://127.0.0.1:1"})
	if resp, body := alone.do("GET", "/journal", nil); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "The host does not answer") {
		t.Errorf("without a host: %s\n%s", resp.Status, body)
	}
}

func TestBecause(t *testing.T) {
	for _, c := range []struct {
		reason       host.Reason
		detail, want string
	}{
		{host.FileChanged, "config.yaml has changed", "config.yaml has changed"},
		{host.Requested, byButton, "worker 2 was recycled by the button on the page"},
		{host.Killed, byButton, "worker 2 was killed by the button on the page"},
		{host.MemoryLimit, "130.0 MiB used, the limit is 128.0 MiB", "worker 2 reached its memory limit (130.0 MiB used, the limit is 128.0 MiB)"},
		{host.Crashed, "signal: killed", "worker 2 crashed (signal: killed)"},
		{host.HostDied, "", "worker 2 ended (host died)"},
	} {
		if got := because(worker.End{Worker: 2, Reason: string(c.reason), Detail: c.detail}); got != c.want {
			t.Errorf("%s: %q, want %q", c.reason, got, c.want)
		}
	}
}

func TestConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), configName)
	for _, motto := range mottos {
		if err := writeConfig(file, motto); err != nil {
			t.Fatal(err)
		}
		if got, err := readConfig(file); got != motto || err != nil {
			t.Errorf("%q, %v; want %q", got, err, motto)
		}
	}
	v := visit(t, Worker{Mode: InProc, Number: 1, Of: 1, Config: file})
	v.sees(v.get("/"), mottos[len(mottos)-1])
	if err := os.WriteFile(file, []byte("mottoes: two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if motto, err := readConfig(file); err == nil {
		t.Errorf("a file without a motto has %q", motto)
	}
}
