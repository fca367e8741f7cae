package serve

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/holdfast-session/holdfast/stateserver"
)

// Sockets in the data folder.
const (
	stateSocket   = "state.sock"
	adminSocket   = "admin.sock"
	controlSocket = "control.sock"
)

// maxSocketPath is a length that every platform takes for a socket's path.
const maxSocketPath = 100

// inData returns the address of a socket in the data folder, or "" where there can be
// none.
func (c *Config) inData(name string) string {
	path := filepath.Join(c.Data, name)
	if !c.hasFolder() || runtime.GOOS == "windows" || len(path) > maxSocketPath {
		return ""
	}
	return "unix:" + path
}

// occupied is what to do about a server that has the folder, if one has.
func (c *Config) occupied() string {
	path, ok := strings.CutPrefix(c.inData(controlSocket), "unix:")
	if !ok {
		return ""
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return ""
	}
	conn.Close()
	return "; stop it, or let this one take its place with --takeover"
}

// What a listener is for.
const (
	roleState = "state"
	roleAdmin = "admin"
)

// A listener is one that clients connect to, or the admin listener.
type listener struct {
	net.Listener        // without TLS
	role         string // roleState or roleAdmin
	name         string // as configured
}

// addrName is an address in the form of --listen.
func addrName(a net.Addr) string {
	if a.Network() == "unix" {
		return "unix:" + a.String()
	}
	return a.String()
}

// is reports whether l listens where the configuration says addr.
func (l *listener) is(role, addr string) bool {
	if l.role != role {
		return false
	}
	if l.name == addr {
		return true
	}
	network, address, err := stateserver.ParseAddr(addr)
	if err != nil || network == "unix" {
		return err == nil && addrName(l.Addr()) == addr
	}
	tcp, err := net.ResolveTCPAddr(network, address)
	return err == nil && tcp.Port != 0 && tcp.String() == l.Addr().String()
}

// listen opens what the configuration names, taking from those that are open already
// what fits. It closes what it does not take and, if it fails, everything.
func (c *Config) listen(open []*listener) (taken []*listener, err error) {
	defer func() {
		closeAll(open)
		if err != nil {
			closeAll(taken)
			taken = nil
		}
	}()
	if c.hasFolder() { // sockets are in it
		if err := os.MkdirAll(c.Data, 0o700); err != nil {
			return nil, fmt.Errorf("the data folder cannot be made; name another with --data: %w", err)
		}
		if err := writable(c.Data); err != nil {
			return nil, fmt.Errorf("this user cannot write to the data folder; change whose it is, or name another with --data: %w", err)
		}
	}
	want := func(role, addr string) error {
		for i, l := range open {
			if l.is(role, addr) {
				taken = append(taken, &listener{l.Listener, role, addr})
				open = append(open[:i:i], open[i+1:]...)
				return nil
			}
		}
		l, err := stateserver.Listen(addr)
		if err != nil {
			return &ListenError{role, addr, err}
		}
		taken = append(taken, &listener{l, role, addr})
		return nil
	}
	for _, addr := range c.Listen {
		if err := want(roleState, addr); err != nil {
			return taken, err
		}
	}
	if c.Admin != AdminOff {
		if err := want(roleAdmin, c.Admin); err != nil {
			return taken, err
		}
	}
	for _, l := range taken {
		if err := c.mayListen(l.role, l.Addr()); err != nil {
			return taken, err
		}
	}
	return taken, nil
}

// writable refuses a folder in which this user may not make files. (Where there is no room
// for any, the store finds out, and says what to do.)
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".holdfast-")
	if err != nil {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
			return err
		}
		return nil
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// A ListenError is a listener that cannot be had.
type ListenError struct {
	role string
	Addr string
	Err  error
}

// Setting is the name of the setting that has the address.
func (e *ListenError) Setting() string {
	if e.role == roleAdmin {
		return "admin"
	}
	return "listen"
}

func (e *ListenError) Error() string { return fmt.Sprintf("cannot listen on %s: %v", e.Addr, e.Err) }
func (e *ListenError) Unwrap() error { return e.Err }

// mayListen refuses what is open to other machines without anything that keeps them
// out.
func (c *Config) mayListen(role string, addr net.Addr) error {
	tcp, ok := addr.(*net.TCPAddr)
	switch {
	case !ok || tcp.IP.IsLoopback():
	case role == roleAdmin && !c.AdminRemote:
		return fmt.Errorf("--admin: %s can be reached from other machines, which may not see the figures of this one: use 127.0.0.1, or add --admin-remote", addr)
	case role == roleState && !c.AllowRemote && !c.protected():
		return fmt.Errorf("%s can be reached from other machines, and nothing asks who they are: listen on 127.0.0.1, "+
			"or give the applications tokens (see holdfast token) or certificates (--tls-client-ca), "+
			"or add --allow-remote where a firewall lets only your web servers in", addr)
	}
	return nil
}

// Check looks at what the configuration names, its files and where it is to listen,
// and opens nothing.
func (c *Config) Check() error {
	if _, err := c.certificates(slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	check := func(role, addr string) error {
		network, address, err := stateserver.ParseAddr(addr)
		if err != nil || network != "tcp" {
			return err
		}
		tcp, err := net.ResolveTCPAddr(network, address)
		if err != nil {
			return err
		}
		return c.mayListen(role, tcp)
	}
	for _, addr := range c.Listen {
		if err := check(roleState, addr); err != nil {
			return err
		}
	}
	if c.Admin == AdminOff {
		return nil
	}
	return check(roleAdmin, c.Admin)
}

// closeAll closes listeners that are not served.
func closeAll(all []*listener) {
	for _, l := range all {
		l.Close()
	}
}
