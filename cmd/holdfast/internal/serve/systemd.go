package serve

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// What systemd and a service say to each other: sockets that are already open
// (sd_listen_fds(3)), and how the service is (sd_notify(3)).

// firstFD is the first descriptor that systemd passes on.
const firstFD = 3

// adminFD is the FileDescriptorName= of a socket for the admin listener. All others
// are for clients.
const adminFD = "admin"

// activated returns the listeners that systemd has opened for this process, if any.
func activated() ([]*listener, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name) // they are not for children
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 {
		return nil, fmt.Errorf("LISTEN_FDS=%s is no number of sockets", count)
	}
	named := strings.Split(names, ":")
	var all []*listener
	for i := range n {
		f := os.NewFile(uintptr(firstFD+i), "socket "+strconv.Itoa(i)+" of systemd")
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			closeAll(all)
			return nil, fmt.Errorf("the socket that systemd passes on as descriptor %d: %w; is it one of ListenStream=?", firstFD+i, err)
		}
		role := roleState
		if i < len(named) && named[i] == adminFD {
			role = roleAdmin
		}
		all = append(all, &listener{Listener: l, role: role, name: addrName(l.Addr())})
	}
	return all, nil
}

// notify tells systemd how this process is. Without systemd it does nothing.
func notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}
