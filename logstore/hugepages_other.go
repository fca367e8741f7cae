//go:build !linux

package logstore

// wantHugePages does nothing where pages cannot be wished for.
func wantHugePages[T any]([]T) {}
