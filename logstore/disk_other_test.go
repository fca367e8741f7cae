//go:build !linux

package logstore

import "testing"

// tmpfs knows no small file system here; the one in memory does instead.
func tmpfs(*testing.T, int64) []disk { return nil }
