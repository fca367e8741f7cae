// Package items holds a session's values and their bytes.
//
// A session's body is ASP.NET's stored item, so that Go and ASP.NET
// applications can share sessions:
//
//	int32   timeout in minutes
//	bool    has items
//	bool    has static objects
//	        items: count, index of the null key, keys, end offsets, values
//	        static objects, kept as they came
//	0xFF    end mark
//
// All integers are little-endian; strings are UTF-8 behind a length of 7-bit
// groups, lowest first, as .NET's BinaryWriter writes them. Each value is one
// type code and its payload ([Code]), the form that .NET's AltSerialization
// writes. The layout of the body is in [MS-ASP] section 2.2.2.4 and .NET's
// SessionStateUtility; that of objects (code 20) is [MS-NRBF].
//
// [Item] is such a body, indexed but not decoded: values are read one by one
// when asked for, and those that were not replaced are written back byte for
// byte, whether this package can read them or not.
//
// [Value] is one item's value in memory. [Codec] converts between a Go type
// and a Value, and finds out when the program starts whether the type would
// survive leaving the process.
//
// # How Go types are stored
//
//	bool                          Boolean
//	int8 int16 int32 int64        SByte Int16 Int32 Int64
//	uint8 uint16 uint32 uint64    Byte UInt16 UInt32 UInt64
//	int, uint                     Int32, UInt32 where the value fits, else Int64, UInt64
//	float32 float64               Single Double
//	string                        String
//	time.Time                     DateTime: UTC, 100 ns, years 1 to 9999
//	time.Duration                 TimeSpan: 100 ns
//	Decimal, GUID                 Decimal, Guid
//	[]byte                        Object: BinaryFormatter's record of a byte array
//	pointer to one of these       Null if nil, else as what it points to
//	everything else               Null if nil, else Object: CBOR in a byte array
//
// Named types of these kinds (type Count int) are stored as their kind.
// Reading is lenient where nothing is lost: an integer of any width is read
// into any integer type that holds it, Char into rune and string, Single into
// float64, and Null into the zero value of any type.
//
// CBOR is RFC 8949's core deterministic encoding with times as RFC 3339 in UTC
// with nanoseconds. It starts with the magic of RFC 8949 section 3.4.6, which
// tells it from a plain byte array. An ASP.NET application that enumerates and
// saves the session sees a byte array and carries it along.
//
// CBOR has one null. So a pointer to a nil slice, map or pointer, and a pointer
// to the zero time.Time inside a larger value, come back as a nil pointer. Nil
// and empty slices and maps are told apart.
package items
