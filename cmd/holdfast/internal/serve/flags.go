package serve

import (
	"net/netip"

	"github.com/spf13/pflag"
)

// Networks is a flag that lists networks and addresses in value.
func Networks(value *[]netip.Prefix) pflag.Value { return &prefixes{value} }

// Percent is the share that z is of what there is, or 0 if it is a number of bytes or
// no limit.
func (z Size) Percent() float64 { return z.percent }

// Bytes is the number of bytes that z is, or 0 if it is a share or no limit.
func (z Size) Bytes() int64 { return z.bytes }
