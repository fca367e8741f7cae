package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

// A hosted application is one behind `holdfast host`.
type hosted struct {
	*program
	url   string
	state string
}

// startHosted starts two workers, with more flags of the host.
func startHosted(t *testing.T, flags ...string) *hosted {
	t.Helper()
	h := &hosted{state: t.TempDir()}
	args := append([]string{"host", "--state", h.state, "--name", "app", "--listen", "127.0.0.1:0", "--workers", "2"}, flags...)
	h.program = start(t, append(args, "--", "/usr/bin/env", programVar+"=", appVar+"=1", os.Args[0])...)
	h.url = "http://" + h.ready("holdfast: app on ")
	h.pids(2)
	return h
}

// pids asks until n workers have answered.
func (h *hosted) pids(n int) []int {
	h.t.Helper()
	var all []int
	eventually(h.t, fmt.Sprintf("%d workers answer", n), func() bool {
		resp, err := http.Get(h.url)
		if err != nil {
			h.t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		if pid, err := strconv.Atoi(string(text)); err == nil && resp.StatusCode == http.StatusOK && !slices.Contains(all, pid) {
			all = append(all, pid)
		}
		return len(all) >= n
	})
	return all
}

// holdfast runs a command and returns what it prints.
func (h *hosted) holdfast(args ...string) string {
	h.t.Helper()
	var out, errs bytes.Buffer
	if status := run(append(args, "--state", h.state), &out, &errs); status != 0 {
		h.t.Fatalf("holdfast %s: status %d, %s", strings.Join(args, " "), status, &errs)
	}
	return out.String()
}

// replaced wants all workers to be others than before, and the host to know.
func (h *hosted) replaced(before []int) []int {
	h.t.Helper()
	for _, pid := range before {
		eventually(h.t, fmt.Sprintf("worker %d ends", pid), func() bool {
			return !alive(pid) && !slices.ContainsFunc(h.status().Workers, func(w host.Status) bool { return w.PID == pid })
		})
	}
	return h.pids(2)
}

func (h *hosted) status() (status hostStatus) {
	h.t.Helper()
	if err := json.Unmarshal([]byte(h.holdfast("host", "status", "--json", "-n", "1000")), &status); err != nil {
		h.t.Fatal(err)
	}
	return status
}

func TestHost(t *testing.T) {
	watched := filepath.Join(t.TempDir(), "app.yaml")
	if err := os.WriteFile(watched, []byte("a"), 0o644); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "nothere")
	h := startHosted(t, "--watch", watched, "--watch", missing, "--max-memory", "50%", "--max-requests", "10000", "--max-age", "29h", "--recycle-at", "03:00", "--idle", "1h")
	h.logs(`level=WARN msg="what is to be watched is not there yet; it counts from when it is" path=` + missing)
	pids := h.pids(2)
	if out := h.stdout.String(); strings.Count(out, "] application begins\n") != 2 {
		t.Errorf("the workers' output:\n%s", out)
	}

	// By hand, by signal, by a file.
	if said := h.holdfast("host", "recycle", "--why", "testing"); said != "recycled\n" {
		t.Errorf("host recycle says %q", said)
	}
	pids = h.replaced(pids)
	h.signal(syscall.SIGHUP)
	pids = h.replaced(pids)
	if err := os.WriteFile(watched, []byte("b"), 0o644); err != nil {
		t.Fatal(err)
	}
	pids = h.replaced(pids)

	said := h.holdfast("host", "status")
	for _, want := range []string{
		"WORKER", "MEMORY", "ready", "MiB", "requested (by an admin call: testing)", "requested (SIGHUP)", "file changed (" + watched + " has changed)",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("host status lacks %q:\n%s", want, said)
		}
	}
	status, recycled := h.status(), 0
	for _, e := range status.Journal {
		if e.Event == host.Recycled {
			recycled++
		}
	}
	if recycled != 6 || len(status.Workers) != 2 || !slices.Contains(pids, status.Workers[0].PID) {
		t.Errorf("%d recycles of %d workers: %+v", recycled, len(status.Workers), status)
	}

	metrics, err := (&hostPlace{admin: "unix:" + filepath.Join(h.state, "admin.sock")}).call(t.Context(), http.MethodGet, "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`holdfast_host_workers{state="ready"} 2`, `holdfast_host_events_total{event="recycled",reason="requested"} 4`,
		`holdfast_host_requests_in_flight{worker="2"} 0`, `holdfast_host_worker_memory_bytes{worker="1"}`, "holdfast_host_sessions_lost_total 0",
	} {
		if !strings.Contains(string(metrics), want) {
			t.Errorf("the metrics lack %s", want)
		}
	}

	h.stop()
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("worker %d outlives the host", pid)
		}
	}
	if said := h.holdfast("host", "status"); !strings.HasSuffix(said, " host stopped\n") || strings.Contains(said, "WORKER") {
		t.Errorf("status after the end:\n%s", said)
	}
}

func TestHostIsAlone(t *testing.T) {
	h := startHosted(t)
	second := start(t, "host", "--state", h.state, "--listen", "127.0.0.1:0", "--", "/bin/true")
	if status := second.wait(); status != 1 || !strings.Contains(second.stderr.String(), "give each host a --name of its own") {
		t.Errorf("a second host: status %d, %s", status, second.stderr)
	}
	if len(h.pids(2)) != 2 {
		t.Error("the first one does not serve")
	}
}

