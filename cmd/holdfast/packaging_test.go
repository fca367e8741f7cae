package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// What is in packaging/ fits the program.

func packaged(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "packaging", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\\\n", " ")
}

// settings are the lines of a unit file, and how often each name is there.
func settings(text string) map[string][]string {
	all := make(map[string][]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			all[name] = append(all[name], value)
		}
	}
	return all
}

// The example has every setting of the program, with its default or commented out, and
// the program takes it.
func TestExampleConfiguration(t *testing.T) {
	file := filepath.Join("..", "..", "packaging", "holdfast.yaml")
	p := start(t, "serve", "--check", "--config", file)
	if status := p.wait(); status != 0 {
		t.Fatalf("status %d: %s", status, p.stderr)
	}
	defaults := start(t, "serve", "--check")
	if status := defaults.wait(); status != 0 {
		t.Fatalf("status %d: %s", status, defaults.stderr)
	}
	value := regexp.MustCompile(`(?m)^([a-z-]+):(.*)$`)
	is := make(map[string]string)
	for _, m := range value.FindAllStringSubmatch(p.stdout.String(), -1) {
		is[m[1]] = m[2]
	}
	text := packaged(t, "holdfast.yaml")
	for _, m := range value.FindAllStringSubmatch(defaults.stdout.String(), -1) {
		if !regexp.MustCompile(`(?m)^#?` + m[1] + `:`).MatchString(text) {
			t.Errorf("the example lacks %s", m[1])
		}
		if m[1] == "listen" || m[1] == "data" || m[1] == "admin" {
			continue // each process has a folder of its own here
		}
		if is[m[1]] != m[2] {
			t.Errorf("the example has %s:%s, the default is%s", m[1], is[m[1]], m[2])
		}
	}
	if !strings.Contains(text, "\ntokens: []\n") {
		t.Error("the example lacks tokens")
	}
	// What is commented out is right, too, where it names no files.
	uncommented := regexp.MustCompile(`(?m)^#(  .*|listen:.*|data:.*|admin:.*)$`).ReplaceAllString(text, "$1")
	uncommented = strings.Replace(uncommented, "tokens: []", "tokens:", 1)
	second := filepath.Join(t.TempDir(), "holdfast.yaml")
	if err := os.WriteFile(second, []byte(uncommented), 0o600); err != nil {
		t.Fatal(err)
	}
	p = start(t, "serve", "--check", "--config", second)
	if status := p.wait(); status != 0 || !strings.Contains(p.stdout.String(), "name: shop") {
		t.Errorf("status %d: %s%s", status, p.stdout, p.stderr)
	}
}

func TestUnits(t *testing.T) {
	service, socket := settings(packaged(t, "systemd/holdfast.service")), settings(packaged(t, "systemd/holdfast.socket"))
	for name, want := range map[string]string{
		"Type": "notify", "ExecStart": "/usr/bin/holdfast serve --config /etc/holdfast/holdfast.yaml", "ExecReload": "/bin/kill -HUP $MAINPID",
		"StateDirectory": "holdfast", "DynamicUser": "yes", "ProtectSystem": "strict", "NoNewPrivileges": "yes", "MemoryDenyWriteExecute": "yes",
	} {
		if got := strings.Join(service[name], " "); got != want {
			t.Errorf("holdfast.service: %s=%s, want %s", name, got, want)
		}
	}
	if !strings.Contains(strings.Join(service["RestrictAddressFamilies"], " "), "AF_UNIX") {
		t.Error("holdfast.service: no unix sockets, which the control socket is one of")
	}
	if got := strings.Join(socket["ListenStream"], " "); !strings.HasPrefix(got, "127.0.0.1:42424 ") {
		t.Errorf("holdfast.socket: ListenStream=%s", got)
	}

	// systemd itself has a look, where it is.
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"holdfast.service", "holdfast.socket"} {
		text := strings.ReplaceAll(packaged(t, "systemd/"+name), "/usr/bin/holdfast", self) // it wants a program there
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", filepath.Join(dir, "holdfast.service"), filepath.Join(dir, "holdfast.socket")).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("holdfast")) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// The Dockerfile's command builds a program that needs nothing of an image, and what
// it says about how to run it is right.
func TestDockerfile(t *testing.T) {
	text := packaged(t, "Dockerfile")
	build := regexp.MustCompile(`(?m)^RUN (CGO_ENABLED=0) GOOS=\$TARGETOS GOARCH=\$TARGETARCH (go build .*) -o /out/holdfast (\./cmd/holdfast)$`).FindStringSubmatch(text)
	if build == nil {
		t.Fatal("no command that builds the program")
	}
	program := filepath.Join(t.TempDir(), "holdfast")
	args := strings.Fields(strings.ReplaceAll(build[2], `"`, ""))
	for i, arg := range args { // the shell's quotes hold two flags of the linker together
		if arg == "-ldflags=-s" {
			args = append(args[:i], append([]string{"-ldflags=-s -w"}, args[i+2:]...)...)
			break
		}
	}
	cmd := exec.Command(args[0], append(args[1:], "-o", program, build[3])...)
	cmd.Dir, cmd.Env = filepath.Join("..", ".."), append(os.Environ(), build[1])
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if runtime.GOOS == "linux" {
		head, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(head, []byte("/ld-linux")) {
			t.Error("the program wants a dynamic linker, which the image does not have")
		}
	}

	env := []string{"PATH=/none"}
	for _, m := range regexp.MustCompile(`(HOLDFAST_SERVE_[A-Z_]+|STATE_DIRECTORY)=(\S+)`).FindAllStringSubmatch(text[strings.Index(text, "\nENV "):], -1) {
		env = append(env, m[0])
	}
	check := func(more ...string) (string, error) {
		cmd := exec.Command(program, "serve", "--check")
		cmd.Env = append(env, more...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := check(); err == nil || !strings.Contains(out, "give the applications tokens") {
		t.Errorf("open to everybody: %v, %s", err, out)
	}
	for _, more := range [][]string{{"HOLDFAST_SERVE_ALLOW_REMOTE=true"}, {"HOLDFAST_SERVE_ALLOW_REMOTE=true", "HOLDFAST_SERVE_MEMORY=true"}} {
		out, err := check(more...)
		if err != nil || !strings.Contains(out, "listen: [':42424']") || !strings.Contains(out, "admin: unix:/var/lib/holdfast/admin.sock") {
			t.Errorf("%s: %v, %s", more, err, out)
		}
	}
	if out, err := check("HOLDFAST_SERVE_ALLOW_REMOTE=true"); err != nil || !strings.Contains(out, "data: /var/lib/holdfast\n") {
		t.Errorf("%v, %s", err, out)
	}
	for _, want := range []string{"\nUSER 65532:65532\n", "\nVOLUME /var/lib/holdfast\n", "CMD [\"/holdfast\", \"health\"]\n", "\nENTRYPOINT [\"/holdfast\"]\n", "\nFROM scratch\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the Dockerfile lacks %q", want)
		}
	}
}
