package items

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// cborMagic is CBOR's tag 55799 (RFC 8949 3.4.6), which means nothing but that
// CBOR follows.
const cborMagic = "\xd9\xd9\xf7"

// What is written can be read: Encode keeps to the same limits as the decoder.
const (
	// maxDepth is how many pointers, structs, slices, arrays and maps may lie
	// inside each other in a value of a recursive type.
	maxDepth = 1000
	// maxCBOR is the most bytes of one value, and so the most elements of one
	// array or map.
	maxCBOR = 1 << 24
)

var (
	encMode  = newEncMode()
	decMode  = newDecMode(nil)
	textKeys = newDecMode(reflect.TypeFor[map[string]any]())
)

// newEncMode is core deterministic encoding (RFC 8949 4.2.1), so that the same
// value is the same bytes, with text marshalers, which the library leaves out
// by default. JSON marshalers stay out: they say what a browser sees of a value,
// often less than all of it.
func newEncMode() cbor.UserBufferEncMode {
	o := cbor.CoreDetEncOptions()
	o.Time = cbor.TimeRFC3339NanoUTC
	o.TimeTag = cbor.EncTagRequired // Any knows a time by it
	o.TextMarshaler = cbor.TextMarshalerTextString
	m, err := o.UserBufferEncMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return m
}

func newDecMode(mapType reflect.Type) cbor.DecMode {
	m, err := cbor.DecOptions{
		MaxNestedLevels:      maxDepth + 8, // tags count too
		MaxArrayElements:     maxCBOR,
		MaxMapPairs:          maxCBOR,
		IndefLength:          cbor.IndefLengthForbidden,
		UTF8:                 cbor.UTF8DecodeInvalid,
		FieldNameMatching:    cbor.FieldNameMatchingCaseSensitive,
		TextUnmarshaler:      cbor.TextUnmarshalerTextString,
		IntDec:               cbor.IntDecConvertSignedOrBigInt,
		UnrecognizedTagToAny: cbor.UnrecognizedTagContentToAny,
		DefaultMapType:       mapType,
	}.DecMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return m
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// encodeCBOR returns what p points to, behind the magic.
func encodeCBOR(p any) (string, error) {
	buf := buffers.Get().(*bytes.Buffer)
	defer func() {
		if buf.Cap() <= 64<<10 {
			buffers.Put(buf)
		}
	}()
	buf.Reset()
	buf.WriteString(cborMagic)
	if err := encMode.MarshalToBuffer(p, buf); err != nil {
		return "", err
	}
	if buf.Len() > maxCBOR {
		return "", fmt.Errorf("%d bytes are more than the %d that one value may have", buf.Len(), maxCBOR)
	}
	return buf.String(), nil
}

// isCBOR tells the content of a byte array that is CBOR from a plain one.
func isCBOR(content string) bool { return strings.HasPrefix(content, cborMagic) }

// decodeCBOR decodes content, which starts with the magic, into what p points
// to. It hands the decoder a copy: an unmarshaler may keep or change its input,
// and content is shared.
func decodeCBOR(content string, p any) error {
	return decMode.Unmarshal([]byte(content[len(cborMagic):]), p)
}

// decodeAny decodes content into Go's general types.
func decodeAny(content string) (a any, err error) {
	data := []byte(content[len(cborMagic):])
	if textKeys.Unmarshal(data, &a) == nil {
		return a, nil
	}
	a = nil
	err = decMode.Unmarshal(data, &a)
	return a, err
}

// encodeBytes makes the value of a []byte that is not nil. One that starts with the magic goes
// as CBOR, so that nobody takes it for what it is not.
func encodeBytes(b []byte) (Value, error) {
	if len(b) > math.MaxInt32 {
		return Value{}, fmt.Errorf("%d bytes are more than a byte array of .NET has", len(b))
	}
	v := Value{code: CodeObject, num: byteArray}
	if !bytes.HasPrefix(b, []byte(cborMagic)) {
		v.ref = string(b)
		return v, nil
	}
	var err error
	v.ref, err = encodeCBOR(&b)
	return v, err
}
