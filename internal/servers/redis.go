package servers

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// RedisOptions are the settings of a private Redis.
type RedisOptions struct {
	// TCP lets it listen on a port of the loopback interface instead of a Unix socket.
	TCP bool
	// Durable lets it keep what it was told over a crash, each command synced to its
	// append-only file before its reply. Without, it keeps nothing.
	Durable bool
	// Settings are further ones, as redis.conf has them ("maxmemory 10mb").
	Settings []string
}

// A Redis is a private Redis server.
type Redis struct {
	*Process
	network, addr string
}

// StartRedis starts Redis, on a Unix socket unless o says otherwise. Nil options are
// fine.
func StartRedis(t testing.TB, o *RedisOptions) *Redis {
	t.Helper()
	if o == nil {
		o = new(RedisOptions)
	}
	dir := Folder(t)
	s := &Redis{network: "unix", addr: filepath.Join(dir, "s")}
	settings := []string{"dir " + dir, "save ''", "enable-debug-command yes"}
	if o.TCP {
		port := Port(t)
		s.network, s.addr = "tcp", fmt.Sprint("127.0.0.1:", port)
		settings = append(settings, fmt.Sprint("port ", port), "bind 127.0.0.1")
	} else {
		settings = append(settings, "port 0", "unixsocket "+s.addr)
	}
	if o.Durable {
		settings = append(settings, "appendonly yes", "appendfsync always")
	}
	s.Process = startRedis(t, dir, s, "", append(settings, o.Settings...))
	return s
}

// startRedis starts redis-server with settings, in one of its modes. They are in a file,
// which it may rewrite.
func startRedis(t testing.TB, dir string, s *Redis, mode string, settings []string) *Process {
	t.Helper()
	config := filepath.Join(dir, "conf")
	err := os.WriteFile(config, []byte(strings.Join(settings, "\n")+"\n"), 0o644)
	if owner, _ := serverUser(); err == nil && owner != nil {
		err = os.Chown(config, owner.uid, owner.gid)
	}
	if err != nil {
		t.Fatal(err)
	}
	args := []string{config}
	if mode != "" {
		args = append(args, mode)
	}
	return Start(t, Command{Program: Program(t, "redis-server", "valkey-server"), Args: args, Dir: dir, Ready: s.ready})
}

// Addr returns the path of its socket, or its host and port.
func (s *Redis) Addr() string { return s.addr }

// URL returns its address as redisstore.Open has it.
func (s *Redis) URL() string {
	if s.network == "unix" {
		return "redis+unix://" + s.addr
	}
	return "redis://" + s.addr
}

// ready reports whether it answers, and has loaded its data.
func (s *Redis) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	reply, err := s.command(ctx, "PING")
	if err == nil && reply != "PONG" {
		err = fmt.Errorf("PING: %s", reply)
	}
	return err
}

// Do sends it a command and returns the reply as redis-cli prints it: a list has a line
// for each element, and an error fails the test.
func (s *Redis) Do(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	reply, err := s.command(ctx, args...)
	if err != nil {
		t.Fatalf("%s of Redis at %s: %v", strings.Join(args, " "), s.addr, err)
	}
	return reply
}

// Try is Do of a server that may not answer, or refuse.
func (s *Redis) Try(ctx context.Context, args ...string) (string, error) {
	return s.command(ctx, args...)
}

func (s *Redis) command(ctx context.Context, args ...string) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, s.network, s.addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	w := bufio.NewWriter(conn)
	fmt.Fprintf(w, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(w, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if err := w.Flush(); err != nil {
		return "", err
	}
	return readReply(bufio.NewReader(conn))
}

// readReply reads a reply of RESP 2.
func readReply(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	kind, line := line[0], strings.TrimRight(line[1:], "\r\n")
	switch kind {
	case '+', ':':
		return line, nil
	case '-':
		return "", fmt.Errorf("%s", line)
	}
	n, err := strconv.Atoi(line)
	if err != nil || n < 0 {
		return "", err
	}
	if kind == '$' {
		b := make([]byte, n+2)
		for read := 0; read < len(b); {
			k, err := r.Read(b[read:])
			if err != nil {
				return "", err
			}
			read += k
		}
		return string(b[:n]), nil
	}
	lines := make([]string, n)
	for i := range lines {
		if lines[i], err = readReply(r); err != nil {
			return "", err
		}
	}
	return strings.Join(lines, "\n"), nil
}
