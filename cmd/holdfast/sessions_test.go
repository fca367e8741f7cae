package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// bag is a session's body with these values.
func bag(t *testing.T, values map[string]any) []byte {
	t.Helper()
	item := &items.Item{Timeout: 20 * time.Minute}
	for name, v := range values {
		var value items.Value
		var err error
		switch v := v.(type) {
		case string:
			value, err = encode(v)
		case int:
			value, err = encode(v)
		case []string:
			value, err = encode(v)
		case map[string]float64:
			value, err = encode(v)
		default:
			t.Fatalf("%T", v)
		}
		if err != nil {
			t.Fatal(err)
		}
		item.Set(name, value)
	}
	body, err := item.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func encode[T any](v T) (items.Value, error) {
	c, err := items.NewCodec[T]()
	if err != nil {
		return items.Value{}, err
	}
	return c.Encode(v)
}

func TestSessions(t *testing.T) {
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	addr := p.ready(ready)
	c, err := stateserver.Dial(addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	create := func(app, session, subject string, body []byte) store.ID {
		t.Helper()
		id := store.ID{App: app, Session: session}
		rec := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Created: time.Now(), Subject: subject, Body: body}
		if err := c.Create(context.Background(), id, &rec, false); err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := create("shop", "secret-id-1", "ann", bag(t, map[string]any{"cart": []string{"pen", "ink"}, "name": "Ann\x1b[31m", "visits": 7}))
	second := create("shop", "secret-id-2", "bob", items.Deflate(nil, bag(t, map[string]any{"prices": map[string]float64{"pen": 1.5}})))
	third := create("bank", "secret-id-3", "ann", []byte("not items at all"))
	for i := range 1500 { // more than one page
		create("bulk", fmt.Sprintf("bulk-%d", i), "", nil)
	}
	sessions := func(args ...string) (string, string, int) {
		t.Helper()
		q := start(t, append([]string{"sessions", "--server", addr}, args...)...)
		status := q.wait()
		return q.stdout.String(), q.stderr.String(), status
	}

	out, errs, status := sessions("list", "--app", "shop")
	if lines := strings.Count(out, "\n"); status != 0 || lines != 3 {
		t.Errorf("status %d, %d lines: %s%s", status, lines, out, errs)
	}
	for _, want := range []string{"SESSION", "ENDS AFTER", shortHash(first), shortHash(second), "ann", "bob", "20m0s"} {
		if !strings.Contains(out, want) {
			t.Errorf("the list lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "secret-id") {
		t.Errorf("an ID is in the list:\n%s", out)
	}
	if out, _, _ := sessions("list"); strings.Count(out, "\n") != 1504 {
		t.Errorf("the whole list has %d lines", strings.Count(out, "\n"))
	}
	if out, _, _ := sessions("list", "--app", "nobody"); out != "there are none\n" {
		t.Errorf("of nobody: %q", out)
	}
	out, _, _ = sessions("list", "--subject", "ann", "--json")
	apps := make(map[string]bool)
	for line := range strings.Lines(out) {
		var l listedJSON
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Subject != "ann" || l.Timeout != 1200 || l.Created == nil {
			t.Errorf("%s: %v", line, err)
		}
		apps[l.App] = true
	}
	if len(apps) != 2 || !apps["shop"] || !apps["bank"] {
		t.Errorf("ann's: %v", apps)
	}

	out, errs, status = sessions("show", shortHash(first), shortHash(second), shortHash(third)[:8])
	if status != 0 {
		t.Errorf("status %d: %s", status, errs)
	}
	for _, want := range []string{`["pen","ink"]`, "visits  7", `{"pen":1.5}`, "16 bytes that cannot be decoded"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not show %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("what a visitor wrote reaches the terminal as it is")
	}
	out, _, _ = sessions("show", shortHash(first), "--json")
	var l listedJSON
	if err := json.Unmarshal([]byte(out), &l); err != nil || l.Values["visits"] != 7.0 || l.Values["name"] != "Ann\x1b[31m" {
		t.Errorf("%s: %v", out, err)
	}
	if _, errs, status := sessions("show", "0123456789ab"); status != 1 || !strings.Contains(errs, "there is no session 0123456789ab") {
		t.Errorf("one that is not there: %d, %s", status, errs)
	}

	// One is ended at once, many only when somebody said so.
	if out, errs, status := sessions("end", shortHash(third)); status != 0 || out != "1 session ended\n" {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	if _, errs, status := sessions("end", "--app", "bulk"); status != 1 || !strings.Contains(errs, "This ends 1500 sessions.") || !strings.Contains(errs, "add --yes") {
		t.Errorf("status %d: %s", status, errs)
	}
	for _, a := range []struct {
		answer string
		status int
	}{{"n\n", 1}, {"\n", 1}, {"y\n", 0}} {
		q := startWith(t, func(cmd *exec.Cmd) { cmd.Stdin = strings.NewReader(a.answer) }, "sessions", "end", "--server", addr, "--app", "shop")
		if status := q.wait(); status != a.status {
			t.Errorf("answered %q: status %d, %s", a.answer, status, q.stderr)
		}
	}
	if out, errs, status := sessions("end", "--app", "bulk", "--yes"); status != 0 || out != "1500 sessions ended\n" {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	if out, _, _ := sessions("list"); out != "there are none\n" {
		t.Errorf("left: %s", out)
	}
	var rec store.Record
	err = c.Load(context.Background(), third, &rec)
	if reason := store.ReasonOf(err); reason.Kind != store.Abandoned {
		t.Errorf("the ended one: %v", err)
	}
	p.stop()
}
