package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"

	"github.com/holdfast-session/holdfast/internal/load"
)

// What is said to the peers on the wire, so that the same load is put on them as on
// the state server: load.Drivers of bytes that were written before.

// timeoutMillis is how long a session lives at the peers.
const timeoutMillis = 20 * 60 * 1000

// keyLength is how long a session's name at a peer is: as long as an ID of ours.
const keyLength = 24

// sessionKey is a session's name at a peer.
func sessionKey(conn, session int) string { return fmt.Sprintf("bench%06d%013d", conn, session) }

// A template is a command with gaps for the session's name.
type template [][]byte

func newTemplate(command func(key string) []byte) template {
	gap := strings.Repeat("?", keyLength)
	return bytes.Split(command(gap), []byte(gap))
}

func (t template) appendTo(b, key []byte) []byte {
	for i, piece := range t {
		if i > 0 {
			b = append(b, key...)
		}
		b = append(b, piece...)
	}
	return b
}

// echoDriver asks the echo server: bytes of the length of our requests, for bytes of
// the length of our answers.
type echoDriver struct {
	out    []byte
	depth  int
	answer int
}

func (d *echoDriver) Next(b []byte, finish bool) ([]byte, int) {
	if finish {
		return b, 0
	}
	return append(b, d.out...), d.depth
}

func (d *echoDriver) Answer(b []byte) (int, load.Answer, error) {
	if len(b) < d.answer {
		return 0, load.Answer{}, nil
	}
	return d.answer, load.Answer{}, nil
}

// echoDial connects to the echo server and tells it the lengths.
func echoDial(v *server, request, answer int) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		nc, err := v.dial(ctx)
		if err != nil {
			return nil, err
		}
		hello := binary.LittleEndian.AppendUint32(nil, uint32(request))
		hello = binary.LittleEndian.AppendUint32(hello, uint32(answer))
		if _, err := nc.Write(hello); err != nil {
			nc.Close()
			return nil, err
		}
		return nc, nil
	}
}

// A wireDriver sends commands about sessions of its own, step by step: first each
// place in the pipeline its first command, then each its second.
type wireDriver struct {
	rand  *rand.Rand
	keys  []byte // one behind the other, so that a million cost the collector nothing
	steps []template
	// answer returns the length of the answer at the start of b, or 0; an answer
	// that grants nothing is an error.
	answer func(b []byte) (int, error)
	picked []int // by place in the pipeline
	step   int
}

func (d *wireDriver) key(k int) []byte { return d.keys[k*keyLength : (k+1)*keyLength] }

func (d *wireDriver) Next(b []byte, finish bool) ([]byte, int) {
	if d.step == 0 {
		if finish {
			return b, 0
		}
		count := len(d.keys) / keyLength
		first := d.rand.IntN(count)
		for i := range d.picked {
			d.picked[i] = (first + i) % count
		}
	}
	for _, k := range d.picked {
		b = d.steps[d.step].appendTo(b, d.key(k))
	}
	d.step = (d.step + 1) % len(d.steps)
	return b, len(d.picked)
}

func (d *wireDriver) Answer(b []byte) (int, load.Answer, error) {
	n, err := d.answer(b)
	return n, load.Answer{}, err
}

// A fillDriver sends one command for each session, many at a time, and ends.
type fillDriver struct {
	wireDriver
	next int
}

func (d *fillDriver) Next(b []byte, _ bool) ([]byte, int) {
	n := min(32, len(d.keys)/keyLength-d.next)
	for range n {
		b = d.steps[0].appendTo(b, d.key(d.next))
		d.next++
	}
	return b, n
}

// resp writes a command of Redis.
func resp(args ...string) []byte {
	b := append([]byte{'*'}, strconv.Itoa(len(args))...)
	for _, a := range args {
		b = append(b, "\r\n$"...)
		b = strconv.AppendInt(b, int64(len(a)), 10)
		b = append(b, "\r\n"...)
		b = append(b, a...)
	}
	return append(b, "\r\n"...)
}

// respAnswer returns the length of an answer of Redis. Errors, nulls and arrays are
// what the commands here answer when they do not do what they should.
func respAnswer(b []byte) (int, error) {
	end := bytes.Index(b, []byte("\r\n"))
	if end < 0 {
		return 0, nil
	}
	line := b[1:end]
	switch b[0] {
	case '+', ':':
		return end + 2, nil
	case '$':
		n, err := strconv.Atoi(string(line))
		if err != nil || n < 0 {
			return 0, fmt.Errorf("redis answered nothing: %q", b[:end])
		}
		if len(b) < end+2+n+2 {
			return 0, nil
		}
		return end + 2 + n + 2, nil
	}
	return 0, fmt.Errorf("redis refused: %q", b[:end])
}

// memcachedAnswer returns the length of an answer of memcached.
func memcachedAnswer(b []byte) (int, error) {
	end := bytes.Index(b, []byte("\r\n"))
	if end < 0 {
		return 0, nil
	}
	if string(b[:end]) == "STORED" {
		return end + 2, nil
	}
	f := bytes.Fields(b[:end])
	if len(f) != 4 || string(f[0]) != "VALUE" {
		return 0, fmt.Errorf("memcached refused: %q", b[:end])
	}
	n, err := strconv.Atoi(string(f[3]))
	if err != nil || n < 0 {
		return 0, fmt.Errorf("memcached answered %q", b[:end])
	}
	const tail = "\r\nEND\r\n"
	if len(b) < end+2+n+len(tail) {
		return 0, nil
	}
	return end + 2 + n + len(tail), nil
}

// The lock scripts do at Redis what a session needs, as its users write them: one
// round trip that takes the lock, by comparing tokens and with a time after which it
// falls, and reads; one that writes and gives the lock up.
const (
	acquireScript = `local held = redis.call('GET', KEYS[2])
if held and held ~= ARGV[1] then return redis.error_reply('LOCKED') end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
local data = redis.call('GET', KEYS[1])
if data then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return data`
	storeScript = `local held = redis.call('GET', KEYS[2])
if held and held ~= ARGV[1] then return redis.error_reply('LOCK LOST') end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if held then redis.call('DEL', KEYS[2]) end
return 1`
	lockMillis = "20000"
)

// loadScripts gives Redis the scripts and returns their names.
func loadScripts(ctx context.Context, v *server) (acquire, store string, err error) {
	nc, err := v.dial(ctx)
	if err != nil {
		return "", "", err
	}
	defer nc.Close()
	var names []string
	for _, script := range []string{acquireScript, storeScript} {
		if _, err := nc.Write(resp("SCRIPT", "LOAD", script)); err != nil {
			return "", "", err
		}
		b := make([]byte, 0, 256)
		for {
			n, err := nc.Read(b[len(b):cap(b)])
			b = b[:len(b)+n]
			if size, bad := respAnswer(b); bad != nil || err != nil {
				return "", "", errors.Join(bad, err)
			} else if size > 0 {
				_, name, _ := bytes.Cut(b[:size-2], []byte("\r\n"))
				names = append(names, string(name))
				break
			}
		}
	}
	return names[0], names[1], nil
}
