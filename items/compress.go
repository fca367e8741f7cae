package items

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Compression is configuration, as in ASP.NET's compressionEnabled: nothing in
// the bytes says whether they are compressed, so all workers must agree.

// A flate writer takes 600 KB and a reader 40 KB, so both are used again.
var (
	deflaters = sync.Pool{New: func() any {
		w, err := flate.NewWriter(nil, flate.DefaultCompression)
		if err != nil {
			panic(err) // the level is a constant
		}
		return w
	}}
	inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}
)

// Deflate appends body, compressed as ASP.NET does it, to dst and returns the
// extended slice: raw DEFLATE (RFC 1951), then one byte FF.
func Deflate(dst, body []byte) []byte {
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	buf := bytes.NewBuffer(dst)
	w.Reset(buf)
	_, err := w.Write(body)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // a bytes.Buffer takes everything
	}
	return append(buf.Bytes(), endMark)
}

// Inflate appends the body that was compressed to dst and returns the extended
// slice. The body may have up to limit bytes, so that a few bytes cannot fill
// the memory. It fails, and returns dst as it was, if there is more, or if
// compressed is damaged, cut off, or not compressed at all.
func Inflate(dst, compressed []byte, limit int) ([]byte, error) {
	r := inflaters.Get().(io.ReadCloser)
	defer inflaters.Put(r)
	src := bytes.NewReader(compressed)
	if err := r.(flate.Resetter).Reset(src, nil); err != nil {
		return dst, fmt.Errorf("items: inflate: %w", err)
	}
	out, start := dst, len(dst)
	for {
		// One byte past the limit tells a body that is too large.
		room := limit - (len(out) - start) + 1
		if room <= 0 {
			return dst, fmt.Errorf("items: inflate: the body has more than %d bytes; raise the limit if it may", limit)
		}
		out = slices.Grow(out, min(room, 512))
		n, err := r.Read(out[len(out):min(cap(out), len(out)+room)])
		out = out[:len(out)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			return dst, fmt.Errorf("items: inflate: %w; is compression set in all workers alike?", err)
		}
	}
	if len(out)-start > limit {
		return dst, fmt.Errorf("items: inflate: the body has more than %d bytes; raise the limit if it may", limit)
	}
	if mark, err := src.ReadByte(); err != nil || mark != endMark || src.Len() > 0 {
		return dst, damaged(len(compressed)-1, "the end mark behind the compressed body is missing")
	}
	return out, nil
}
