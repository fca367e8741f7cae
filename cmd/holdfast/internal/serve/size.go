package serve

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A Size is an amount of memory or disk: bytes, or a share of what there is. Its zero
// value is no limit.
type Size struct {
	bytes   int64
	percent float64
	text    string // as it was written
}

// units are what a size may be written in. K, M and G alone are not among them: half
// of the world reads them as 1000, half as 1024.
var units = map[string]int64{
	"": 1, "b": 1,
	"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}

const unlimited = "none"

// Set reads s: "512MB" (a thousand thousand), "2GiB" (1024 times 1024 times 1024),
// a number of bytes, "25%", or "none".
func (z *Size) Set(s string) error {
	wrong := fmt.Errorf("%q is no size; write 512MB, 2GiB, 25%% or %s", s, unlimited)
	text := strings.ReplaceAll(s, " ", "")
	if strings.EqualFold(text, unlimited) {
		*z = Size{}
		return nil
	}
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ%")
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(n > 0) || strings.Trim(digits, "0123456789.") != "" {
		return wrong
	}
	unit := strings.ToLower(text[len(digits):])
	if unit == "%" {
		if n > 100 {
			return fmt.Errorf("%q is more than there is; write up to 100%%", s)
		}
		*z = Size{percent: n, text: text}
		return nil
	}
	factor, ok := units[unit]
	if !ok {
		return wrong
	}
	if n *= float64(factor); n < 1 || n >= math.MaxInt64 {
		return wrong
	}
	*z = Size{bytes: int64(n), text: text}
	return nil
}

// String returns what Set reads.
func (z *Size) String() string {
	if z.text == "" {
		return unlimited
	}
	return z.text
}

// Type is what the usage calls it.
func (z *Size) Type() string { return "size" }

// Of returns the bytes; whole tells what a share is of. No limit is 0.
func (z Size) Of(whole func() (int64, error)) (int64, error) {
	if z.percent == 0 {
		return z.bytes, nil
	}
	n, err := whole()
	if err != nil {
		return 0, err
	}
	return max(1, int64(float64(n)*z.percent/100)), nil
}
