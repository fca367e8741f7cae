package items

import "strings"

// A byte array is the one BinaryFormatter stream that this package writes, and
// the only one it looks into ([MS-NRBF] 2.4.3.3, ArraySinglePrimitive):
//
//	00  01000000 FFFFFFFF 01000000 00000000   header: root 1, version 1.0
//	0F  01000000 length 02                    array: object 1, int32, of Byte
//	    the bytes
//	0B                                        end
const (
	streamHead  = "\x00\x01\x00\x00\x00\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00"
	recordHead  = streamHead + "\x0f\x01\x00\x00\x00"
	primitive   = 2 // Byte, in PrimitiveTypeEnumeration
	messageEnd  = 0x0b
	recordSize  = len(recordHead) + 4 + 1 + 1
	contentFrom = len(recordHead) + 4 + 1
)

// byteArray in Value.num says that ref is the content of a byte array and not a
// whole stream: 28 bytes less to keep for each value, and nothing to look for
// when it is read.
const byteArray = 1

// appendRecord appends the stream of a byte array.
func appendRecord(dst []byte, content string) []byte {
	n := len(content)
	dst = append(dst, recordHead...)
	dst = append(dst, byte(n), byte(n>>8), byte(n>>16), byte(n>>24), primitive)
	dst = append(dst, content...)
	return append(dst, messageEnd)
}

// cutRecord returns the content of a byte array's stream, and false if it is
// any other stream.
func cutRecord(s string) (content string, ok bool) {
	n := len(s) - recordSize
	if n < 0 || !strings.HasPrefix(s, recordHead) || s[contentFrom-1] != primitive || s[len(s)-1] != messageEnd {
		return "", false
	}
	if uint64(le32(s[len(recordHead):])) != uint64(n) {
		return "", false
	}
	return s[contentFrom : contentFrom+n], true
}
