package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The servers that the rows need, each a process of its own on a free port or a
// socket of its own, started for a row and ended with it.

// A server is one of them.
type server struct {
	network, address string
	pid              int
	dir              string // where it keeps what it keeps
	admin            string // where ours tells about itself, if it was told to
}

// addr is its address as stateserver.ParseAddr reads it.
func (s *server) addr() string {
	if s.network == "unix" {
		return "unix:" + s.address
	}
	return s.address
}

func (s *server) dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, s.network, s.address)
}

// errAbsent means that a program which a row would compare with is not installed.
var errAbsent = errors.New("not installed")

//go:embed echo/echo.c
var echoSource []byte

// place chooses where a server listens: a new socket, or a port that was free a
// moment ago.
func (s *suite) place(network string) (*server, error) {
	dir, err := s.temp("server-")
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		return &server{network: network, address: filepath.Join(dir, "s"), dir: dir}, nil
	}
	// Below the ports that the kernel gives to connections, of which there are many.
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(12_000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return &server{network: network, address: address, dir: dir}, nil
		}
	}
	return nil, errors.New("there is no free port from 20000 to 32000")
}

// start starts a command that is ended with the row.
func (s *suite) start(cmd *exec.Cmd) error {
	var said bytes.Buffer
	if cmd.Stderr == nil {
		cmd.Stderr = &said
	}
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	s.later(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
		defer kill.Stop()
		if err := cmd.Wait(); err != nil && said.Len() > 0 && !strings.HasPrefix(cmd.ProcessState.String(), "signal: ") {
			fmt.Fprintf(s.log, "%s: %v: %s\n", filepath.Base(cmd.Path), err, said.String())
		}
	})
	return nil
}

// await waits until a server takes connections.
func (v *server) await() error {
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		nc, err := net.Dial(v.network, v.address)
		if err == nil {
			return nc.Close()
		}
		if time.Since(begin) > 10*time.Second {
			return fmt.Errorf("the server on %s does not answer: %w", v.network, err)
		}
	}
}

// holdfast starts holdfast serve with further arguments, --memory for instance.
func (s *suite) holdfast(network string, args ...string) (*server, error) {
	binary, err := s.holdfastBinary()
	if err != nil {
		return nil, err
	}
	v, err := s.place(network)
	if err != nil {
		return nil, err
	}
	listen := "127.0.0.1:0"
	if network == "unix" {
		listen = v.addr()
	}
	cmd := exec.Command(binary, append([]string{"serve", "--listen", listen}, args...)...)
	cmd.Dir = v.dir
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := s.start(cmd); err != nil {
		return nil, err
	}
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	at, ok := strings.CutPrefix(strings.TrimSpace(line), "holdfast: state server ready on ")
	if err != nil || !ok {
		return nil, fmt.Errorf("holdfast serve %s: it did not become ready: %s%s", strings.Join(args, " "), line, said.String())
	}
	go io.Copy(io.Discard, r)
	if network == "tcp" {
		v.address = at
	}
	v.pid = cmd.Process.Pid
	return v, nil
}

func (s *suite) holdfastBinary() (string, error) {
	return s.build("holdfast", func(to string) *exec.Cmd {
		cmd := exec.Command("go", "build", "-o", to, "./cmd/holdfast")
		cmd.Dir = ".."
		return cmd
	})
}

// serveHas reports whether this build of holdfast serve knows a flag.
func (s *suite) serveHas(flag string) (bool, error) {
	binary, err := s.holdfastBinary()
	if err != nil {
		return false, err
	}
	help, err := exec.Command(binary, "serve", "--help").CombinedOutput()
	return bytes.Contains(help, []byte(" "+flag+" ")), err
}

// build makes a binary, once.
func (s *suite) build(name string, command func(to string) *exec.Cmd) (string, error) {
	if path, ok := s.built[name]; ok {
		return path, nil
	}
	path := filepath.Join(s.dir, name)
	if out, err := command(path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w: %s", name, err, out)
	}
	s.built[name] = path
	return path, nil
}

// echo starts the C echo server.
func (s *suite) echo(network string) (*server, error) {
	binary, err := s.echoBinary()
	if err != nil {
		return nil, err
	}
	v, err := s.place(network)
	if err != nil {
		return nil, err
	}
	where := "0"
	if network == "unix" {
		where = v.address
	}
	cmd := exec.Command(binary, network, where)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.start(cmd); err != nil {
		return nil, err
	}
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the echo server did not start: %w", err)
	}
	if network == "tcp" {
		v.address = "127.0.0.1:" + strings.TrimSpace(port)
	}
	v.pid = cmd.Process.Pid
	return v, nil
}

func (s *suite) echoBinary() (string, error) {
	if _, err := exec.LookPath("cc"); err != nil {
		s.missing("the C echo server: there is no cc")
		return "", errAbsent
	}
	return s.build("echo", func(to string) *exec.Cmd {
		cmd := exec.Command("cc", "-O2", "-x", "c", "-", "-o", to)
		cmd.Stdin = bytes.NewReader(echoSource)
		return cmd
	})
}

// redis starts Redis: with durable empty it writes nothing to disk, else it is the
// value of appendfsync.
func (s *suite) redis(network, durable string) (*server, error) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		s.missing("Redis: there is no redis-server")
		return nil, errAbsent
	}
	v, err := s.place(network)
	if err != nil {
		return nil, err
	}
	args := []string{"--save", "", "--dir", v.dir, "--logfile", filepath.Join(v.dir, "log")}
	if network == "unix" {
		args = append(args, "--port", "0", "--unixsocket", v.address)
	} else {
		_, port, err := net.SplitHostPort(v.address)
		if err != nil {
			return nil, err
		}
		args = append(args, "--port", port, "--bind", "127.0.0.1")
	}
	if durable != "" {
		args = append(args, "--appendonly", "yes", "--appendfsync", durable)
	}
	cmd := exec.Command(binary, args...)
	cmd.Dir = v.dir
	if err := s.start(cmd); err != nil {
		return nil, err
	}
	v.pid = cmd.Process.Pid
	return v, v.await()
}

// memcached starts memcached with one thread, which costs it the least.
func (s *suite) memcached(network string) (*server, error) {
	binary, err := exec.LookPath("memcached")
	if err != nil {
		s.missing("memcached: not installed")
		return nil, errAbsent
	}
	v, err := s.place(network)
	if err != nil {
		return nil, err
	}
	args := []string{"-t", "1", "-m", "1024", "-I", "1m"}
	if os.Getuid() == 0 {
		args = append(args, "-u", "root")
	}
	if network == "unix" {
		args = append(args, "-s", v.address)
	} else {
		host, port, err := net.SplitHostPort(v.address)
		if err != nil {
			return nil, err
		}
		args = append(args, "-l", host, "-p", port, "-U", "0")
	}
	cmd := exec.Command(binary, args...)
	if err := s.start(cmd); err != nil {
		return nil, err
	}
	v.pid = cmd.Process.Pid
	return v, v.await()
}

// versionOf returns the first line that a program says about itself.
func versionOf(program string, args ...string) string {
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}
