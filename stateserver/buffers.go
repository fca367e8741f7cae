package stateserver

import "sync"

// Buffers that connections have only while there is something in them: most
// connections are idle most of the time.

// buffers are what a connection reads into and writes from. They are reused, so that
// a request of the usual size allocates nothing.
type buffers struct {
	in   []byte
	out  []byte
	body []byte // of the record that was read
}

var bufferPool = sync.Pool{New: func() any {
	return &buffers{in: make([]byte, smallBuffer), out: make([]byte, 0, smallBuffer)}
}}

// unpark gets buffers.
func (c *conn) unpark() {
	c.buffers = bufferPool.Get().(*buffers)
	c.rec.Body = c.body
	if n := heldBy(cap(c.in), cap(c.out)); n > 0 {
		c.s.buffered.Add(n)
		c.held = n
	}
}

// park gives them back. Whatever is in them is lost.
func (c *conn) park() {
	c.hold(0, 0)
	b := c.buffers
	b.out, b.body = b.out[:0], c.rec.Body[:0]
	c.buffers, c.rec.Body = nil, nil
	if cap(b.in) > keepBuffer || cap(b.out) > keepBuffer || cap(b.body) > keepBuffer {
		return
	}
	bufferPool.Put(b)
}

// heldBy is how much of [Server.MaxBuffered] buffers of these sizes take: those of
// the usual size do not count.
func heldBy(in, out int) (n int64) {
	if in > freeBuffer {
		n += int64(in)
	}
	if out > freeBuffer {
		n += int64(out)
	}
	return n
}

// hold reports whether the connection's buffers may have these sizes.
func (c *conn) hold(in, out int) bool {
	n := heldBy(in, out)
	if n == c.held {
		return true
	}
	if c.s.buffered.Add(n-c.held) > c.s.MaxBuffered && n > c.held {
		c.s.buffered.Add(c.held - n)
		return false
	}
	c.held = n
	return true
}
