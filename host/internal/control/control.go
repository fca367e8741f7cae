// Package control is what a host and its workers say to each other, beside requests:
// over a Unix socket in a folder that only the host's user can enter, a connection for
// each worker, a message of JSON in each line. A worker that knows nothing of it is an
// ordinary web application.
//
// The worker says hello as soon as it runs, and waits for welcome before it listens, so
// that it is not taken for an application that is ready when its port is open. Then
// it says ready, and live every few seconds. When a successor is ready, the host sends
// successor, waits a moment for prepared, and gives the requests to the successor.
// When the old worker has no request any more, the host sends handover, waits for
// handed, and ends it by SIGTERM. The successor gets gone. Without a successor there
// is only handover. A worker may ask why at any time.
package control

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// The environment variables of a worker, beside PORT.
const (
	WorkerVar = "HOLDFAST_WORKER" // its number, from 1
	HostVar   = "HOLDFAST_HOST"   // path of the host's socket
	RunVar    = "HOLDFAST_RUN"    // names this process to the host
)

// A Message is a line in either direction. Fields that its kind does not name are
// zero.
type Message struct {
	Kind Kind `json:"kind"`

	// Run is the worker's RunVar, in Hello.
	Run string `json:"run,omitempty"`

	// Live is how many sessions would be lost if the worker died now, in Live.
	Live int `json:"live,omitempty"`
	// Moved, Left and Lost are in Handed: how many sessions the successor has got,
	// how many are in a store that outlives the worker, and how many are lost.
	Moved int `json:"moved,omitempty"`
	Left  int `json:"left,omitempty"`
	Lost  int `json:"lost,omitempty"`

	// Worker is the receiver's number, in Welcome; in Why that of the ends that are
	// asked for, or 0 for all.
	Worker int `json:"worker,omitempty"`
	// Socket is where the worker may listen for its successor, in Welcome.
	Socket string `json:"socket,omitempty"`
	// Peer is the predecessor in Welcome, where it still runs and has said hello, and
	// in Gone; the successor in Successor.
	Peer *Peer `json:"peer,omitempty"`
	// Clean says that the predecessor had answered Handover before it ended, in Gone.
	Clean bool `json:"clean,omitempty"`

	// Ask is the number of a question, repeated in its answer.
	Ask int64 `json:"ask,omitempty"`
	// Since bounds the ends that are asked for, in Why.
	Since time.Time `json:"since,omitzero"`
	// Ends are in Because, the newest first and at most MaxEnds; in Welcome the last
	// one of this worker number before its predecessor, if one is known, and in Gone
	// that of the predecessor.
	Ends []End `json:"ends,omitempty"`
}

// A Peer is a process of the same worker number.
type Peer struct {
	PID    int    `json:"pid"`
	Socket string `json:"socket"`
}

// An End is how a process of a worker ended, or why it is about to.
type End struct {
	Time   time.Time `json:"time"`
	Worker int       `json:"worker"`
	PID    int       `json:"pid"`
	Reason string    `json:"reason"` // a host.Reason
	Detail string    `json:"detail"`
	// Lost is how many sessions were lost with it, or -1 if that is not known.
	Lost int `json:"lost"`
}

// A Kind says what a message is about.
type Kind string

// From the worker.
const (
	// Hello is the first message.
	Hello Kind = "hello"
	// Ready says that requests can come. A worker that has said hello gets none
	// before.
	Ready Kind = "ready"
	// Live says how many sessions there are to lose: now and then, if it has changed.
	Live Kind = "live"
	// Prepared answers Successor.
	Prepared Kind = "prepared"
	// Handed answers Handover, and is the last message.
	Handed Kind = "handed"
	// Why asks the journal how workers ended.
	Why Kind = "why"
)

// From the host.
const (
	// Welcome answers Hello.
	Welcome Kind = "welcome"
	// Successor says that another process is about to get the requests.
	Successor Kind = "successor"
	// Handover says that no request is left. What the worker still has is to be given
	// away, and Handed to be said.
	Handover Kind = "handover"
	// Gone says that the predecessor has ended.
	Gone Kind = "gone"
	// Because answers Why.
	Because Kind = "because"
)

const (
	// MaxEnds bounds the answer to Why.
	MaxEnds = 100
	// maxLine bounds a message.
	maxLine = 1 << 20
	// sendWithin is how long a message may take to be written.
	sendWithin = 5 * time.Second
)

// A Link is one end of the connection between host and worker.
type Link struct {
	conn    net.Conn
	lines   *bufio.Scanner
	writing sync.Mutex
}

// NewLink returns the end that c is.
func NewLink(c net.Conn) *Link {
	l := &Link{conn: c, lines: bufio.NewScanner(c)}
	l.lines.Buffer(nil, maxLine)
	return l
}

// Send writes m. Several goroutines may call it at a time.
func (l *Link) Send(m Message) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.conn.SetWriteDeadline(time.Now().Add(sendWithin)); err != nil {
		return err
	}
	_, err = l.conn.Write(append(line, '\n'))
	return err
}

// Receive waits for a message; one goroutine at a time calls it. The error is io.EOF
// when the other side has closed.
func (l *Link) Receive() (Message, error) {
	var m Message
	if !l.lines.Scan() {
		if err := l.lines.Err(); err != nil {
			return m, err
		}
		return m, io.EOF
	}
	if err := json.Unmarshal(l.lines.Bytes(), &m); err != nil {
		return m, fmt.Errorf("a line on the control socket is no message: %w", err)
	}
	return m, nil
}

// Close closes the connection.
func (l *Link) Close() error { return l.conn.Close() }
