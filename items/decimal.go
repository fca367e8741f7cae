package items

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// maxScale is the most digits a Decimal has behind its point.
const maxScale = 28

// Decimal is .NET's decimal: a whole number of up to 96 bits, a sign, and how
// many of its digits stand behind the point, at most 28. It keeps that scale:
// 1.50 and 1.5 are the same number, but not == each other. The zero Decimal is 0.
//
// It carries money between Go and .NET and does no arithmetic; a package for
// that can be had at by [Decimal.String] and [ParseDecimal]. Inside larger
// values it is stored as its text.
type Decimal struct {
	lo, mid, hi uint32
	scale       uint8
	neg         bool
}

// NewDecimal returns n divided by 10 to the power of scale: NewDecimal(1234, 2)
// is 12.34. It panics if scale is not from 0 to 28.
func NewDecimal(n int64, scale int) Decimal {
	if scale < 0 || scale > maxScale {
		panic(fmt.Sprintf("items: a Decimal's scale is from 0 to %d, not %d", maxScale, scale))
	}
	u := uint64(n)
	if n < 0 {
		u = -u
	}
	return Decimal{lo: uint32(u), mid: uint32(u >> 32), scale: uint8(scale), neg: n < 0}
}

// ParseDecimal reads what [Decimal.String] writes: digits, perhaps a sign before
// them and a point among them. The digits behind the point are the scale. It
// fails where .NET's decimal would have to round.
func ParseDecimal(s string) (Decimal, error) {
	var d Decimal
	digits := s
	switch {
	case strings.HasPrefix(s, "-"):
		d.neg, digits = true, s[1:]
	case strings.HasPrefix(s, "+"):
		digits = s[1:]
	}
	whole, fraction, point := strings.Cut(digits, ".")
	if whole == "" || point && fraction == "" {
		return Decimal{}, fmt.Errorf("items: %q is no decimal number; write it as -12.34", s)
	}
	if len(fraction) > maxScale {
		return Decimal{}, fmt.Errorf("items: %q has more than the %d digits a Decimal keeps behind the point; round it first", s, maxScale)
	}
	d.scale = uint8(len(fraction))
	for _, part := range [2]string{whole, fraction} {
		for i := range len(part) {
			if part[i] < '0' || part[i] > '9' {
				return Decimal{}, fmt.Errorf("items: %q is no decimal number; write it as -12.34", s)
			}
			if !d.push(part[i] - '0') {
				return Decimal{}, fmt.Errorf("items: %q has more digits than the 96 bits of a Decimal hold; round it first", s)
			}
		}
	}
	return d, nil
}

// push appends one digit to the number and reports whether it still fits.
func (d *Decimal) push(digit byte) bool {
	carry := uint64(digit)
	for _, limb := range [3]*uint32{&d.lo, &d.mid, &d.hi} {
		carry += uint64(*limb) * 10
		*limb = uint32(carry)
		carry >>= 32
	}
	return carry == 0
}

// String returns the number with all digits of its scale, as -12.30.
func (d Decimal) String() string {
	var buf [40]byte // sign, 29 digits, point, and zeros before a long scale
	i := len(buf)
	for n := 0; n <= int(d.scale) || d.lo|d.mid|d.hi != 0; n++ {
		if n == int(d.scale) && n > 0 {
			i--
			buf[i] = '.'
		}
		i--
		buf[i] = '0' + d.pop()
	}
	if d.neg {
		i--
		buf[i] = '-'
	}
	return string(buf[i:])
}

// pop takes the last digit off the number.
func (d *Decimal) pop() byte {
	var rest uint64
	for _, limb := range [3]*uint32{&d.hi, &d.mid, &d.lo} {
		rest = rest<<32 | uint64(*limb)
		*limb = uint32(rest / 10)
		rest %= 10
	}
	return byte(rest)
}

// MarshalText returns [Decimal.String].
func (d Decimal) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is [ParseDecimal].
func (d *Decimal) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDecimal(string(text))
	return err
}

// A Decimal's payload is what decimal.GetBits returns: the number's three words,
// lowest first, then the flags, which hold the scale and the sign.
const (
	signBit    = 1 << 31
	scaleShift = 16
)

// bits returns the payload of d.
func (d Decimal) bits() string {
	flags := uint32(d.scale) << scaleShift
	if d.neg {
		flags |= signBit
	}
	var b [16]byte
	binary.LittleEndian.PutUint32(b[0:], d.lo)
	binary.LittleEndian.PutUint32(b[4:], d.mid)
	binary.LittleEndian.PutUint32(b[8:], d.hi)
	binary.LittleEndian.PutUint32(b[12:], flags)
	return string(b[:])
}

// validDecimal reports whether .NET would take the payload.
func validDecimal(p string) bool {
	flags := le32(p[12:])
	return flags&^(signBit|0xff<<scaleShift) == 0 && flags>>scaleShift&0xff <= maxScale
}

// decimalOfBits reads a valid payload.
func decimalOfBits(p string) Decimal {
	flags := le32(p[12:])
	return Decimal{
		lo: le32(p), mid: le32(p[4:]), hi: le32(p[8:]),
		scale: uint8(flags >> scaleShift), neg: flags&signBit != 0,
	}
}
