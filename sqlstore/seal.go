package sqlstore

import (
	"bytes"
	"compress/flate"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/holdfast-session/holdfast/store"
)

// How the content of a row is packed: what the column packing says.
const (
	packDeflated = 1 << iota // RFC 1951, without header or trailer
	packSealed               // encrypted; see packer.seal
)

// compressFrom is the size from which content is deflated.
const compressFrom = 256

// keyNumberSize is the size of what names the key in front of encrypted content.
const keyNumberSize = 4

// A packer compresses and encrypts content, and undoes it. It is safe for concurrent
// use.
type packer struct {
	max      int
	most     int64 // how large it may be when it is packed; 0 if the server says so itself
	compress bool
	keys     []sealKey
	deflater sync.Pool // of *flate.Writer
}

type sealKey struct {
	number [keyNumberSize]byte // tells it from the other keys; nothing about it
	aead   cipher.AEAD
}

func newPacker(o *Options) (*packer, error) {
	p := &packer{max: o.MaxBytes, compress: o.Compress}
	for _, key := range o.Keys {
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		k := sealKey{aead: aead}
		sum := sha256.Sum256(append([]byte("holdfast key number\x00"), key...))
		copy(k.number[:], sum[:])
		p.keys = append(p.keys, k)
	}
	return p, nil
}

// pack returns what is stored of a body, in the row with that id. It may be body itself.
func (p *packer) pack(id key, body []byte) (packing int64, items []byte, err error) {
	if p.max > 0 && len(body) > p.max {
		return 0, nil, fmt.Errorf("%w: it has %d bytes, and Options.MaxBytes is %d", store.ErrTooLarge, len(body), p.max)
	}
	if p.compress && len(body) >= compressFrom {
		if deflated, err := p.deflate(body); err == nil && len(deflated) < len(body) {
			packing, body = packDeflated, deflated
		}
	}
	if len(p.keys) > 0 {
		packing |= packSealed
		if body, err = p.keys[0].seal(id, packing, body); err != nil {
			return 0, nil, err
		}
	}
	if p.most > 0 && int64(len(body)) > p.most {
		return 0, nil, fmt.Errorf("%w: it takes %d bytes, and the server at most %d (MySQL's max_allowed_packet, less what else is in a statement)",
			store.ErrTooLarge, len(body), p.most)
	}
	return packing, body, nil
}

// unpack appends to body what was packed.
func (p *packer) unpack(body []byte, id key, packing int64, items []byte) ([]byte, error) {
	if packing&^(packDeflated|packSealed) != 0 {
		return body, fmt.Errorf("its packing is %d, which a newer version has made", packing)
	}
	if packing&packSealed != 0 {
		var err error
		if items, err = p.open(id, packing, items); err != nil {
			return body, err
		}
	}
	if packing&packDeflated == 0 {
		return append(body, items...), nil
	}
	// What is stored is not trusted to be small.
	max := int64(p.max)
	if max == 0 {
		max = 1 << 30
	}
	inflated, err := appendAll(body, io.LimitReader(flate.NewReader(bytes.NewReader(items)), max+1))
	switch {
	case err != nil:
		return body, fmt.Errorf("it cannot be inflated: %w", err)
	case int64(len(inflated)-len(body)) > max:
		return body, errors.New("inflated it is larger than Options.MaxBytes")
	}
	return inflated, nil
}

// appendAll appends what r has to dst, where that has room in its own memory.
func appendAll(dst []byte, r io.Reader) ([]byte, error) {
	for {
		if len(dst) == cap(dst) {
			dst = slices.Grow(dst, 512)
		}
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}

func (p *packer) deflate(body []byte) ([]byte, error) {
	var b bytes.Buffer
	w, _ := p.deflater.Get().(*flate.Writer)
	if w == nil {
		var err error
		if w, err = flate.NewWriter(&b, flate.BestSpeed); err != nil {
			return nil, err
		}
	}
	defer p.deflater.Put(w)
	w.Reset(&b)
	if _, err := w.Write(body); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// about is what encrypted content is authenticated with besides: the row that it is of,
// and how it is packed.
func about(id key, packing int64) []byte {
	return binary.BigEndian.AppendUint64(bytes.Clone(id[:]), uint64(packing))
}

// seal returns the number of the key, a nonce, and the content encrypted.
func (k *sealKey) seal(id key, packing int64, body []byte) ([]byte, error) {
	n := k.aead.NonceSize()
	sealed := make([]byte, keyNumberSize+n, keyNumberSize+n+len(body)+k.aead.Overhead())
	copy(sealed, k.number[:])
	nonce := sealed[keyNumberSize:]
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return k.aead.Seal(sealed, nonce, body, about(id, packing)), nil
}

// open undoes seal.
func (p *packer) open(id key, packing int64, sealed []byte) ([]byte, error) {
	if len(sealed) < keyNumberSize {
		return nil, errors.New("it is too short to be encrypted")
	}
	for _, k := range p.keys {
		if !bytes.Equal(k.number[:], sealed[:keyNumberSize]) {
			continue
		}
		rest := sealed[keyNumberSize:]
		if len(rest) < k.aead.NonceSize() {
			return nil, errors.New("it is too short to be encrypted")
		}
		body, err := k.aead.Open(nil, rest[:k.aead.NonceSize()], rest[k.aead.NonceSize():], about(id, packing))
		if err != nil {
			return nil, errors.New("it cannot be decrypted: it was changed, or is another session's")
		}
		return body, nil
	}
	return nil, fmt.Errorf("it is encrypted with a key that is not in Options.Keys (number %x)", sealed[:keyNumberSize])
}
