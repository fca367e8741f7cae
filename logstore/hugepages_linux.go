package logstore

import (
	"syscall"
	"unsafe"
)

const (
	hugePage     = 2 << 20
	madvHugepage = 14 // MADV_HUGEPAGE, which package syscall lacks on some architectures
)

// wantHugePages asks the kernel to back a piece of memory with large pages. Sessions
// are at places that no cache can foresee: with millions of them and pages of 4 KiB,
// finding the page costs as much as the memory does. The large pages that the piece
// begins and ends in are meant too, so it should be one of many. It is a wish, and no
// error if it is not granted.
func wantHugePages[T any](piece []T) {
	if len(piece) == 0 {
		return
	}
	size := uintptr(len(piece)) * unsafe.Sizeof(piece[0])
	from := uintptr(unsafe.Pointer(&piece[0]))
	to := (from + size + hugePage - 1) &^ (hugePage - 1)
	from &^= hugePage - 1
	_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, from, to-from, madvHugepage)
}
