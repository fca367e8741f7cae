package host

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/host/internal/control"
)

// helloWithin is how long a connection to the control socket may say nothing.
const helloWithin = 10 * time.Second

// A controlServer is the host's end of what it says to its workers. A nil one is that
// of a host that cannot talk.
type controlServer struct {
	h        *Host
	dir      string // private
	listener net.Listener
	serving  sync.WaitGroup
}

// listenControl opens the control socket in a folder of its own.
func listenControl(h *Host) (*controlServer, error) {
	dir, err := os.MkdirTemp("", "holdfast-host-")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", filepath.Join(dir, "control.sock"))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	c := &controlServer{h: h, dir: dir, listener: l}
	c.serving.Go(func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil { // too many open files, and the like
				h.log().Error("the control socket has failed for a moment", "err", err)
				time.Sleep(time.Second)
				continue
			}
			c.serving.Go(func() { c.serve(control.NewLink(conn), conn) })
		}
	})
	return c, nil
}

// close ends it when all workers have ended.
func (c *controlServer) close() {
	if c == nil {
		return
	}
	c.listener.Close()
	c.serving.Wait()
	os.RemoveAll(c.dir)
}

func (c *controlServer) folder() string {
	if c == nil {
		return ""
	}
	return c.dir
}

// environment is what p needs to say hello.
func (c *controlServer) environment(p *process) []string {
	env := []string{control.RunVar + "=" + p.run}
	if c != nil {
		env = append(env, control.HostVar+"="+c.listener.Addr().String())
	}
	return env
}

// peer is p as the other worker gets to know it; nil if p does not talk.
func (c *controlServer) peer(p *process) *control.Peer {
	if c == nil || p == nil {
		return nil
	}
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	if p.link == nil {
		return nil
	}
	return &control.Peer{PID: p.pid, Socket: c.socket(p)}
}

// socket is where p may listen for its successor.
func (c *controlServer) socket(p *process) string { return filepath.Join(c.dir, p.run+".sock") }

// serve talks to a worker until it hangs up.
func (c *controlServer) serve(link *control.Link, conn net.Conn) {
	defer link.Close()
	_ = conn.SetReadDeadline(time.Now().Add(helloWithin))
	first, err := link.Receive()
	if err != nil || first.Kind != control.Hello {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	h := c.h
	h.mu.Lock()
	p := h.all[first.Run]
	if p == nil || p.link != nil { // somebody else, or its child
		h.mu.Unlock()
		return
	}
	p.link = link
	predecessor := p.predecessor
	h.mu.Unlock()
	close(p.joined)
	defer close(p.settled)
	// A worker that is cut off is an ordinary one from then on.
	welcome := control.Message{Kind: control.Welcome, Worker: p.worker, Socket: c.socket(p), Peer: c.peer(predecessor)}
	if ends := h.ends(p.worker, time.Time{}, 1); len(ends) > 0 {
		welcome.Ends = ends
	}
	if link.Send(welcome) != nil {
		return
	}
	once := make(map[control.Kind]bool)
	for {
		m, err := link.Receive()
		if err != nil {
			return
		}
		repeated := once[m.Kind]
		once[m.Kind] = true
		switch m.Kind {
		case control.Ready:
			if !repeated {
				close(p.said)
			}
		case control.Live:
			h.mu.Lock()
			p.live = m.Live
			h.mu.Unlock()
		case control.Prepared:
			if !repeated {
				close(p.prepared)
			}
		case control.Handed:
			h.mu.Lock()
			p.sessions = &Sessions{Carried: m.Moved + m.Left, Lost: m.Lost}
			h.mu.Unlock()
			return
		case control.Why:
			because := control.Message{Kind: control.Because, Ask: m.Ask, Ends: h.ends(m.Worker, m.Since, control.MaxEnds)}
			if link.Send(because) != nil {
				return
			}
		}
	}
}

// tell sends m to p, and reports whether p listens.
func (h *Host) tell(p *process, m control.Message) bool {
	h.mu.Lock()
	link := p.link
	h.mu.Unlock()
	return link != nil && link.Send(m) == nil
}

// lastWords waits a moment for what p, which has ended, has said last.
func (h *Host) lastWords(p *process) {
	h.mu.Lock()
	link := p.link
	h.mu.Unlock()
	if link == nil {
		return
	}
	late := time.NewTimer(outputGrace)
	defer late.Stop()
	select {
	case <-p.settled:
	case <-late.C: // a descendant has the connection
		link.Close()
	}
}

// ends returns how processes of a worker, or of all if it is 0, ended since then, or
// are about to, the newest first.
func (h *Host) ends(worker int, since time.Time, most int) []control.End {
	var all []control.End
	for _, e := range slices.Backward(h.book.all()) {
		if e.Time.Before(since) || len(all) == most {
			break
		}
		if e.Event != Ended && e.Event != Recycled || worker != 0 && e.Worker != worker {
			continue
		}
		end := control.End{Time: e.Time, Worker: e.Worker, PID: e.PID, Reason: string(e.Reason), Detail: e.Detail, Lost: -1}
		if e.Sessions != nil {
			end.Lost = e.Sessions.Lost
		}
		if end.Lost == 0 && (e.Reason == Crashed || e.Reason == Killed || e.Reason == HostDied) {
			end.Lost = -1 // it had none when it last said so, and could say no more
		}
		all = append(all, end)
	}
	return all
}