func TestHostAdminCalls(t *testing.T) {
	h := startHosted(t)
	admin := &hostPlace{admin: "unix:" + filepath.Join(h.state, "admin.sock")}
	for path, want := range map[string]string{
		"GET /readyz":             "",
		"POST /recycle?worker=2":  "",
		"POST /recycle?worker=3":  "there is no such worker",
		"POST /recycle?worker=x":  "worker is a number",
		"GET /recycle":            "Method Not Allowed",
		"POST /recycle?worker=-1": "there is no such worker",
	} {
		method, path, _ := strings.Cut(path, " ")
		_, err := admin.call(t.Context(), method, path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// Without a name the only host is asked: the only one that runs, or the only one there is.
func TestTheOnlyHost(t *testing.T) {
	data := t.TempDir()
	t.Setenv("STATE_DIRECTORY", data)
	ask := func(args ...string) (out, errs bytes.Buffer, status int) {
		status = run(append([]string{"host"}, args...), &out, &errs)
		return out, errs, status
	}
	begin := func(name string) *program {
		t.Helper()
		p := start(t, "host", "--state", filepath.Join(data, "host-"+name), "--name", name, "--listen", "127.0.0.1:0", "--",
			"/usr/bin/env", programVar+"=", appVar+"=1", os.Args[0])
		p.ready("holdfast: " + name + " on ")
		return p
	}
	wantOne := func(out, errs bytes.Buffer, status int) {
		t.Helper()
		if status != 0 || !strings.Contains(out.String(), "host started") || !strings.Contains(errs.String(), "holdfast: the host of one\n") {
			t.Errorf("status %d, %s%s", status, &out, &errs)
		}
	}
	one := begin("one")
	wantOne(ask("status"))
	if out, errs, status := ask("recycle"); status != 0 || out.String() != "recycled\n" || errs.String() != "holdfast: the host of one\n" {
		t.Errorf("recycle: status %d, %s%s", status, &out, &errs)
	}
	two := begin("two")
	for _, args := range [][]string{{"status"}, {"recycle"}} {
		if out, errs, status := ask(args...); status != 1 || !strings.Contains(errs.String(), "which host? There is one, two: name one") {
			t.Errorf("%s: status %d, %s%s", args, status, &out, &errs)
		}
	}
	two.stop()
	wantOne(ask("status"))
	one.stop()
	if out, errs, status := ask("status"); status != 1 || !strings.Contains(errs.String(), "There is one, two") {
		t.Errorf("of two that ended: status %d, %s%s", status, &out, &errs)
	}
	if err := os.RemoveAll(filepath.Join(data, "host-two")); err != nil {
		t.Fatal(err)
	}
	wantOne(ask("status"))
}

func TestMistakesWithHosts(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", t.TempDir())
	for _, c := range []struct{ args, want string }{
		{"host", "the application is missing; write holdfast host [flags] -- app [args]"},
		{"host reload", `there is no program "reload", and no such subcommand: those of holdfast host are status and recycle`},
		{"host -- reload", "the application cannot be run"},
		{"host -- /no/such/app", "the application cannot be run"},
		{"host --workers 0 -- /bin/true", "--workers 0"},
		{"host --recycle-at 25:00 --state STATE -- /bin/true", "that is no time of day"},
		{"host --max-memory lots -- /bin/true", "is no size"},
		{"host --routing chance --state STATE --listen 127.0.0.1:0 -- /bin/true", "chance"},
		{"host --session-cookie X --state STATE --listen 127.0.0.1:0 -- /bin/true", "a Cookie has no meaning"},
		{"host --tls-cert /no/a --tls-key /no/b --state STATE --listen 127.0.0.1:0 -- /bin/true", "the certificate or its key cannot be read"},
		{"host --health healthz --state STATE --listen 127.0.0.1:0 -- /bin/true", "does not begin with /"},
		{"host --admin 0.0.0.0:0 --state STATE -- /bin/true", "add --admin-remote"},
		{"host --listen nowhere --state STATE -- /bin/true", "--listen"},
		{"host --name ../x -- /bin/true", "cannot be the name of a folder"},
		{"host status", "there is no host of this user"},
		{"host recycle", "there is no host of this user"},
		{"host status --state STATE", "/admin.sock: connect: no such file or directory"},
		{"host recycle --admin off", "no admin listener to ask"},
	} {
		t.Run(c.args, func(t *testing.T) {
			var out, errs bytes.Buffer
			args := strings.Fields(strings.ReplaceAll(c.args, "STATE", t.TempDir()))
			if status := run(args, &out, &errs); status != 1 || strings.Count(errs.String(), c.want) != 1 {
				t.Errorf("status %d, %s; want %q", status, &errs, c.want)
			}
			if out.Len() > 0 {
				t.Errorf("it printed %q before", &out)
			}
		})
	}
}

func TestTimeOfDay(t *testing.T) {
	for text, want := range map[string]time.Duration{"03:00": 3 * time.Hour, "23:59:59": 24*time.Hour - time.Second, "00:00": 0} {
		if got, err := timeOfDay(text); got != want || err != nil {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "3", "24:00", "03:00 ", "-1:00"} {
		if got, err := timeOfDay(text); err == nil {
			t.Errorf("%q: %s", text, got)
		}
	}
}
